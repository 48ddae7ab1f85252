"""Where tensors are read from: one small interface, and Hugging Face safetensors folders behind it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from ieat_jax.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
BLOCK = 1 << 25  # numbers of a tensor that are in memory at a time, where it is read in blocks: 128 MiB of float32
STEP = 1 << 22  # numbers that are read from a file at a time
MAX_HEADER = 100_000_000  # bytes; the format's own limit
LFS_POINTER = b"version https://git-lfs"


class InteropError(UserError):
    """Weights that cannot be read, or that do not fit the model; names file and tensors."""


class NotFiniteError(InteropError):
    """Tensors that hold NaN or infinity; names file and tensors."""


class TensorSource(Protocol):
    """Named tensors, read one at a time."""

    def names(self) -> list[str]:
        """Every tensor's name."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""
        ...

    def get(self, name: str) -> np.ndarray:
        """The tensor, float32, in memory of its own."""
        ...

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows) of the tensor in order, float32; a large one in several, where the file allows that."""
        ...


def open_safetensors(folder: str | Path) -> TensorSource:
    """The tensors of a Hugging Face folder: `model.safetensors`, or the shards of its index; a file is opened as such.

    Only headers are read here; `get` reads one tensor. float64, float16 and bfloat16 become float32. A tensor that
    several shards hold is read where the index says.

    Raises:
        InteropError: nothing to read, a shard is missing, a file is cut off or is not safetensors, a shard lacks
            tensors that the index promises, or has some that it does not name.
    """
    folder = Path(folder)
    if folder.is_file():
        return _one_file(folder)
    if not folder.is_dir():
        raise InteropError(f"{folder}: there is no such file or folder")
    if (folder / SINGLE).is_file():
        return _one_file(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise InteropError(f"{folder}: holds neither {SINGLE} nor {INDEX}{_what_else(folder)}")
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise InteropError(f"{folder / INDEX}: no weight_map in it; download the file again")
    strange = [
        shard for shard in where.values() if not isinstance(shard, str) or not shard or Path(shard).name != shard
    ]
    shards = sorted(set(where.values())) if not strange else []
    if strange:
        raise InteropError(f"{folder / INDEX}: shards must lie in the same folder, not at {_listed(strange)}")
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise InteropError(f"{folder}: {len(missing)} of {len(shards)} shards are missing: {_listed(missing)}")
    files = {shard: _File(folder / shard) for shard in shards}
    absent = [name for name, shard in where.items() if name not in files[shard].tensors]
    if absent:
        raise InteropError(f"{folder}: the index promises tensors that their shards lack: {_listed(absent)}")
    if unnamed := sorted({name for file in files.values() for name in file.tensors} - where.keys()):
        raise InteropError(f"{folder}: shards hold tensors that the index does not name: {_listed(unnamed)}")
    return _Safetensors({name: files[shard] for name, shard in where.items()})


def _one_file(path: Path) -> TensorSource:
    file = _File(path)
    return _Safetensors(dict.fromkeys(file.tensors, file))


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file such as config.json.

    Raises:
        InteropError: no such file, not JSON, or not an object.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for for ever
            raise InteropError(f"{path}: not a regular file")
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except InteropError:
        raise
    except OSError as error:
        raise InteropError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InteropError(f"{path}: not JSON ({error}); download the file again") from error
    if not isinstance(value, dict):
        raise InteropError(f"{path}: holds a JSON {type(value).__name__}, not an object")
    return value


def finite(array: np.ndarray, where: object, name: str) -> np.ndarray:
    """The array as it is.

    Raises:
        NotFiniteError: it holds numbers that are not finite, which training would blame on the learning rate.
    """
    flat = array.reshape(-1)
    bad = sum(int(np.count_nonzero(~np.isfinite(flat[at : at + STEP]))) for at in range(0, flat.size, STEP))
    if bad:
        raise NotFiniteError(
            f"{where}: {name}: {bad} of {array.size} numbers are NaN or infinite; the file is damaged, get it again"
        )
    return array


class ArraySource:
    """Tensors that are in memory already."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = dict(arrays)

    def names(self) -> list[str]:
        """Every tensor's name."""
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self._arrays[name].shape)

    def get(self, name: str) -> np.ndarray:
        """A copy, float32."""
        return np.array(self._arrays[name], np.float32)

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """All of it at once."""
        yield 0, self.get(name)


