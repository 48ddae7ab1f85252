"""What a run shows on the console."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping

import jax


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
