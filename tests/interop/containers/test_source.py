import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ieat_jax.interop.containers.source import ArraySource, InteropError, open_safetensors, read_json

A = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5
B = np.linspace(-1, 1, 4)


def sharded(folder):
    save_file({"a": A}, folder / "one.safetensors")
    save_file({"b": B}, folder / "two.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_float_becomes_float32(tmp_path, dtype):
    stored = {"a": A.astype(dtype), "odd": np.ones(3, dtype), "scalar": np.array(2.0, dtype), "none": np.ones(0, dtype)}
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    source = open_safetensors(tmp_path)
    assert sorted(source.names()) == sorted(stored)
    for name, value in stored.items():
        read = source.get(name)
        assert read.dtype == np.float32
        assert source.shape(name) == read.shape == value.shape
        np.testing.assert_array_equal(read, value.astype(np.float32))
    source.get("a")[:] = 0  # a copy: neither the file nor the next reader sees it
    assert source.get("a").any()


def test_shards_are_found_through_the_index(tmp_path):
    source = open_safetensors(sharded(tmp_path))
    assert sorted(source.names()) == ["a", "b"]
    np.testing.assert_array_equal(source.get("b"), B.astype(np.float32))
    assert open_safetensors(tmp_path / "one.safetensors").names() == ["a"]


def test_missing_shards_are_all_named(tmp_path):
    sharded(tmp_path)
    (tmp_path / "one.safetensors").unlink()
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(InteropError, match=r"2 of 2 shards are missing: one\.safetensors, two\.safetensors"):
        open_safetensors(tmp_path)


def test_an_index_can_not_reach_outside_its_folder_nor_promise_too_much(tmp_path):
    index = sharded(tmp_path) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(InteropError, match="same folder"):
        open_safetensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "c": "one.safetensors"}}))
    with pytest.raises(InteropError, match="shards lack: c"):
        open_safetensors(tmp_path)
    index.write_text("{}")
    with pytest.raises(InteropError, match="no weight_map"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_a_truncated_file_says_so(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file({"a": A}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InteropError, match=r"model\.safetensors: cut off"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git LFS pointer"),
        (b"PK\x03\x04 a zip file, as torch writes them", "not a safetensors file"),
        (b"\x04\0\0\0\0\0\0\0[1]]", "not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "not a safetensors file"),
    ],
)
def test_other_files_are_recognised(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InteropError, match=message):
        open_safetensors(tmp_path)


def test_a_header_that_contradicts_itself_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(InteropError, match="does not take 8 bytes"):
        open_safetensors(tmp_path)


def test_quantised_tensors_are_refused_by_name(tmp_path):
    save_file({"layer.q": np.ones(2, np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(InteropError, match=r"layer\.q is stored as I8.*not quantised"):
        open_safetensors(tmp_path).get("layer.q")


def test_folders_without_safetensors_get_a_hint(tmp_path):
    with pytest.raises(InteropError, match="no such file or folder"):
        open_safetensors(tmp_path / "nowhere")
    with pytest.raises(InteropError, match="holds neither"):
        open_safetensors(tmp_path)
    save_file({"a": A}, tmp_path / "other.safetensors")
    with pytest.raises(InteropError, match=r"it holds other\.safetensors: name the file itself"):
        open_safetensors(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InteropError, match="save_pretrained it once"):
        open_safetensors(tmp_path)


def test_read_json_names_the_file(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(InteropError, match=r"config\.json: cannot be read"):
        read_json(path)
    for text, message in (("{", "not JSON"), ("[]", "a JSON list")):
        path.write_text(text)
        with pytest.raises(InteropError, match=message):
            read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_arrays_are_a_source():
    source = ArraySource({"b": B})
    assert source.names() == ["b"]
    assert source.shape("b") == (4,)
    assert source.get("b").dtype == np.float32
