"""What a run shows on the console."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping

import jax

from ieat_jax.progress import in_words

SPEED = ("_seconds", "_per_second")  # endings of names
OPTIMIZER = ("grad_norm", "learning_rate", "skipped_steps")


def say(text: str, write: Callable[[str], None] | None = None) -> None:
    """A line on the console, of process 0. A console that is gone (a closed pipe or terminal) stops no run.

    `write`: how, instead of `print`.
    """
    if jax.process_index() != 0:
        return
    try:
        if write is not None:
            write(text)
        else:
            print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)


@contextlib.contextmanager
def working(what: str, write: Callable[[str], None], *, every: float = 10.0) -> Iterator[None]:
    """Say what is being done, every so many seconds for how long, and at last how long it took."""
    began, over = time.monotonic(), threading.Event()

    def watch() -> None:
        while not over.wait(every):
            write(f"{what}: {in_words(time.monotonic() - began)} so far")

    write(what)
    thread = threading.Thread(target=watch, name="working", daemon=True)
    thread.start()
    try:
        yield
        done = True
    except BaseException:
        done = False
        raise
    finally:
        over.set()
        thread.join()
        took = time.monotonic() - began
        if done and took >= 1:
            write(f"{what}: done in {in_words(took)}")


def grouped(values: Mapping[str, float], losses: Collection[str]) -> dict[str, dict[str, float]]:
    """Metrics by what they are about: the loss and its parts (`losses`), the optimiser, the data, the speed."""
    groups: dict[str, dict[str, float]] = {"loss": {}, "optimizer": {}, "data": {}, "speed": {}}
    for name in sorted(values, key=lambda name: name != "loss"):
        speed = "speed" if name.endswith(SPEED) else "data"
        group = "loss" if name == "loss" or name in losses else "optimizer" if name in OPTIMIZER else speed
        groups[group][name] = values[name]
    return {group: members for group, members in groups.items() if members}


def format_metrics(values: Mapping[str, float]) -> str:
    """'loss 1.234  grad_norm 0.5600': four digits, large numbers with separators."""
    return "  ".join(f"{name} {_digits(value)}" for name, value in values.items())


def _digits(value: float) -> str:
    if not math.isfinite(value) or value == int(value):
        return f"{value:,.0f}" if math.isfinite(value) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


class ProgressBar:
    """A `rich` progress bar over steps."""

    def __init__(self, total: int, done: int):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

        columns = ("training", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
        self._progress = Progress(*columns, refresh_per_second=4)
        self._task = self._progress.add_task("training", total=total, completed=done)
        self._progress.start()

    def move(self, step: int) -> None:
        """Show that `step` is done."""
        self._progress.update(self._task, completed=step)

    def print(self, text: str) -> None:
        """Write a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away."""
        self._progress.stop()
