"""Weights of the hub: huggingface_hub itself, against a hub on loopback; offline; and what cannot be had."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
from helpers import tiny_run
from helpers.fake_hub import COMMIT, TOKEN, fake_hub
from helpers.llm_folders import folder, model_config  # noqa: F401

from ieat_jax.errors import UserError
from ieat_jax.interop import hub as module
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.export import export
from ieat_jax.interop.families.audio_llm import load_listen
from ieat_jax.interop.families.goat_slm import load_speak
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.interop.open import open_run
from ieat_jax.model.config import EncoderConfig
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import load_run
from ieat_jax.text.tokenizer import train_tokenizer

JUNK = ("pytorch_model.bin", "model.fp32.safetensors", "tf_model.h5", "flax_model.msgpack", "original/params.json",
        "onnx/model.onnx", "README.md")  # fmt: skip
ENCODER = EncoderConfig(num_layers=2, width=16, num_heads=2, mlp_width=32, num_mels=80, max_positions=50)


@pytest.fixture(scope="module")
def repositories(folder, tmp_path_factory):  # noqa: F811
    """{ORG/NAME: folder}: as LLMs, Whispers and exports lie on the hub, beside files that nobody needs."""
    root = tmp_path_factory.mktemp("hub")
    found = {"tiny/one": folder("llama"), "tiny/shards": folder("qwen3", max_shard_size="30KB")}
    made = {name: shutil.copytree(path, root / name) for name, path in found.items()}
    for path in made.values():
        train_tokenizer(["I lost my keys. I am so sorry to hear that."] * 3, 290).save(path)
        for junk in JUNK:
            (path / junk).parent.mkdir(exist_ok=True)
            (path / junk).write_bytes(b"junk")
    made["secret/llm"] = made["tiny/one"]
    made["tiny/pickle"] = root / "pickle"
    made["tiny/pickle"].mkdir()
    shutil.copy(made["tiny/one"] / "config.json", made["tiny/pickle"])
    (made["tiny/pickle"] / "pytorch_model.bin").write_bytes(b"\x80\x02")
    export(load_run(tiny_run.save_run(root / "run")), root / "export")
    made["tiny/export"], made["tiny/whisper"] = root / "export", root / "export/whisper"
    listen = dataclasses.replace(tiny_run.CONFIG.listen, encoder=ENCODER, layer_mix="last")
    goat = dataclasses.replace(tiny_run.CONFIG, listen=listen)
    goat = dataclasses.replace(goat, llm=dataclasses.replace(goat.llm, qk_norm=True))
    export(tiny_run.make_run(sizes=goat, model=tiny_run.random_model(goat)), root / "goat", to="goat_slm")
    made["tiny/goat"] = root / "goat"
    return made


@pytest.fixture
def served(repositories, tmp_path, monkeypatch):
    """The hub, and a cache of this test."""
    module._fetched.cache_clear()
    with fake_hub(repositories, private=("secret/llm",)) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)  # of HF_ENDPOINT, which is read once
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub
    module._fetched.cache_clear()


@pytest.mark.parametrize("name", ["tiny/one", "tiny/shards"])
@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_an_llm_of_the_hub_is_that_of_its_folder(served, repositories, name, revision):
    ours, theirs = load_llm(f"hf:{name}{revision}"), load_llm(str(repositories[name]))
    assert ours.config == theirs.config
    config = model_config(ours.config)
    wanted = dict(theirs.weights(config))
    for key, array in ours.weights(config):
        np.testing.assert_array_equal(array, wanted.pop(key), err_msg=key)
    assert not wanted
    assert ours.tokenizer().encode("I lost my keys.") == theirs.tokenizer().encode("I lost my keys.")
    there = {file.name for file in repositories[name].iterdir() if file.is_file()}
    assert served.fetched() == there - set(JUNK)


def test_it_is_fetched_once_and_kept_for_the_time_without_a_network(served, monkeypatch):
    load_llm("hf:tiny/shards@main")
    asked = len(served.requests)
    load_llm("hf:tiny/shards@main")
    assert len(served.requests) == asked  # a branch that moves during a run does not change the run
    module._fetched.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    llm = load_llm("hf:tiny/shards@main")
    assert dict(llm.weights(model_config(llm.config)))
    assert len(served.requests) == asked


def test_a_whisper_and_a_whole_run(served, repositories):
    whisper = load_listen("hf:tiny/whisper")
    assert whisper.config == tiny_run.CONFIG.listen.encoder
    assert dict(whisper.weights())
    path = module.weights_path("hf:tiny/export@main", "config.init.checkpoint")
    ours, theirs = open_run(path), open_run(repositories["tiny/export"])
    found = named_leaves(ours.model)
    for name, array in named_leaves(theirs.model).items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(array), err_msg=name)
    assert ours.codec.identity() == theirs.codec.identity()


def test_a_goat_slm_hears_writes_and_speaks(served, repositories):
    """Its three doors: config.init.whisper, init.llm and init.speak."""
    spec, path = "hf:tiny/goat@main", str(repositories["tiny/goat"])
    listen, speak = load_listen(spec).listen, load_speak(spec).goat
    config = dataclasses.replace(tiny_run.CONFIG, listen=listen, llm=load_llm(spec).config, speak=speak.speak)
    for load, sizes in ((load_listen, listen), (load_llm, config), (load_speak, config)):
        wanted = dict(load(path).weights(sizes))
        for key, array in load(spec).weights(sizes):
            np.testing.assert_array_equal(array, wanted.pop(key), err_msg=key)
        assert not wanted


def test_a_private_repository_wants_a_token(served, monkeypatch):
    with pytest.raises(InteropError, match=r"no such repository, or it is private .*hf auth login, or HF_TOKEN"):
        load_llm("hf:secret/llm")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert load_llm("hf:secret/llm").config


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("hf:tiny/none@main", "no such repository"),
        ("hf:tiny/one@v9", "no revision 'v9'"),
        ("hf:tiny/pickle", r"has no model\.safetensors; only safetensors are read, never PyTorch's pickles"),
        ("hf:one", "named hf:ORG/NAME@REVISION"),
        ("hf:", "named hf:ORG/NAME@REVISION"),
        ("hf://tiny/one", "named hf:ORG/NAME@REVISION"),
        ("hf:a/../b", "named hf:ORG/NAME@REVISION"),
        ("hf:tiny/..", "cannot be fetched"),
        ("hf:tiny/one@../../x", "revision|cannot be fetched"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(served, spec, words):
    for load in (load_llm, load_listen, load_speak):
        with pytest.raises(UserError, match=words) as told:
            load(spec)
        assert "\n" not in str(told.value)
        assert "Traceback" not in str(told.value)


@pytest.mark.parametrize("why", ["offline", "no network", "cut off"])
def test_without_the_hub_it_says_how_to_give_a_folder(served, tmp_path, monkeypatch, why):
    if why == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    elif why == "no network":
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    else:  # the tensors never arrived
        load_llm("hf:tiny/shards")
        module._fetched.cache_clear()
        next((tmp_path / "cache").rglob("model-00002*.safetensors")).unlink()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InteropError) as told:
        load_llm("hf:tiny/shards")
    assert "the hub cannot be reached, and its cache on this machine does not hold all of it" in str(told.value)
    assert "hf download tiny/shards --revision" in str(told.value)
    assert "--local-dir FOLDER), and give FOLDER instead" in str(told.value)


def test_commands_read_the_environment_and_end_with_2(served, tmp_path):
    """A real process: HF_ENDPOINT and HF_HOME alone lead to the hub; a refusal writes nothing."""
    record = {"dialogue_id": "d", "turns": [{"turn_id": 1, "text": "I lost my keys."}]}
    (tmp_path / "all.jsonl").write_text(json.dumps(record) + "\n")
    command = [sys.executable, "-m", "ieat_jax.prepare", "responses", "--records", str(tmp_path / "all.jsonl")]
    environment = os.environ | {"HF_ENDPOINT": served.address, "HF_HOME": str(tmp_path / "home")}
    for spec, code in (("hf:tiny/one@main", 0), ("hf:tiny/none@main", 2)):
        out = tmp_path / f"out{code}"
        done = subprocess.run(
            [*command, "--llm", spec, "--out", str(out)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == code, done.stderr
        assert out.exists() == (code == 0)
    assert "Traceback" not in done.stderr
    assert "error: hf:tiny/none@main: the hub has no such repository" in done.stderr
    assert list((tmp_path / "home/hub/models--tiny--one/snapshots" / COMMIT).glob("*.safetensors"))
