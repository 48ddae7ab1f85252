"""What an index knows of recordings that are files: their lengths, what is wrong with them, whether they changed.

The arrays of its store:

    array    of     holds
    samples  turns  as in `index.py`
    stats    turns  size and time of the file when it was measured; ABSENT, or FAILED: to be looked at again
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ieat_jax.audio.files import AudioError, count_samples
from ieat_jax.data.sources.index import MOST_SAMPLES
from ieat_jax.data.sources.retry import PASSING
from ieat_jax.data.sources.store import ArrayStore, StoreWriter, open_or_make
from ieat_jax.progress import Progress

SAMPLE_BYTES = 4096  # of every recording, for its identity
ABSENT, FAILED = (-1, -1), (-2, -2)
THREADS = 8  # reads wait for their storage
BLOCK = 4096  # turns
SLOW = 1e-4  # seconds that a look at a file takes where its storage is far away
Stat = tuple[int, int]


class Paths:
    """The recordings of all turns, as an index of JSON lines holds them: paths from a folder, '' = none."""

    def __init__(self, store: ArrayStore, root: Path):
        self.root = Path(os.path.abspath(root))
        self._bytes, self._ends = store["paths"], store["path_end"]

    def __len__(self) -> int:
        return len(self._ends)

    def block(self, start: int) -> list[str]:
        """The paths of the turns `start` to `start + BLOCK` - 1."""
        return [path.decode() for path in self._block(start)]

    def stats(self, start: int) -> np.ndarray:
        """Size and time of the recordings of the same turns, ABSENT where there is none: [n, 2]."""
        root = os.fsencode(self.root) + b"/"
        paths = self._block(start)
        try:
            found = list(map(os.stat, [root + path for path in paths]))  # no loop of ours: it is done for millions
        except (OSError, ValueError):  # of some
            return np.array([_stat(root, path) for path in paths], np.int64)
        made = np.empty((len(paths), 2), np.int64)
        made[:, 0] = [each.st_size for each in found]
        made[:, 1] = [each.st_mtime_ns for each in found]
        made[[not path for path in paths]] = ABSENT
        return made

    def _block(self, start: int) -> list[bytes]:
        ends = self._ends[start : start + BLOCK].tolist()
        first = int(self._ends[start - 1]) if start else 0
        content = self._bytes[first : ends[-1]].tobytes()
        return [content[a - first : b - first] for a, b in zip([first, *ends], ends, strict=False)]


class Measured(NamedTuple):
    """A recording: its length or what is wrong with it, size and time, and a part of it."""

    samples: int
    fault: str
    stat: Stat
    sample: bytes


def open_sound(parent: Path, name: str, paths: Paths, told: str) -> ArrayStore:
    """The store of the recordings, measured where they are not known or have changed; `told`: their name for people.

    Raises:
        DataError: it can be written nowhere.
    """

    def make(writer: StoreWriter, known: ArrayStore | None = None, changed: np.ndarray | None = None) -> dict[str, Any]:
        return _measure(writer, paths, told, known, changed)

    store = open_or_make(parent, name, make)
    if len(store["samples"]) != len(paths):
        return open_or_make(parent, name, make, replace=True)
    changed = _changed(paths, store["stats"])
    if not changed.any():
        return store
    return open_or_make(parent, name, functools.partial(make, known=store, changed=changed), replace=True)


def _changed(paths: Paths, stats: np.ndarray) -> np.ndarray:
    """Which turns have another recording than was measured, by its size and time."""
    changed = np.zeros(len(paths), bool)
    with Progress(f"{paths.root}: recordings looked at", len(paths), patient=True) as progress:
        for start, now in _all_stats(paths):
            changed[start : start + len(now)] = (now != stats[start : start + len(now)]).any(axis=1)
            progress.done(len(now))
    return changed


def _all_stats(paths: Paths) -> Iterator[tuple[int, np.ndarray]]:
    """(first turn, size and time of the recording of each turn) block by block, in order.

    Threads help where storage is far away, and are in each other's way where it is not.
    """
    starts = range(0, len(paths), BLOCK)
    with ThreadPoolExecutor(THREADS) as pool:
        place = 0
        while place < len(starts):
            began = time.perf_counter()
            now = paths.stats(starts[place])
            slow = time.perf_counter() - began > SLOW * BLOCK
            yield starts[place], now
            place += 1
            if slow:
                group = starts[place : place + THREADS]
                yield from zip(group, pool.map(paths.stats, group), strict=True)
                place += len(group)


def _stat(root: bytes, path: bytes) -> Stat:
    if not path:
        return ABSENT
    try:
        found = os.stat(root + path)
    except (OSError, ValueError):
        return ABSENT
    return found.st_size, found.st_mtime_ns


def _measure(
    writer: StoreWriter, paths: Paths, told: str, known: ArrayStore | None, changed: np.ndarray | None
) -> dict[str, Any]:
    """Measure all recordings, or those that changed: the identity is over all of them."""
    faults: list[str] = []
    made = hashlib.sha256()
    look = functools.lru_cache(1 << 12)(functools.partial(_measured, paths.root))
    again = functools.lru_cache(1 << 12)(lambda path: sample(paths.root / path) if path else b"-")

    def measure(numbered: tuple[int, str]) -> Measured:
        turn, path = numbered
        if known is None or changed is None or changed[turn]:
            return look(path)
        samples = int(known["samples"][turn])
        fault = known.facts["faults"][-1 - samples] if samples < 0 else ""
        size, changed_at = known["stats"][turn].tolist()
        return Measured(max(samples, 0), fault, (size, changed_at), again(path))

    with ThreadPoolExecutor(THREADS) as pool, _progress(told, len(paths)) as progress:
        for start in range(0, len(paths), BLOCK):
            found = list(pool.map(measure, enumerate(paths.block(start), start)))
            for each in found:
                made.update(each.sample)
                if each.fault and each.fault not in faults:
                    faults.append(each.fault)
            counts = [-1 - faults.index(each.fault) if each.fault else each.samples for each in found]
            writer.add("samples", np.array(counts, np.int32))
            writer.add("stats", np.array([each.stat for each in found], np.int64))
            progress.done(len(found))
    if not len(paths):
        writer.add("samples", np.zeros(0, np.int32))
        writer.add("stats", np.zeros((0, 2), np.int64))
    return {"faults": faults, "identity": {"audio": made.hexdigest()[:16]}}


def _progress(told: str, total: int) -> Progress:
    return Progress(f"{told}: recordings measured", total, patient=True)


def _measured(root: Path, path: str) -> Measured:
    if not path:
        return Measured(0, "", ABSENT, b"-")
    stat = _stat(os.fsencode(root) + b"/", path.encode())  # first: what changes meanwhile is looked at again
    samples, fault = 0, ""
    try:
        samples = min(count_samples(path, max_seconds=math.inf, root=root), MOST_SAMPLES)
    except AudioError as error:
        fault = error.code
    content = sample(root / path)
    if fault in PASSING or (content == b"?" and (root / path).is_file()):
        stat = FAILED
    return Measured(samples, fault, stat, content)


def sample(file: Path) -> bytes:
    """Return the size of a file and what stands in its middle; '?' of what cannot be read or is no regular file."""
    try:
        if not file.is_file():  # a pipe would be waited for for ever
            return b"?"
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(size // 2)
            return b"%d:" % size + stream.read(SAMPLE_BYTES)
    except OSError:
        return b"?"
