import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ieat_jax.audio.codec import CodecError
from ieat_jax.codecs.mel import CONTEXT, MelCodec
from ieat_jax.codecs.source_filter import FEATURES
from ieat_jax.config.recipes import to_section, typed
from ieat_jax.errors import UserError
from ieat_jax.model.names import named_leaves
from ieat_jax.model.partition import split
from ieat_jax.runs import folder as run_module
from ieat_jax.runs.checkpoints import CheckpointError, Checkpoints, save_frozen
from ieat_jax.runs.folder import RunError, load_run, load_run_codec, save_run_files, write_protected
from ieat_jax.text.tokenizer import train_tokenizer

RULES = (("(listen|think)\\..*", None), (".*", 1.0))


def codec(seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((9, FEATURES), ((2 * CONTEXT + 1) * FEATURES, 2 * FEATURES), (2 * FEATURES,), (1,))
    return MelCodec(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["hello you"], 300)


@pytest.fixture
def config(tiny_config):
    section = to_section(tiny_config)
    section.llm.vocab_size = 320
    return typed(ConfigDict({"stage": "joint", "seed": 1, "model": section}))


@pytest.fixture
def trained(tmp_path, config, tokenizer, mesh_of, monkeypatch):
    """A run folder with steps 1 and 2 saved from a mesh, and the parameters of step 2."""
    mesh = mesh_of(1, 4, 1, 2)
    abstract = run_module.abstract_model(config.model, mesh)
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding), abstract)
    save_run_files(tmp_path / "run", config, tokenizer, codec())
    trainable, frozen = split(model, RULES)
    save_frozen(tmp_path / "run/frozen", frozen)
    with Checkpoints(tmp_path / "run/checkpoints") as checkpoints:
        for step in (1, 2):
            items = {"trainable": trainable, "optimizer": {"count": np.int32(step)}}
            checkpoints.save(step, items, {"codec": codec().identity(), "step": step})
    return tmp_path / "run", {name: np.asarray(x) for name, x in named_leaves(model).items()}


def test_a_run_is_loaded_on_one_device_and_on_a_mesh(trained, config, tokenizer, mesh_of):
    path, expected = trained
    for mesh in (None, mesh_of(1, 2, 1, 4)):
        run = load_run(path, mesh=mesh)
        assert (run.step, run.stage, run.mesh, run.metadata["step"]) == (2, "joint", mesh, 2)
        leaves = named_leaves(run.model)
        assert leaves.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(leaves[name], value, err_msg=name)
        devices = leaves["write.layers.mlp.up.kernel"].sharding.device_set
        assert len(devices) == (1 if mesh is None else 8)
    assert run.config == config
    assert run.config.model.llm.vocab_size == 320
    assert run.tokenizer.encode("hello you") == tokenizer.encode("hello you")
    assert run.codec.identity() == codec().identity()
    assert load_run(path, step=1).step == 1
    moved = path.parent / "elsewhere"
    path.rename(moved)  # nothing in it refers to where it was
    assert load_run(moved).step == 2


