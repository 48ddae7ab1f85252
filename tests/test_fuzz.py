"""Every kind of file that users give, with one bit or one character changed: it is read, or refused in a sentence.

FUZZ=200,60 for the long one. Files whose content is checked (`identity` is not None) are not read as another content.
The folder of a run has such a test of its own: tests/runs/test_folder.py.
"""

import collections
import dataclasses
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import transformers
from helpers.damage import amount, damages, outcome
from helpers.llm_folders import reference
from helpers.tiny_stages import buzz, recipe, start, use_mesh, write_corpus

from ieat_jax import evaluate, prepare, train
from ieat_jax.audio.files import read_audio
from ieat_jax.codecs.load import load_codec
from ieat_jax.config.recipes import typed
from ieat_jax.errors import UserError
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.interop.families.whisper import load_whisper
from ieat_jax.model.config import ModelConfig, SpeakConfig
from ieat_jax.objectives.own import Forward, own_losses
from ieat_jax.preparation.units import encode_files
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import load_tokenizer


@dataclasses.dataclass(frozen=True)
class Kind:
    """Files of one kind, and what users do with them."""

    files: tuple[Path, ...]  # that are damaged, one at a time
    use: Callable[[], Any]  # the function that the command calls -> what it made of them, comparable
    identity: Callable[[Any], Any] | None = None  # of what was made: where it is the same, so is all of it
    slow: int = 1  # as many times fewer are tried
    mends: bool = False  # what is damaged is left out and made anew, so that the result is always the same


SAID = ["I lost my keys.", "我丢了钥匙。", "The user feels sad."]


def recipes(folder):
    file = folder / "recipe.py"
    lines = ["from ieat_jax.config.defaults import get_defaults, source", "def get_config(arg='align'):"]
    lines += ["    config = get_defaults()", "    config.stage = arg", "    config.train.steps = 20"]
    lines += [
        "    config.data.sources.mine = source('train.jsonl', weight=0.5)",
        "    config.optimizer.rules = (('.*', 1.0),)",
    ]
    lines += ["    config.model.llm.width, config.init.checkpoint = 64, 'runs/write'", "    return config"]
    file.write_text("\n".join(lines) + "\n")
    return Kind((file,), lambda: train.main(["--config", str(file), "--show-config"]))


def losses(folder):
    file = folder / "mine.py"
    file.write_text("import jax.numpy as jnp\n\n\ndef calm(model, batch, forward):\n    return jnp.float32(1), 2.0\n")
    settings = typed(recipe(folder, "write", objective__extra=((f"{file}:calm", 0.1),))).objective
    return Kind((file,), lambda: own_losses(settings, "align", ())[0]["calm"](None, None, Forward()) and None)


def records(folder):
    write_corpus(folder, records=4)
    command = ["check", "--records", str(folder / "train.jsonl"), "--max-bad-share", "0"]

    def use():
        if code := prepare.main(command):
            raise UserError(f"told line by line, and exit code {code}")

    return Kind((folder / "train.jsonl",), use)


def prepared_records(folder):
    """The records that training reads, through tokenizer and thinking."""
    write_corpus(folder, records=4)
    out = folder / "tokenizer2"
    command = ["tokenizer", "--records", str(folder / "train.jsonl"), "--out", str(out), "--vocab-size", "300"]
    return Kind((folder / "train.jsonl",), lambda: prepare.main(command))


def sounds(folder):
    rng, sound = np.random.default_rng(0), buzz(1, 0.2)
    files = [folder / f"sound.{ending}" for ending in ("wav", "flac", "ogg", "mp3")]
    for file in files:
        soundfile.write(file, sound, 16000)
    soundfile.write(folder / "stereo.wav", rng.normal(size=(8820, 2)) / 9, 44100, subtype="FLOAT")

    def use():
        for file in [*files, folder / "stereo.wav"]:
            assert np.isfinite(read_audio(file, max_seconds=30)).all()

    return Kind((*files, folder / "stereo.wav"), use)


def codecs(folder):
    write_corpus(folder, records=1)

    def use():
        codec = load_codec(folder / "codec")
        units = codec.encode(buzz(3, 0.2))
        return codec.identity(), units.tobytes(), codec.decode(units).tobytes()

    files = tuple(file for file in (folder / "codec").iterdir() if file.is_file())
    return Kind(files, use, identity=lambda made: made[0])


def journals(folder):
    """What `prepare units` keeps of work that was cut off."""
    write_corpus(folder, records=6)
    names = sorted(path.name for path in folder.glob("*.wav"))
    journal = folder / "journal.jsonl"

    def use():
        before = journal.read_bytes() if journal.exists() else b""
        found = encode_files(names, folder, folder / "codec", workers=1, journal=journal)
        made = [(file, np.asarray(units).tobytes()) for file, units in found]
        journal.write_bytes(before or journal.read_bytes())
        return made

    use()
    return Kind((journal,), use, mends=True)


def tokenizers(folder):
    write_corpus(folder, records=1)

    def use():
        tokenizer = load_tokenizer(folder / "tokenizer")
        ChatFormat(tokenizer, thinks=True, system_text="You are kind.")
        return [tokenizer.decode(tokenizer.encode(text)) for text in SAID]

    return Kind((folder / "tokenizer/tokenizer.json",), use)


