"""An export is a run again, bit for bit; one whose files were changed is refused by name."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from helpers import tiny_run

from ieat_jax.export import main
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.export import export, merged
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.interop.families.whisper import load_whisper
from ieat_jax.interop.open import open_run, outline
from ieat_jax.model.config import LoraConfig
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import load_run
from ieat_jax.text.tokenizer import tokenizer_digest
from ieat_jax.training.planned import _without_weights

ADAPTED = dataclasses.replace(tiny_run.CONFIG, lora=LoraConfig(rank=2, alpha=3.0, pattern=r"(think|write)\.layers\..*"))

FILES = ("llm/model.safetensors", "llm/tokenizer.json", "whisper/config.json", "speech.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder, with LoRA and a codec of its own."""
    folder = tmp_path_factory.mktemp("run") / "joint"
    return tiny_run.save_run(folder, sizes=ADAPTED, model=tiny_run.random_model(ADAPTED))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    assert main(["--checkpoint", str(trained), "--out", str(out)]) == 0
    return out


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def test_everything_comes_back_bit_for_bit(trained, exported):
    before, after = merged(load_run(trained)), open_run(exported)
    expected, found = named_leaves(before.model), named_leaves(after.model)
    assert found.keys() == expected.keys()
    for part in ("listen.encoder", "listen.adapter", "listen.mix", "think", "write", "speak", "emotion"):
        assert any(name.startswith(part) for name in found), part
    for name, array in expected.items():
        assert np.asarray(found[name]).tobytes() == np.asarray(array).tobytes(), name
    assert (after.step, after.stage, after.config) == (5, "joint", before.config)
    assert tokenizer_digest(after.tokenizer) == tokenizer_digest(before.tokenizer)
    assert after.codec.identity() == before.codec.identity() == after.metadata["codec"]


def test_an_export_of_an_export_is_the_same_files(exported, tmp_path):
    export(open_run(exported), tmp_path / "again")
    for file in exported.rglob("*"):
        if file.is_file() and file.name != "manifest.json":
            assert (tmp_path / "again" / file.relative_to(exported)).read_bytes() == file.read_bytes(), file


def test_arrays_land_on_a_mesh(exported):
    mesh = jax.make_mesh((1, 2, 1, 1), ("replica", "fsdp", "context", "tensor"), devices=jax.devices()[:2])
    alone, divided = open_run(exported), open_run(exported, mesh=mesh)
    for name, array in named_leaves(divided.model).items():
        assert len(array.devices()) == 2
        assert np.array_equal(np.asarray(array), np.asarray(named_leaves(alone.model)[name])), name


def test_an_outline_reads_no_numbers(exported):
    assert {type(leaf) for leaf in named_leaves(outline(exported).model).values()} == {jax.ShapeDtypeStruct}


def test_a_recipe_begins_from_it(exported):
    config = open_run(exported).config
    begun = dataclasses.replace(config, init=dataclasses.replace(config.init, checkpoint=str(exported)))
    planned = _without_weights(begun)
    assert planned.tokenizer.path == str(exported / "llm")
    assert planned.codec == str(exported / "codec")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, how) for name in FILES for how in ("cut", "flipped", "gone")),
        *(("ieat.json", how) for how in ("cut", "flipped")),  # without it a folder is no export
    ],
)
def test_a_changed_file_is_refused_by_name(copy, name, how):
    file = copy / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content if how == "flipped" else content[:-1])
    with pytest.raises(InteropError, match=f"{name} (was changed|is missing)"):
        open_run(copy)
    part = name.partition("/")[0]
    load = {"llm": load_llm, "whisper": load_whisper}
    for other, loads in load.items():
        if other == part:
            with pytest.raises(InteropError, match=name):
                loads(str(copy / other))
        else:
            loads(str(copy / other))  # the rest of an export can still be used


def test_a_changed_or_missing_manifest_is_told(copy):
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 5', '"step": 6'))
    with pytest.raises(InteropError, match=r"manifest\.json was changed"):
        open_run(copy)
    manifest.unlink()
    with pytest.raises(InteropError, match=r"manifest\.json is missing"):
        load_llm(str(copy / "llm"))


def test_what_is_no_export_is_not_asked_for_a_manifest(copy, tmp_path):
    shutil.copytree(copy / "llm", tmp_path / "alone")
    (tmp_path / "manifest.json").write_text("somebody else's")
    load_llm(str(tmp_path / "alone"))


def test_a_step_that_an_export_does_not_have(exported):
    assert open_run(exported, step=5).step == 5
    with pytest.raises(InteropError, match="export of step 5; there is no step 4"):
        open_run(exported, step=4)


def test_the_llm_alone_is_no_run(trained, tmp_path):
    export(load_run(trained), tmp_path / "gguf", to="gguf")
    with pytest.raises(InteropError, match=r"as gguf does not hold all of a run.*config\.init\.llm"):
        open_run(tmp_path / "gguf")
    file = tmp_path / "gguf" / "model.gguf"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InteropError, match=r"model\.gguf was changed"):
        load_llm(f"gguf:{file}")