class Part:
    """The tensors of a source whose names begin alike, by the rest of their names; `but` those that then begin so."""

    def __init__(self, source: TensorSource, prefix: str, but: tuple[str, ...] = ()):
        self._source, self._prefix, self._but = source, prefix, but

    def names(self) -> list[str]:
        """Every tensor's name."""
        names = (name.removeprefix(self._prefix) for name in self._source.names() if name.startswith(self._prefix))
        return [name for name in names if not name.startswith(self._but)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""
        return self._source.shape(self._prefix + name)

    def get(self, name: str) -> np.ndarray:
        """The tensor, float32, in memory of its own."""
        return self._source.get(self._prefix + name)

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows) of the tensor in order, float32."""
        return self._source.blocks(self._prefix + name)


class _Safetensors:
    """Tensors of one or several safetensors files, by the file that each lies in."""

    def __init__(self, file_of: Mapping[str, _File]):
        self._file_of = dict(file_of)

    def names(self) -> list[str]:
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file_of[name].tensors[name][1]

    def get(self, name: str) -> np.ndarray:
        return self._read(name)

    def _all_not_finite(self, first: NotFiniteError) -> NotFiniteError:
        """The error about every tensor that is not finite: now that there is one, they are all read."""
        found = []
        for name, file in self._file_of.items():
            try:
                if file.tensors[name][0] in DTYPES:
                    file.read(name)
            except NotFiniteError as error:
                found.append(str(error))
        if len(found) < 2:
            return first
        return NotFiniteError(f"{len(found)} tensors are not finite\n  " + "\n  ".join(found))

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        rows, *rest = self.shape(name) or (1,)
        step = max(BLOCK // max(math.prod(rest), 1), 1)
        for first in range(0, rows, step):
            yield first, self._read(name, first, min(first + step, rows))

    def _read(self, name: str, first: int = 0, last: int | None = None) -> np.ndarray:
        try:
            return self._file_of[name].read(name, first, last)
        except NotFiniteError as error:
            raise self._all_not_finite(error) from error


class _File:
    """One safetensors file: u64 header length, JSON header, data, of which only what is asked for is read."""

    def __init__(self, path: Path):
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == LFS_POINTER[:8]:
                raise InteropError(f"{path}: a git LFS pointer, not the weights; run `git lfs pull` in its folder")
            if size < 8 or size < 8 + length <= 8 + MAX_HEADER:
                raise InteropError(f"{path}: cut off inside its header ({size} bytes); download it again")
            if length > MAX_HEADER:
                raise InteropError(f"{path}: not a safetensors file")
            header = file.read(length)
        try:
            entries = json.loads(header)
            entries.pop("__metadata__", None)
            self.tensors = {name: self._entry(entry) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InteropError(f"{path}: not a safetensors file, or a damaged header ({error})") from error
        self.start = 8 + length
        end = self.start + max((entry[2] + entry[3] for entry in self.tensors.values()), default=0)
        if size < end:
            raise InteropError(f"{path}: cut off: the header promises {end} bytes, the file holds {size}; get it again")

    @staticmethod
    def _entry(entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
        """(dtype, shape, offset, bytes) of a header entry."""
        dtype, shape, (begin, end) = entry["dtype"], tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
        if begin < 0 or end < begin or min(shape, default=0) < 0:
            raise ValueError(f"impossible shape {shape} or offsets [{begin}, {end}]")
        if dtype in DTYPES and end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            raise ValueError(f"{dtype} of shape {shape} does not take {end - begin} bytes")
        return dtype, shape, begin, end - begin

    def read(self, name: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """Rows `first` to `last` of a tensor, by default all."""
        dtype, shape, offset, size = self.tensors[name]
        if dtype not in DTYPES:
            raise InteropError(
                f"{self.path}: {name} is stored as {dtype}; only {', '.join(DTYPES)} can be read: "
                "use a checkpoint that is not quantised"
            )
        if not size:
            return np.zeros(shape, np.float32)
        if last is not None and shape:
            row = size // shape[0]
            shape, offset, size = (last - first, *shape[1:]), offset + first * row, (last - first) * row
        array, kind = np.empty(math.prod(shape), np.float32), np.dtype(DTYPES[dtype])
        # Read and not mapped: pages of a mapped file would count as memory of this process.
        with self.path.open("rb", buffering=0) as file, np.errstate(over="ignore"):  # of float64 beyond float32
            file.seek(self.start + offset)
            for begin in range(0, array.size, STEP):
                part = array[begin : begin + STEP]
                content = file.read(part.size * kind.itemsize)
                if len(content) != part.size * kind.itemsize:
                    raise InteropError(f"{self.path}: cut off while it is read; get it again")
                part[...] = np.frombuffer(content, kind)
        return finite(array.reshape(shape), self.path, name)


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))


def _what_else(folder: Path) -> str:
    """A hint on what the folder holds instead."""
    if any(folder.glob("pytorch_model*.bin")):
        return " but PyTorch .bin files, which are not read: load it with transformers and save_pretrained it once"
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    return f"; it holds {_listed(found)}: name the file itself" if found else ""


def check_tensors(
    source: TensorSource, expected: Mapping[str, tuple[int, ...]], *, where: str, ignore: str = r"(?!)"
) -> None:
    """Raise an InteropError that lists every missing, mis-shaped and unexpected tensor of a source.

    Args:
        source: what is there.
        expected: {name: shape} of what must be there.
        where: of the source, for the message.
        ignore: full-match pattern of names that may be there or not.
    """
    there = set(source.names())
    missing = [f"  missing: {name} {shape}" for name, shape in expected.items() if name not in there]
    shaped = [
        f"  wrong shape: {name} is {source.shape(name)}, must be {tuple(shape)}"
        for name, shape in expected.items()
        if name in there and source.shape(name) != tuple(shape)
    ]
    unexpected = [
        f"  unexpected: {name} {source.shape(name)}"
        for name in sorted(there - set(expected))
        if not re.fullmatch(ignore, name)
    ]
    if missing or shaped or unexpected:
        raise InteropError(
            f"{where}: the tensors do not fit the configuration: {len(missing)} missing, {len(shaped)} of a wrong "
            f"shape, {len(unexpected)} unexpected\n" + "\n".join([*missing, *shaped, *unexpected])
        )