def sentencepieces(folder):
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder / "text").write_text("\n".join(SAID * 9))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "tokenizer"), vocab_size=32, hard_vocab_limit=False,
        user_defined_symbols=["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<audio>"], minloglevel=2,
    )  # fmt: skip

    def use():
        tokenizer = load_tokenizer(folder / "tokenizer.model")
        return [tokenizer.decode(tokenizer.encode(text)) for text in SAID]

    return Kind((folder / "tokenizer.model",), use)


def llms(folder):
    made = folder / "llm"
    reference("llama untied").save_pretrained(made)

    def use():
        llm = load_llm(str(made))
        weights = dict(llm.weights(ModelConfig(llm=llm.config, speak=SpeakConfig(enabled=False, freeze_layer=0))))
        assert all(np.isfinite(each).all() for each in weights.values())

    return Kind(tuple(made.glob("*.*")), use)


def sharded_llms(folder):
    made = folder / "llm"
    reference("qwen2").save_pretrained(made, max_shard_size="60KB")

    def use():
        llm = load_llm(str(made))
        dict(llm.weights(ModelConfig(llm=llm.config, speak=SpeakConfig(enabled=False, freeze_layer=0))))

    return Kind((made / "model.safetensors.index.json",), use)


def whispers(folder):
    made = folder / "whisper"
    sizes = {"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32}
    sizes |= {"decoder_ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 51865, "num_mel_bins": 80}
    transformers.WhisperModel(transformers.WhisperConfig(**sizes, max_source_positions=50)).save_pretrained(made)
    return Kind(
        (made / "config.json", made / "model.safetensors"), lambda: len(dict(load_whisper(str(made)).weights()))
    )


def scores(folder):
    scored = folder / "scored"
    (scored / "samples").mkdir(parents=True)
    for name in ("heard", "said"):
        soundfile.write(scored / f"samples/d1_1_{name}.wav", buzz(1, 0.1), 16000)
    emotion = {"uar": 0.5, "low": 0.4, "high": 0.6, "chance": 1 / 3, "n": 6}
    emotion |= {"classes": ["neutral", "happy", "sad"], "confusion": [[2, 0, 0, 0], [0, 1, 0, 1], [0, 2, 0, 0]]}
    metrics = {"step": 10, "n": 6, "emotion": emotion, "units": {"accuracy": 0.2, "unigram": 0.05, "n": 100}}
    (scored / "metrics.json").write_text(json.dumps(metrics))
    prediction = {
        "dialogue_id": "d1", "turn_id": 1, "gold_emotion": "happy", "predicted_emotion": "sad", "transcript": SAID[0],
        "think": SAID[2], "text": "Oh no.", "think_closed": True, "reference_text": "Great!",
        "sample": {"heard": "samples/d1_1_heard.wav", "said": "samples/d1_1_said.wav"},
    }  # fmt: skip
    (scored / "predictions.jsonl").write_text(json.dumps(prediction) + "\n")
    lines = [{"step": step, "loss": 3.0 / (step + 1), "learning_rate": 0.1} for step in range(3)]
    (scored / "training.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = ["report", "--runs", f"a={scored}", "--out", str(folder / "report.html")]
    return Kind(tuple(file for file in scored.rglob("*") if file.is_file()), lambda: evaluate.main(command))


def whole_runs(folder):
    """What a run writes beside its protected files, when it goes on."""
    write_corpus(folder, records=8)
    config = recipe(folder, "write", train__steps=1, train__log_every=1)
    use_mesh(1, 1, 1, 1)
    start(config, folder / "run")
    (folder / "run/quarantine.jsonl").touch()

    def use():
        start(config, folder / "run")

    return Kind((folder / "run/metrics.jsonl", folder / "run/manifest.json", folder / "run/handover.json"), use, slow=4)


KINDS = {
    each.__name__: each
    for each in (
        recipes, losses, records, prepared_records, sounds, codecs, journals, tokenizers, sentencepieces, llms,
        sharded_llms, whispers, scores, whole_runs,
    )
}  # fmt: skip


@pytest.fixture(autouse=True)
def usual_mesh():
    yield
    use_mesh()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = KINDS[kind](tmp_path)
    flips, edits = amount(24, 12)
    end, whole = outcome(made.use)
    assert end == "done", whole
    ends, faults = collections.Counter(), []
    for place, file in enumerate(made.files):
        content = file.read_bytes()
        share = made.slow * len(made.files)
        for what, damaged in damages(content, -(-flips // share), -(-edits // share), seed=place):
            file.write_bytes(damaged)
            try:
                end, found = outcome(made.use)
            except BaseException as error:
                trace = "".join(traceback.format_exception(error)[-4:])
                faults.append(f"{file.name}: {what}: {type(error).__name__}: {error}\n{trace}")
                continue
            ends[end] += 1
            if end == "refused":
                if not found.strip() or "Traceback" in found or made.mends:
                    faults.append(f"{file.name}: {what}: told {found!r}")
            elif made.mends and found != whole:
                faults.append(f"{file.name}: {what}: another result")
            elif made.identity and made.identity(found) == made.identity(whole) and found != whole:
                faults.append(f"{file.name}: {what}: another content of the same identity")
        file.write_bytes(content)
    print(kind, dict(ends))
    assert not faults, f"{len(faults)} of {ends.total() + len(faults)}:\n" + "\n".join(faults[:8])
    assert ends["done" if made.mends else "refused"], "nothing was noticed"