def test_what_is_missing_is_named(trained, tmp_path, config, tokenizer):
    path, _ = trained
    with pytest.raises(RunError, match=r"nowhere: there is no such folder; give the workdir"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no training run here"):
        load_run(tmp_path)
    with pytest.raises(RunError, match="no checkpoint of step 7; there are 1, 2"):
        load_run(path, step=7)
    save_run_files(tmp_path / "new", config, tokenizer)
    with pytest.raises(RunError, match="new: the run has no checkpoint yet"):
        load_run(tmp_path / "new")
    shutil.copytree(path, tmp_path / "other")
    train_tokenizer(["".join(map(chr, range(0x4E00, 0x4E80)))], 400).save(tmp_path / "other/tokenizer")
    with pytest.raises(RunError, match=r"other: tokenizer/tokenizer.json was changed after it was written; restore"):
        load_run(tmp_path / "other")
    (tmp_path / "other/manifest.json").unlink()
    with pytest.raises(RunError, match=r"other: the tokenizer has \d+ tokens, config.model.llm.vocab_size is 320"):
        load_run(tmp_path / "other")
    shutil.rmtree(path / "frozen")
    with pytest.raises(RunError, match=r"run: step 2 has no listen\..*; config.json and checkpoint do not belong"):
        load_run(path)
    llm = dataclasses.replace(config.model.llm, width=32)
    wide = dataclasses.replace(config, model=dataclasses.replace(config.model, llm=llm))
    save_run_files(path, wide, tokenizer, codec())
    with pytest.raises(CheckpointError, match="parameters of another shape"):
        load_run(path)


def test_another_codec_or_tokenizer_is_refused(trained, config, tokenizer):
    path, _ = trained
    save_run_files(path, config, tokenizer, codec())  # resuming with the same ones
    with pytest.raises(CodecError, match="units of another codec"):
        save_run_files(path, config, tokenizer, codec(seed=1))
    with pytest.raises(RunError, match="began with another tokenizer"):
        save_run_files(path, config, train_tokenizer(["something else"], 280), codec())
    assert not (path / "tokenizer.part").exists()
    codec(seed=1).save(path / "codec")
    with pytest.raises(RunError, match=r"run: codec/codec.json was changed after it was written, codec/codec.safetens"):
        load_run(path)
    (path / "manifest.json").unlink()
    with pytest.raises(CodecError, match=r"run/codec: units of another codec \(hash"):
        load_run(path)
    shutil.rmtree(path / "codec")
    with pytest.raises(RunError, match="the codec is missing"):
        load_run(path)


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_character_of_any_file_is_noticed(trained, config, tokenizer):
    path, _ = trained
    write_protected(path, "handover.json", '{"loaded": {}}\n')
    for file, old, new in (
        ("config.json", "10000.0", "10001.0"),
        ("tokenizer/tokenizer.json", "hello", "hallo"),
        ("codec/codec.json", "mel", "mal"),
        ("handover.json", "loaded", "loadad"),
    ):
        change(path / file, old, new)
        with pytest.raises(RunError, match=f"run: {file} was changed after it was written; restore"):
            load_run(path)
        change(path / file, new, old)
    assert load_run(path).step == 2
    (path / "tokenizer/tokenizer_config.json").write_text("{}")
    with pytest.raises(RunError, match=r"tokenizer/tokenizer_config.json was not written by this run"):
        load_run(path)
    (path / "tokenizer/tokenizer_config.json").unlink()
    change(path / "frozen/_CHECKPOINT_METADATA", "init_timestamp_nsecs", "init_timestamp_nsecr")
    with pytest.raises(CheckpointError, match=r"frozen: .* damaged \(_CHECKPOINT_METADATA was changed"):
        load_run(path)


def test_a_run_that_goes_on_has_its_files_checked_too(trained, config, tokenizer):
    path, _ = trained
    change(path / "config.json", "10000.0", "10001.0")
    save_run_files(path, config, tokenizer, codec())  # the configuration is that of the new attempt
    assert load_run(path).config == config
    change(path / "tokenizer/tokenizer.json", "hello", "hallo")
    with pytest.raises(RunError, match=r"tokenizer.json was changed after it was written"):
        save_run_files(path, config, tokenizer, codec())


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_kill_between_the_writes_leaves_a_run_that_loads(trained, config, tokenizer, monkeypatch, killed_after):
    path, _ = trained
    config = dataclasses.replace(config, seed=2)
    count, replace = 0, os.replace

    def counted(*arguments):
        nonlocal count
        count += 1
        if count == killed_after + 1:
            raise KeyboardInterrupt
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted)
        try:
            save_run_files(path, config, tokenizer, codec())
        except KeyboardInterrupt:
            assert killed_after < 3
    assert load_run(path).config.seed == (1 if killed_after == 1 else 2)


