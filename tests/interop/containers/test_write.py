"""Safetensors folders as they are written, read by our reader and by transformers' index rules."""

import json

import numpy as np
import pytest

from ieat_jax.interop.containers.source import open_safetensors
from ieat_jax.interop.containers.write import write_tensors

TENSORS = {f"model.layers.{number}.weight": np.full((8, 8), number, np.float32) for number in range(5)}


@pytest.mark.parametrize(("shard_bytes", "files"), [(10**9, 1), (600, 3), (1, 5)])
def test_files_of_at_most_some_bytes_hold_everything(tmp_path, shard_bytes, files):
    assert write_tensors(tmp_path / "llm", TENSORS.items(), "float32", shard_bytes=shard_bytes) == 5
    there = sorted((tmp_path / "llm").glob("*.safetensors"))
    assert len(there) == files
    source = open_safetensors(tmp_path / "llm")
    assert {name: source.get(name).tolist() for name in source.names()} == {n: a.tolist() for n, a in TENSORS.items()}
    if files > 1:
        index = json.loads((tmp_path / "llm" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == 5 * 8 * 8 * 4
        assert set(index["weight_map"].values()) == {file.name for file in there}


def test_bfloat16_is_rounded(tmp_path):
    write_tensors(tmp_path, {"a": np.float32([1.0, 1.001])}.items(), "bfloat16")
    assert open_safetensors(tmp_path).get("a").tolist() == [1.0, 1.0]
