"""An exported run, read by transformers and by ourselves."""

import dataclasses
import errno
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from helpers import tiny_run
from safetensors.numpy import load_file

import ieat_jax.interop.open as open_module
from ieat_jax.export import main
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.export import export
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.interop.families.whisper import load_whisper
from ieat_jax.interop.formats import huggingface
from ieat_jax.model.config import LoraConfig
from ieat_jax.model.names import named_leaves
from ieat_jax.model.sight import Sight
from ieat_jax.version import __version__

ADAPTED = dataclasses.replace(tiny_run.CONFIG, lora=LoraConfig(rank=2, alpha=3.0, pattern=r"(think|write)\.layers\..*"))
TOKENS = np.random.default_rng(0).integers(0, 300, (2, 20)).astype(np.int32)


@pytest.fixture(scope="module")
def run():
    return tiny_run.make_run(sizes=ADAPTED, model=tiny_run.random_model(ADAPTED))


def logits(model):
    def compute(model):
        stream = Sight.plain(jnp.ones(TOKENS.shape, bool))
        return model.text_logits(model.write(model.think(TOKENS, stream), stream))

    return np.asarray(jax.jit(compute)(model))


def transformers_logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS).long()).logits.float().numpy()


def test_transformers_computes_what_the_model_with_lora_computes(run, tmp_path):
    counts = export(run, tmp_path / "out")
    assert len(load_file(tmp_path / "out" / "llm" / "model.safetensors")) == counts["llm"]
    expected = logits(run.model)
    assert np.abs(transformers_logits(tmp_path / "out" / "llm") - expected).max() <= 1e-4 * np.abs(expected).max()
    assert any(".lora_b" in name for name in named_leaves(run.model))  # the run itself keeps its LoRA


def test_tokenizer_and_end_of_turn(run, tmp_path):
    export(run, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out" / "llm")
    text = "The user feels sad. I lost my keys."
    assert theirs(text, add_special_tokens=False).input_ids == run.tokenizer.encode(text)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out" / "llm")
    assert theirs.convert_ids_to_tokens(config.eos_token_id) == "<|im_end|>"


def test_every_parameter_is_somewhere_and_unchanged(run, tmp_path):
    counts = export(run, tmp_path / "out")
    before = {name: np.asarray(leaf) for name, leaf in named_leaves(run.model).items() if ".lora_" not in name}
    encoder = load_whisper(str(tmp_path / "out" / "whisper"))
    assert encoder.config == ADAPTED.listen.encoder
    speech = load_file(tmp_path / "out" / "speech.safetensors")
    llm = load_llm(str(tmp_path / "out" / "llm"))
    assert llm.config == dataclasses.replace(ADAPTED.llm, context_length=320)  # of the rows it trained on
    plain = dataclasses.replace(ADAPTED, lora=LoraConfig())
    after = dict(encoder.weights()) | dict(llm.weights(plain)) | speech
    assert after.keys() - {name for name in after if name.startswith("speak.")} <= before.keys() <= after.keys()
    assert counts["speech.safetensors"] == len(speech)
    for name, array in before.items():
        adapted = name.startswith(("think.layers.", "write.layers.")) and name.endswith(".kernel")
        assert np.array_equal(after[name], array) != adapted, name
    assert json.loads((tmp_path / "out" / "ieat.json").read_text())["model"]["lora"]["rank"] == 0


def test_the_manifest_tells_run_step_version_codec_and_every_file(run, tmp_path):
    export(run, tmp_path / "out", dtype="bfloat16")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["about"] == {
        "run": "run", "step": 5, "stage": "joint", "version": __version__, "codec": tiny_run.StubCodec().identity(),
        "lora_merged": True, "format": "huggingface", "dtype": "bfloat16",
    }  # fmt: skip
    files = {str(file.relative_to(tmp_path / "out")): file for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert manifest["files"].keys() == files.keys() - {"manifest.json"}
    for name, (written,) in manifest["files"].items():
        content = files[name].read_bytes()
        assert written == f"{len(content)} {hashlib.sha256(content).hexdigest()}"


def test_bfloat16(run, tmp_path):
    export(run, tmp_path / "out", dtype="bfloat16")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "llm")
    assert model.dtype == torch.bfloat16
    expected = logits(run.model)
    assert np.abs(transformers_logits(tmp_path / "out" / "llm") - expected).mean() <= 0.05 * np.abs(expected).mean()


def test_the_command_says_what_it_wrote(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(open_module, "open_run", lambda path, step=None: run)
    assert main(["--checkpoint", "run", "--out", str(tmp_path / "out")]) == 0
    assert f"wrote {tmp_path / 'out' / 'llm'}: 21 tensors" in capsys.readouterr().out


def test_mistakes_are_told_and_leave_nothing(run, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(InteropError, match="exists already"):
        export(run, tmp_path / "out")
    with pytest.raises(InteropError, match="'float16' is not one of huggingface; it has float32, bfloat16"):
        export(run, tmp_path / "new", dtype="float16")
    with pytest.raises(InteropError, match="format 'onnx' is unknown; known: huggingface"):
        export(run, tmp_path / "new", to="onnx")
    monkeypatch.setattr(huggingface, "write_json", full_disk)
    with pytest.raises(OSError, match="full"):
        export(run, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def full_disk(*_):
    raise OSError(errno.ENOSPC, "the disk is full")