def test_a_run_without_a_manifest_loads_with_a_word(trained, config, tokenizer, capsys):
    path, _ = trained
    for file in path.rglob("manifest.json"):
        file.unlink()
    assert load_run(path).step == 2
    assert "run: without manifest.json (from an earlier version)" in capsys.readouterr().err
    save_run_files(path, config, tokenizer, codec())  # from now on it has one
    change(path / "tokenizer/tokenizer.json", "hello", "hallo")
    with pytest.raises(RunError, match=r"tokenizer.json was changed after it was written"):
        load_run(path)


def read(path, capsys):
    """What a run is, in bytes; what is refused or said instead."""
    try:
        run = load_run(path)
    except UserError as error:
        return None, str(error)
    parameters = {name: np.asarray(x).tobytes() for name, x in named_leaves(run.model).items()}
    said = "".join(capsys.readouterr())
    content = (parameters, run.config, run.tokenizer.encode("hello you"), run.codec.identity(), run.metadata)
    return content, said


def damages(run, seed, flips, edits):
    """(what, file, its content then): single bits and single characters, in any of the run's files and folders."""
    rng = np.random.default_rng(seed)
    groups = {}
    for file in sorted(file for file in run.rglob("*") if file.is_file() and file.stat().st_size):
        groups.setdefault(file.relative_to(run).parts[0], []).append(file)
    for number in range(flips + edits):
        files = list(groups.values())[rng.integers(len(groups))]
        file = files[rng.integers(len(files))]
        content = bytearray(file.read_bytes())
        at = int(rng.integers(len(content)))
        if number < flips:
            content[at] ^= 1 << int(rng.integers(8))
        else:
            others = [character for character in b'0123456789abcdefxyzABC "{}[],:.-' if character != content[at]]
            content[at] = rng.choice(others)
        yield f"{'flip' if number < flips else 'edit'} {number} of byte {at} of {file}", file, bytes(content)


def test_no_bit_and_no_character_of_a_run_changes_it_silently(trained, capsys):
    """FUZZ=200,60 for the long one."""
    path, _ = trained
    write_protected(path, "handover.json", '{"loaded": {}}\n')
    flips, edits = map(int, os.environ.get("FUZZ", "60,24").split(","))
    expected, said = read(path, capsys)
    assert not said
    outcomes = {"refused": 0, "an earlier step": 0, "the same": 0}
    for what, file, content in damages(path, 0, flips, edits):
        before = file.read_bytes()
        file.write_bytes(content)
        found, said = read(path, capsys)
        file.write_bytes(before)
        if found is None:
            outcomes["refused"] += 1
            assert str(path) in said, what
        elif found != expected:
            outcomes["an earlier step"] += 1
            assert "checkpoints/2 is damaged and skipped" in said, what
            assert found[0] == expected[0], what  # this run's two steps have the same parameters
        else:
            outcomes["the same"] += 1
            assert "checkpoints/1/" in what, what  # which is not read
    print(outcomes)
    assert outcomes["refused"] > 0
    assert outcomes["an earlier step"] > 0


def test_a_large_codec_is_pointed_to(tmp_path, config, tokenizer, monkeypatch):
    class Onnx:
        """As CosyVoiceTokenizer: no `save`."""

        def __init__(self, path):
            self.path = path

        def identity(self):
            return {"name": "onnx", "rate": 50, "vocab_size": 9, "hash": self.path.read_text()}

    file = tmp_path / "speech_tokenizer_v1.onnx"
    file.write_text("a")
    monkeypatch.setattr(run_module, "load_codec", lambda path: Onnx(run_module.Path(path)))
    save_run_files(tmp_path / "run", config, tokenizer, Onnx(file))
    assert json.loads((tmp_path / "run/codec/pointer.json").read_text())["path"] == str(file)
    assert load_run_codec(tmp_path / "run/codec").path == file
    file.write_text("b")
    with pytest.raises(CodecError, match=r"speech_tokenizer_v1.onnx, named in .*pointer.json: units of another codec"):
        load_run_codec(tmp_path / "run/codec")
