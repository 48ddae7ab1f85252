"""Arrays in a folder, memory-mapped when they are read: it appears at once, complete, and what is damaged is noticed.

A folder holds NAME.npy for every array, and facts.json: what else is known, the length and the hash of every array, and
a hash over itself. When it is opened, every length is compared, and the hash of arrays of up to HASHED bytes; larger
ones, of some hundred million turns, would take minutes.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ieat_jax.errors import UserError
from ieat_jax.storage import special

FACTS = "facts.json"
FORMAT = 1
HASHED = 1 << 30  # bytes of an array
CHUNK = 1 << 24  # bytes that are hashed at a time
_ABANDONED = 86_400  # seconds after which what a killed process left unfinished is removed


class DataError(UserError):
    """Data that cannot be used."""


class DamagedError(Exception):
    """A folder that does not hold what was written: it is made again."""


class ArrayStore:
    """Arrays by their names, and facts. Small when it is pickled: another process opens the folder by itself."""

    def __init__(self, folder: Path, *, check: bool = True):
        """Open a folder; `check`: read the arrays once, to compare their hashes.

        Raises:
            FileNotFoundError: there is none.
            DamagedError: it is not what was written.
        """
        self.folder = Path(os.path.abspath(folder))
        try:
            self.facts, self.digest = read_facts(self.folder / FACTS)
            if self.facts.get("format") != FORMAT:
                raise DamagedError("has another format")
            self._arrays = {
                name: _opened(self.folder / f"{name}.npy", told, check) for name, told in self.facts["arrays"].items()
            }
        except FileNotFoundError as error:
            if not self.folder.is_dir():
                raise
            raise DamagedError(f"lacks {Path(error.filename).name}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"cannot be read ({error})") from error

    def __getitem__(self, name: str) -> np.ndarray:
        """An array; it must not be changed."""
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.digest)


def _reopen(folder: Path, digest: str) -> ArrayStore:
    try:
        store = ArrayStore(folder, check=False)
    except (FileNotFoundError, DamagedError) as error:
        raise DataError(f"{folder}: {error}, while the run goes on; start the run again") from error
    if store.digest != digest:
        raise DataError(f"{folder}: was made anew, of other data, while the run goes on; start the run again")
    return store


def _opened(file: Path, told: Mapping[str, Any], check: bool) -> np.ndarray:
    """The array of a file, as `told` describes it."""
    if kind := special(file):
        raise DamagedError(f"{file.name} is {kind}")
    shape, dtype, start = tuple(told["shape"]), np.dtype(told["dtype"]), int(told["start"])
    size = dtype.itemsize * math.prod(shape)
    with file.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size != start + size:
            raise DamagedError(f"{file.name} has another length")
        header = hashlib.sha256(stream.read(start)).hexdigest()
        made = hashlib.sha256()
        while check and size <= HASHED and (part := stream.read(CHUNK)):
            made.update(part)
        if header != told["header"] or (check and size <= HASHED and made.hexdigest() != told["sha256"]):
            raise DamagedError(f"{file.name} has another content")
    if not size:
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(file, dtype, "r", start, shape))


def read_facts(file: Path) -> tuple[dict[str, Any], str]:
    """(facts, their hash) of a file that `write_facts` wrote.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not what was written.
    """
    if kind := special(file):
        raise DamagedError(f"{file.name} is {kind}")
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        facts, digest = held["facts"], held["sha256"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, "there is none", str(file)) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{file.name} cannot be read ({error})") from error
    if not isinstance(facts, dict) or _digest(facts) != digest:
        raise DamagedError(f"{file.name} has another content")
    return facts, digest


def write_facts(file: Path, facts: Mapping[str, Any]) -> None:
    """Write facts and their hash; the file appears, or is replaced, at once.

    Raises:
        OSError: it cannot be written.
    """
    partial = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    try:
        partial.write_text(json.dumps({"facts": facts, "sha256": _digest(facts)}, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class StoreWriter:
    """Writes a store beside its place: `with StoreWriter(parent, name) as made: made.add(..); made.finish(facts)`.

    Several processes may make the same one at a time: the first that is ready gives its own to all.
    """

    def __init__(self, parent: Path, name: str):
        """Begin.

        Raises:
            OSError: nothing can be written into `parent`.
        """
        self._final = parent / name
        self._folder = parent / f".{name}-{uuid.uuid4().hex}"
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        self._folder.mkdir()
        self._open: dict[str, _Growing] = {}

    def add(self, name: str, values: np.ndarray) -> None:
        """Put values behind those that array `name` has.

        Raises:
            DataError: they cannot be written, as on a full disk.
        """
        values = np.ascontiguousarray(values)
        try:
            if name not in self._open:
                self._open[name] = _Growing(self._folder / f"{name}.npy", values)
            self._open[name].add(values)
        except OSError as error:
            raise self._unwritten(error) from error

    def finish(self, facts: Mapping[str, Any], *, replace: bool = False) -> ArrayStore:
        """Put the store in its place; `replace`: in that of another one, which is there.

        Raises:
            DataError: it cannot be written.
        """
        try:
            arrays = {name: array.close() for name, array in self._open.items()}
            write_facts(self._folder / FACTS, {**facts, "format": FORMAT, "arrays": arrays})
            if replace:
                discard(self._final)
            try:
                os.rename(self._folder, self._final)
            except OSError:  # another process was faster
                with contextlib.suppress(FileNotFoundError, DamagedError):
                    return ArrayStore(self._final)
                discard(self._final)
                os.rename(self._folder, self._final)
            return ArrayStore(self._final, check=False)
        except (OSError, DamagedError) as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: Exception) -> DataError:
        return DataError(f"{self._final}: cannot be written ({getattr(error, 'strerror', None) or error})")

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for array in self._open.values():
            array.file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Growing:
    """A .npy file of which nobody knows yet how long it gets."""

    def __init__(self, path: Path, like: np.ndarray):
        self.file: BinaryIO = path.open("w+b")
        self._shape, self._dtype, self._rows = like.shape[1:], like.dtype, 0
        self._sha = hashlib.sha256()
        self._header()
        self._start = self.file.tell()

    def _header(self) -> None:
        shape = (self._rows, *self._shape)
        np.lib.format.write_array_header_1_0(
            self.file, {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        )

    def add(self, values: np.ndarray) -> None:
        if values.shape[1:] != self._shape or values.dtype != self._dtype:
            raise ValueError(f"{values.dtype}{values.shape} behind {self._dtype}{self._shape}")
        content = values.tobytes()
        self.file.write(content)
        self._sha.update(content)
        self._rows += len(values)

    def close(self) -> dict[str, Any]:
        """What `_opened` compares."""
        self.file.seek(0)
        self._header()  # NumPy leaves room in it for a longer first axis
        if self.file.tell() != self._start:
            raise ValueError("the header of a .npy file has another length than before")
        self.file.seek(0)
        header = hashlib.sha256(self.file.read(self._start)).hexdigest()
        self.file.close()
        told = {"shape": [self._rows, *self._shape], "dtype": self._dtype.str, "start": self._start, "header": header}
        return {**told, "sha256": self._sha.hexdigest()}


def discard(folder: Path) -> None:
    """Take a store away, at once; whoever has it open keeps what they see."""
    away = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, away)
        shutil.rmtree(away, ignore_errors=True) if away.is_dir() else away.unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    """Remove what killed processes left unfinished."""
    with contextlib.suppress(OSError):
        for path in parent.iterdir():
            if path.name.startswith(".") and time.time() - path.lstat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def open_or_make(
    parent: Path, name: str, make: Callable[[StoreWriter], Mapping[str, Any]], *, replace: bool = False
) -> ArrayStore:
    """The store `name` in `parent`; where none is there, or a damaged one, `make` fills one and returns its facts.

    `replace`: make it even so. Where nothing can be written, it is made in a temporary folder, which is said.

    Raises:
        DataError: it can be written nowhere.
    """
    parent = _TEMPORARY.get(parent, parent)
    damaged = False
    if not replace:
        try:
            return ArrayStore(parent / name)
        except FileNotFoundError:
            pass
        except DamagedError as error:
            print(f"{parent / name}: {error}; it is made again", file=sys.stderr, flush=True)
            damaged = True
    try:
        writer = StoreWriter(parent, name)
    except OSError as error:
        writer = StoreWriter(_elsewhere(parent, error), name)
    with writer:
        return writer.finish(make(writer), replace=replace or damaged)


_TEMPORARY: dict[Path, Path] = {}  # folder that cannot be written -> what stands in for it in this process


def _elsewhere(parent: Path, error: OSError) -> Path:
    try:
        place = Path(tempfile.mkdtemp(prefix="ieat_jax-index-"))
    except OSError as also:
        raise DataError(
            f"{parent}: cannot be written ({error.strerror}), and {also.strerror} for temporary files"
        ) from also
    told = f"{parent}: cannot be written ({error.strerror or error}): the index is made in {place}, and lost at the end"
    print(told, file=sys.stderr, flush=True)
    _TEMPORARY[parent] = place
    maker = os.getpid()
    atexit.register(lambda: shutil.rmtree(place, ignore_errors=True) if os.getpid() == maker else None)
    return place
