"""How far a long part of the work is, and how long it will take: on stderr, for a terminal and for a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TextIO, TypeVar

Item = TypeVar("Item")


def in_words(seconds: float) -> str:
    """'40 s', '3 min', '1 h 5 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """`with Progress("replies", 240) as progress: ... progress.done(32)`, from any thread but one at a time.

    Work of several parts says which one this is: "[2/3] replies: 32 of 240, about 3 min left". A part that is not
    counted has a total of 1; None: nobody knows how much there is, "recordings: 512 in 40 s so far". A terminal shows
    one line that is written over. Elsewhere a line is written at the start, at most every `every` seconds, and, where
    it took longer than that, at the end.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        *,
        part: tuple[int, int] | None = None,
        every: float = 5.0,
        patient: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`part`: (which, of how many), from 1. `patient`: silent for `every` seconds. `stream`: None = stderr."""
        self._what = what if part is None else f"[{part[0]}/{part[1]}] {what}"
        self._total, self._clock = total, clock
        self._stream = sys.stderr if stream is None else stream
        self._over = self._stream.isatty()
        self._patience = every if patient else 0.0
        self._every = 0.2 if self._over else every
        self._count, self._began, self._shown, self._width = 0, clock(), clock(), 0

    def __enter__(self) -> "Progress":
        if self._total != 0 and not self._patience:
            self._show(self._what if self._total in (None, 1) else f"{self._what}: {self._total} to do")
        return self

    def done(self, count: int) -> None:
        """`count` more are done."""
        self._count += count
        now = self._clock()
        took = now - self._began
        if not self._count or self._count == self._total or now - self._shown < self._every or took < self._patience:
            return
        self._shown = now
        if self._total is None:
            self._show(f"{self._what}: {self._count} in {in_words(took)} so far")
        elif self._count < self._total:
            left = took / self._count * (self._total - self._count)
            self._show(f"{self._what}: {self._count} of {self._total}, about {in_words(left)} left")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = self._clock() - self._began
        if took < self._patience:
            return
        if kind in (None, GeneratorExit) and (self._over or took >= self._every):
            self._show(f"{self._what}: {'done' if self._total == 1 else self._count} in {in_words(took)}")
        if self._over:
            print(file=self._stream, flush=True)

    def _show(self, line: str) -> None:
        if self._over:
            self._stream.write("\r" + line.ljust(self._width))
            self._stream.flush()
            self._width = len(line)
        else:
            print(line, file=self._stream, flush=True)


def counted(
    items: Iterable[Item], what: str, total: int | None, *, part: tuple[int, int] | None = None
) -> Iterator[Item]:
    """The items, with a `Progress` over them."""
    with Progress(what, total, part=part) as progress:
        for item in items:
            yield item
            progress.done(1)
