"""An export as StableHLO, run by its own runner in a Python that does not import us, says what our decoder says."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import tiny_run
from jax import export as exporting

from ieat_jax.inference.generator import Generator, Limits
from ieat_jax.inference.prompt import PromptBuilder, UserTurn
from ieat_jax.interop.export import export
from ieat_jax.text.chat import ChatFormat

DIALOGUES = [
    [UserTurn(text="I lost my keys.")],
    [UserTurn(text="You are kind.", response="I am so sorry."), UserTurn(text="This is sad.")],
    [UserTurn(tiny_run.voice(1, 0.8), text="I lost my keys.")],
    [UserTurn(tiny_run.voice(2, 0.5), response="You are kind."), UserTurn(text="I am sad.")],
]
RUN = """
import json, sys, numpy as np
sys.path.insert(0, sys.argv[1])
import run, speak
weights, said = run.parameters(), []
for case in json.load(open(sys.argv[2])):
    heard = None
    if case["mel"]:
        mel = np.zeros((1, run.SHAPES["frames"], run.SHAPES["mels"]), np.float32)
        mel[0, : len(case["mel"])] = case["mel"]
        heard = run.LISTEN(weights, mel, np.int32([len(case["mel"]) - run.SHAPES["frames_behind"]]))
    made, states = run.reply(weights, case["tokens"], heard, case["place"])
    said.append([made, speak.units(weights, case["tokens"], made, states, case["turn"])])
assert "ieat_jax" not in sys.modules and "flax" not in sys.modules
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def run():
    return tiny_run.make_run()


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exports") / "stablehlo"
    export(run, path, to="stablehlo")
    return path


def test_the_runner_says_what_our_decoder_says(run, folder, tmp_path):
    """Replies without thinking: a random model's thinking does not end by itself."""
    chat = ChatFormat.from_config(run.tokenizer, run.config.chat)
    build = PromptBuilder(chat, run.config.model.listen).build
    cases = []
    for turns in DIALOGUES:
        prompt = build(turns, think=False, speech=False)
        mel = prompt.clips[0].tolist() if prompt.clips else None
        (turn,) = prompt.speech_prefix[:1]  # without a speech system prompt in it, the current turn alone
        case = {"tokens": prompt.tokens.tolist(), "place": prompt.audio_index.tolist(), "mel": mel, "turn": int(turn)}
        cases.append(case)
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    assert all(len((folder / name).read_text().splitlines()) <= 40 for name in ("run.py", "speak.py"))
    command = [sys.executable, "-c", RUN, str(folder), str(tmp_path / "cases.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    generator = Generator.from_run(run, limits=Limits(think=1, response=40, speech_seconds=20.0), batch_size=1)
    banned = {run.tokenizer.token_id(token) for token in ("<think>", "</think>", "<|im_start|>")}
    compared, spoken = 0, 0
    for turns, (tokens, units) in zip(DIALOGUES, said, strict=True):
        reply = generator.reply([turns], think=False, speech="units")[0]
        ours = reply.tokens
        until = next((at for at, token in enumerate(tokens) if token in banned), len(tokens))
        until = min(until, len(ours))
        assert tuple(tokens[:until]) == ours[:until]
        compared += until
        # Speak reads one token a group: as far as the words are the same, so are the units.
        same = len(reply.units) if tokens == list(ours) else min(4 * (until - 1), len(reply.units))
        assert units[:same] == reply.units[:same].tolist()
        spoken += same
    assert compared >= 20
    assert spoken >= 40


def test_programs_are_for_every_platform_and_any_number_of_rows(folder):
    shapes = json.loads((folder / "shapes.json").read_text())
    programs = {name: exporting.deserialize(bytearray((folder / f"{name}.bin").read_bytes())) for name in
                ("listen", "prefill", "step", "speak")}  # fmt: skip
    assert {program.platforms for program in programs.values()} == {("cpu", "cuda", "tpu")}
    listen = programs["listen"]
    for rows in (1, 3):
        mel = np.random.default_rng(0).normal(size=(3, shapes["frames"], shapes["mels"])).astype(np.float32)[:rows]
        weights = {name: np.zeros(shape.shape, shape.dtype) for name, shape in zip(
            sorted(json.loads(_header(folder / "parameters.safetensors"))), listen.in_avals, strict=False)}  # fmt: skip
        heard = jax.jit(listen.call)(weights, mel, np.int32([50] * rows))
        assert heard.shape == (rows, shapes["heard"], shapes["width"])


def _header(file):
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.dumps({name: item for name, item in header.items() if name != "__metadata__"})
