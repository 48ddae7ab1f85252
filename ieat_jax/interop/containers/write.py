"""Safetensors folders and JSON files, written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from ieat_jax.interop.containers.source import INDEX, SINGLE

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SHARD_BYTES = 5 * 10**9


def write_tensors(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], dtype: str, *, shard_bytes: int = SHARD_BYTES
) -> int:
    """Write a Hugging Face folder's tensors; returns their number.

    Args:
        folder: is made, with its parents.
        tensors: names and arrays, one at a time.
        dtype: a name of DTYPES.
        shard_bytes: most bytes of a file (which holds at least one tensor); of several files there is an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, int]] = []  # names and sizes of each file
    waiting: dict[str, np.ndarray] = {}

    def flush() -> None:
        write_file(folder / f"{len(shards)}.part", waiting.items(), dtype)
        shards.append({name: array.nbytes for name, array in waiting.items()})
        waiting.clear()

    for name, array in _cast(tensors, dtype):
        if waiting and sum(one.nbytes for one in waiting.values()) + array.nbytes > shard_bytes:
            flush()
        waiting[name] = array
    flush()
    if len(shards) == 1:
        os.replace(folder / "0.part", folder / SINGLE)
        return len(shards[0])
    index: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        os.replace(folder / f"{number}.part", folder / file)
        index |= dict.fromkeys(names, file)
    size = sum(sum(names.values()) for names in shards)
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": index})
    return len(index)


def write_file(path: Path, tensors: Iterable[tuple[str, np.ndarray]], dtype: str) -> int:
    """Write one safetensors file; returns the number of its tensors."""
    arrays = dict(_cast(tensors, dtype))
    save_file(arrays, path, metadata={"format": "pt"})  # transformers asks for it
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors leaves it to its owner alone
    return len(arrays)


def _cast(tensors: Iterable[tuple[str, np.ndarray]], dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in tensors:
        yield name, np.ascontiguousarray(array, DTYPES[dtype])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file such as config.json."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
