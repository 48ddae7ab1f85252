"""A folder of shards as a source, as `prepare shards` writes it.

    index/records/                           what is known of all dialogues, and length and hash of every file
    shards/00000-of-00004.array_record       dialogues with their sound, see `ieat_jax.data.payload`
    shards/00000-of-00004.jsonl              the same without sound: what rows are planned from, and what people read
    shards/00000-of-00004.json               what that shard is made of: how a preparation that was stopped goes on
    card.json, README.md, quarantine.jsonl   what is in it, and what was left out

The index is that of `index.py`, with the arrays `begin`, `size` and `check` (a line of its shard's text, and its
CRC-32) of dialogues, and `text_tokens` and `reply_tokens` (0 without a tokenizer) of turns.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from ieat_jax.audio.files import SAMPLE_RATE, AudioError, check_length
from ieat_jax.data.payload import Payload, PayloadError
from ieat_jax.data.records import Record, parse_line
from ieat_jax.data.sources.index import TYPES as INDEX_TYPES
from ieat_jax.data.sources.index import Index
from ieat_jax.data.sources.store import ArrayStore, DamagedError, DataError

FORMAT = 1
INDEX, STORE, SHARDS = "index", "records", "shards"  # beside the store of the index lies what is made of it later
TYPES = {
    **INDEX_TYPES, "samples": np.int32, "text_tokens": np.int32, "reply_tokens": np.int32,
    "begin": np.int64, "size": np.int32, "check": np.uint32,
}  # fmt: skip
AFFORDABLE = 1 << 32  # bytes of shards that are hashed when a run starts, where nobody says more: seconds
OPEN = 128  # shards that are kept open
THREADS = 8  # that look at shards: storage answers several at a time
_READER = "readahead_buffer_size:0,max_parallelism:0"  # for reads at random


class ArrayRecords:
    """The dialogues of a folder of shards; see `source.Source`."""

    def __init__(self, folder: Path, *, key: str = "", weight: float = 1.0, check: str = "auto"):
        """Open a folder, after a look at its shards.

        `check`: 'auto' = the length of every file, and the hashes of shards of up to AFFORDABLE bytes together; 'all' =
        the hashes of all; 'length' = no hash. What is damaged behind that is noticed when it is read.

        Raises:
            DataError: it is no finished folder of shards, or a file of it is missing, or damaged.
        """
        self.key, self.name, self.weight = key, str(folder), weight
        self.folder = Path(os.path.abspath(folder))
        try:
            self.index = Index(ArrayStore(self.folder / INDEX / STORE))
        except (FileNotFoundError, DamagedError) as error:
            reason = f"its index {error}" if isinstance(error, DamagedError) else "it has no index"
            raise DataError(
                f"{folder}: is no finished folder of shards ({reason}); `prepare shards` makes one, and goes on where "
                "it was stopped"
            ) from error
        if self.index.facts.get("version") != FORMAT:
            raise DataError(f"{folder}: was made by another version of `prepare shards`; make it again")
        self._shards: list[dict[str, Any]] = self.index.facts["shards"]
        self._check(check)
        self._ends = np.cumsum([shard["records"] for shard in self._shards])
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._reader = functools.lru_cache(OPEN)(self._open_reader)
        self._text = functools.lru_cache(OPEN)(self._open_text)
        self._payload = functools.lru_cache(8)(self._read_payload)  # its turns are asked for one after the other

    def _check(self, check: str) -> None:
        files = [file for shard in self._shards for file in shard["files"]]
        hashed = check == "all" or (check == "auto" and sum(file["bytes"] for file in files) <= AFFORDABLE)

        def fault(file: Mapping[str, Any]) -> str:
            path = self.folder / SHARDS / file["file"]
            try:
                if (found := path.stat().st_size) != file["bytes"]:
                    return f"{path}: has {found} bytes, not the {file['bytes']} that were written"
                if hashed and file_hash(path) != file["sha256"]:
                    return f"{path}: is damaged: its sha256 is not that of what was written"
            except OSError as error:
                return f"{path}: cannot be read ({error.strerror})"
            return ""

        with ThreadPoolExecutor(THREADS) as pool:
            faults = [found for found in pool.map(fault, files) if found]
        if check == "auto" and not hashed:
            total = sum(file["bytes"] for file in files) / 2**30
            print(
                f"{self.name}: the lengths of {len(files)} files are right; their hashes ({total:.0f} GiB) were not "
                "compared, which config.data.check_shards = 'all' does",
                file=sys.stderr,
                flush=True,
            )
        if faults:
            more = f" ({len(faults)} of {len(files)} files are bad)" if len(faults) > 1 else ""
            raise DataError(f"{faults[0]}{more}; copy it again, or start the same `prepare shards` again")

    def __len__(self) -> int:
        return len(self.index)

    def _at(self, number: int) -> tuple[int, int]:
        """(shard, place in it) of a dialogue."""
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return shard, number - int(self._ends[shard - 1] if shard else 0)

    def record(self, number: int) -> Record:
        """See `source.Source`.

        Raises:
            DataError: the shard is damaged.
        """
        shard, place = self._at(number)
        begin, size = (int(self.index[name][number]) for name in ("begin", "size"))
        try:
            content = os.pread(self._text(shard).fileno(), size, begin)
        except OSError as error:
            raise DataError(f"{self._place(number)}: cannot be read ({error.strerror})") from error
        path = self.folder / SHARDS / text_name(self._shards[shard]["files"][0]["file"])
        intact = zlib.crc32(content) == self.index["check"][number]
        found = parse_line(content, path=path, number=place + 1) if intact else None
        if isinstance(found, Record):
            return found
        raise DataError(f"{self._place(number)}: is damaged, or made by another version; {_AGAIN}") from found

    def place(self, number: int) -> str:
        """See `source.Source`."""
        return f"{self._place(number)}: {self.record(number).dialogue_id}"

    def _place(self, number: int) -> str:
        shard, place = self._at(number)
        return f"{self.folder / SHARDS / text_name(self._shards[shard]['files'][0]['file'])}:{place + 1}"

    def samples(self, number: int, turn: int, max_seconds: float) -> int:
        """See `source.Source`."""
        count = int(self.index["samples"][int(self.index["offsets"][number]) + turn])
        check_length(f"{self._place(number)}: turn {turn + 1}", count / SAMPLE_RATE, max_seconds)
        return count

    def waveform(self, number: int, turn: int, max_seconds: float) -> np.ndarray:
        """See `source.Source`; the very samples that reading the recording gave.

        Raises:
            DataError: the shard is damaged.
        """
        self.samples(number, turn, max_seconds)
        try:
            heard = self._payload(number).waveform(turn)
        except PayloadError as error:
            raise DataError(f"{self._place(number)}: its sound {error}; {_AGAIN}") from error
        if heard is None:
            raise AudioError("missing", f"{self._place(number)}: turn {turn + 1}", "has no recording")
        return heard

    def _read_payload(self, number: int) -> Payload:
        shard, place = self._at(number)
        try:
            with self._lock:
                content = self._reader(shard).read([place])[0]
        except (OSError, ValueError, IndexError, RuntimeError) as error:
            file = self.folder / SHARDS / self._shards[shard]["files"][0]["file"]
            raise DataError(f"{file}: dialogue {place + 1} cannot be read ({error}); {_AGAIN}") from error
        return Payload(content)

    def _open_reader(self, shard: int) -> ArrayRecordReader:
        return ArrayRecordReader(str(self.folder / SHARDS / self._shards[shard]["files"][0]["file"]), _READER)

    def _open_text(self, shard: int) -> _Descriptor:
        return _Descriptor(self.folder / SHARDS / self._shards[shard]["files"][1]["file"])

    def identity(self) -> dict[str, Any]:
        """See `source.Source`; `audio` is over the hashes of all files."""
        return {**self.index.identity(), "weight": self.weight}

    def bad(self) -> Iterator[tuple[str, str, str]]:
        """See `source.Source`: nothing, since what was left out was counted when the shards were made."""
        return iter(())

    def __getstate__(self) -> dict[str, Any]:
        left = ("_lock", "_reader", "_text", "_payload")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()


_AGAIN = "copy the shards again, or prepare them again"


class _Descriptor:
    """A file that is open as long as anybody has this."""

    def __init__(self, path: Path):
        self._number = os.open(path, os.O_RDONLY)

    def fileno(self) -> int:
        return self._number

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)


def text_name(name: str) -> str:
    """The file of a shard's records without sound."""
    return name.removesuffix(".array_record") + ".jsonl"


def file_hash(path: Any) -> str:
    """SHA-256 of a file, local or not.

    Raises:
        OSError: it cannot be read.
    """
    made = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            made.update(part)
    return made.hexdigest()
