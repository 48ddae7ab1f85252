"""A JSON-lines file as a source: an index beside it, FILE.index/, says where each record lies.

The folder holds, beside what is computed from the records later:

    stamp.json     the size, time and hash of the file that it was made of: as long as size and time are the same, it is
                   trusted; else the file is hashed again
    HASH/          of the file's content and the code that reads records; the newest few are kept
        records/   where records lie, and what is known of them
        sound-HASH what is known of their recordings, which may start at another folder for another run
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.audio import files, streams, whole
from ieat_jax.audio.files import count_samples, read_audio
from ieat_jax.data import jsonl, keys, labels, records, understood
from ieat_jax.data.jsonl import RecordError, count_lines, read_lines
from ieat_jax.data.records import FATAL, Record, iter_lines, parse_line
from ieat_jax.data.sources import index as index_module
from ieat_jax.data.sources.index import Index, IndexWriter
from ieat_jax.data.sources.sound import Paths, open_sound
from ieat_jax.data.sources.store import (
    DamagedError,
    DataError,
    StoreWriter,
    discard,
    open_or_make,
    read_facts,
    write_facts,
)
from ieat_jax.progress import Progress

STAMP = "stamp.json"
READERS = (jsonl, records, labels, keys, understood, index_module, files, streams, whole)  # that an index depends on
KEPT = 3  # contents that an index is kept of
REMEMBERED = 8  # records that are kept as they were read last
SETTLED = 2.0  # seconds after which a change of a file shows in its time, on every file system
TYPES = {"begin": np.int64, "size": np.int32, "line": np.int64, "check": np.uint32, "path_end": np.int64}


class JsonLines:
    """The records of a JSON-lines file; see `source.Source`."""

    def __init__(self, path: Path, *, key: str = "", weight: float = 1.0, audio_root: Path | None = None):
        """Open a file, and make its index where there is none that fits.

        Raises:
            RecordError: the file cannot be read, is empty, or has a path that leads out of its folder.
            DataError: the index can be written nowhere.
        """
        self.key, self.name, self.weight = key, str(path), weight
        self.audio_root = path.parent if audio_root is None else audio_root
        self._path = os.path.abspath(path)
        self.index = _open_index(path, self.audio_root)
        self._file: int | None = None
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._record = functools.lru_cache(REMEMBERED)(self._read)  # its turns are asked for one after the other

    def __len__(self) -> int:
        return len(self.index)

    def record(self, number: int) -> Record:
        """Read a record.

        Raises:
            DataError: the file was changed since its index was opened, or cannot be read.
        """
        return self._record(number)

    def _read(self, number: int) -> Record:
        index = self.index
        begin, size, line = (int(index[name][number]) for name in ("begin", "size", "line"))
        try:
            content = os.pread(self._descriptor(), size, begin)
        except OSError as error:
            raise DataError(f"{self.name}:{line}: cannot be read ({error.strerror})") from error
        found = (
            parse_line(content, path=self.name, number=line) if zlib.crc32(content) == index["check"][number] else None
        )
        if not isinstance(found, Record):
            raise DataError(f"{self.name}:{line}: was changed while the run goes on; start the run again")
        return found

    def _descriptor(self) -> int:
        with self._lock:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDONLY)
            return self._file

    def place(self, number: int) -> str:
        """Where a record stands, for messages: file, line, id."""
        return f"{self.name}:{self.index['line'][number]}: {self.record(number).dialogue_id}"

    def samples(self, number: int, turn: int, max_seconds: float) -> int:
        """See `source.Source`."""
        audio = self.record(number).turns[turn].audio
        return count_samples(audio or "", max_seconds=max_seconds, root=self.audio_root)

    def waveform(self, number: int, turn: int, max_seconds: float) -> np.ndarray:
        """See `source.Source`."""
        audio = self.record(number).turns[turn].audio
        return read_audio(audio or "", max_seconds=max_seconds, root=self.audio_root)

    def identity(self) -> dict[str, Any]:
        """See `source.Source`; `audio` is over the size and a part of every recording: a copy elsewhere is the same."""
        return {**self.index.identity(), "weight": self.weight}

    def bad(self) -> Iterator[tuple[str, str, str]]:
        """(place, code, message) of the lines that hold no record."""
        return self.index.bad(self.name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_lock": None, "_record": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]


def _open_index(path: Path, audio_root: Path) -> Index:
    next(read_lines(path), None)  # says what is wrong with the file as a whole
    folder = Path(os.path.abspath(path) + ".index")
    before = _stat(path)
    code = _short(*(Path(str(module.__file__)).read_text(encoding="utf-8") for module in READERS))
    version = folder / _short(_content(path, folder), code)
    if not version.exists():
        _prune(folder)
    store = open_or_make(version, "records", functools.partial(_make, path))
    if _stat(path) != before:
        discard(store.folder)
        raise DataError(f"{path}: was changed while its records were read; start again when it is complete")
    root = os.path.relpath(audio_root.resolve(), path.resolve().parent)
    sound = open_sound(store.folder.parent, f"sound-{_short(root)}", Paths(store, audio_root), path.name)
    return Index(store, sound)


def _prune(folder: Path) -> None:
    """Remove what was made of earlier contents, but for the newest few."""
    with contextlib.suppress(OSError):
        versions = [path for path in folder.iterdir() if path.is_dir()]
        for old in sorted(versions, key=lambda path: path.stat().st_mtime)[: 1 - KEPT]:
            discard(old)


def _short(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise RecordError("unreadable", path, 0, f"cannot be read ({error.strerror})") from error
    return found.st_size, found.st_mtime_ns


def _content(path: Path, folder: Path) -> str:
    """The hash of a file; it is not read where size and time are those of the stamp.

    Raises:
        RecordError: the file cannot be read.
    """
    size, changed = _stat(path)
    with contextlib.suppress(OSError, DamagedError):
        held, _ = read_facts(folder / STAMP)
        if (held["size"], held["time"]) == (size, changed):
            return str(held["content"])
    made = hashlib.sha256()
    try:
        with path.open("rb") as file, Progress(f"{path.name}: MiB looked at", size >> 20, patient=True) as progress:
            while part := file.read(1 << 20):
                made.update(part)
                progress.done(1)
    except OSError as error:
        raise RecordError("unreadable", path, 0, f"cannot be read ({error.strerror})") from error
    if time.time() - changed / 1e9 > SETTLED:
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            write_facts(folder / STAMP, {"size": size, "time": changed, "content": made.hexdigest()})
    return made.hexdigest()


def _make(path: Path, store: StoreWriter) -> dict[str, Any]:
    """Read all records, and write what an index holds of them."""
    made, seen, paths = IndexWriter(store, TYPES), 0, 0
    for name in ("paths", "bad"):
        store.add(name, np.zeros(0, np.uint8))
    with Progress(f"{path.name}: lines indexed", count_lines(path), patient=True) as progress:
        for line, found in iter_lines(path):
            seen += 1
            if isinstance(found, RecordError):
                if found.code in FATAL:
                    raise found
                told = json.dumps([line.number, found.code, found.message]) + "\n"
                store.add("bad", np.frombuffer(told.encode(), np.uint8))
            else:
                audio = [(turn.audio or "").encode() for turn in found.turns]
                store.add("paths", np.frombuffer(b"".join(audio), np.uint8))
                content = line.content or b""
                place = {"begin": line.begin, "size": len(content), "line": line.number, "check": zlib.crc32(content)}
                ends = (paths + np.cumsum([len(each) for each in audio])).tolist()
                paths = ends[-1]
                made.add(found, record_arrays=place, turn_arrays={"path_end": ends})
            progress.done(1)
    if not seen:
        raise RecordError("empty", path, 0, "holds no records")
    return made.finish()
