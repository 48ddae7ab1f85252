"""Signs of life: what every thread and process that reads is at, so that one which hangs or dies can be named."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

SIZE = 1024  # bytes of a sign


@dataclasses.dataclass(frozen=True)
class Sign:
    """What a reader was at when it was heard of last."""

    process: int
    seconds: float  # since then
    place: str  # of the record; '' = at none


class Signs:
    """A folder with a small file for every reader, which overwrites it; for any number of threads and processes."""

    def __init__(self, folder: Path | None = None):
        """Open a folder, or make one that goes with this object."""
        if folder is None:
            self._made = tempfile.TemporaryDirectory(prefix="ieat-readers-", ignore_cleanup_errors=True)
            folder = Path(self._made.name)
        self._folder = folder
        self._here = threading.local()

    def __reduce__(self) -> tuple[type[Signs], tuple[Path]]:
        return type(self), (self._folder,)

    def at(self, place: str) -> None:
        """Tell that this thread turns to a record; '' = it is done."""
        file = getattr(self._here, "file", None)
        if file is None:
            name = f"{os.getpid()}-{threading.get_native_id()}"
            file = self._here.file = open(self._folder / name, "wb", buffering=0)  # noqa: SIM115 (as long as its thread)
        os.pwrite(file.fileno(), f"{time.monotonic()} {place}".encode()[:SIZE].ljust(SIZE), 0)

    def __iter__(self) -> Iterator[Sign]:
        """The last sign of every reader."""
        now = time.monotonic()
        for file in sorted(self._folder.iterdir()):
            when, _, place = file.read_bytes().decode(errors="replace").partition(" ")
            if when:
                yield Sign(int(file.name.partition("-")[0]), now - float(when), place.rstrip())
