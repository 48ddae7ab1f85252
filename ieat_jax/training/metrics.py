"""Metrics: loss parts reduced to means, speed, and where both are written - JSONL, TensorBoard, and the console."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ieat_jax.training.console import ProgressBar, format_metrics, say
from ieat_jax.training.metric_files import Board, JsonLines

FILE = "metrics.jsonl"
Parts = Mapping[str, tuple[Any, Any]]


def reduce_parts(parts: Parts) -> dict[str, float]:
    """{name: (sum, weight)} -> {name: sum / weight}; what has weight 0 (nothing was measured) is left out."""
    host = zip(parts, jax.device_get(list(parts.values())), strict=True)  # a list: JAX would sort a dict
    return {name: float(total) / float(weight) for name, (total, weight) in host if float(weight) != 0}


class MetricWriter:
    """Writes a run's metrics: `metrics.jsonl` (one line per `write`), `tensorboard/`, and the console.

    The console shows a progress bar on a terminal and plain lines elsewhere. Only process 0 writes; all processes may
    call everything. What cannot be written is left out, with a word: metrics watch a run, and never stop it.
    """

    def __init__(self, workdir: str | Path, *, total_steps: int, start_step: int = 0, console: bool = True):
        """`start_step`: the step that the run resumes from; later lines of an earlier attempt are dropped."""
        self._main = jax.process_index() == 0
        self._total, self._file, self._board, self._bar = total_steps, None, None, None
        self._console = console and self._main
        if not self._main:
            return
        workdir = Path(workdir)
        self._file = JsonLines(workdir / FILE, start_step)
        self._board = Board(workdir / "tensorboard", start_step + 1)
        if console and sys.stdout.isatty():
            self._bar = ProgressBar(total_steps, start_step)

    def write(self, step: int, metrics: Mapping[str, Any], parts: Parts | None = None) -> dict[str, float]:
        """Record `metrics` (numbers) and `parts` (see `reduce_parts`) of `step`; returns all of them as floats."""
        host = zip(metrics, jax.device_get(list(metrics.values())), strict=True)
        values = reduce_parts(parts or {}) | {name: float(value) for name, value in host}
        if self._main:
            # JSON has no NaN: null stands for a number that is not finite.
            line = {name: value if math.isfinite(value) else None for name, value in values.items()}
            self._file.write({"step": step, **line})
            self._board.write(step, values)
        if self._console:
            self.print(f"step {step}/{self._total}  {format_metrics(values)}")
        return values

    def advance(self, step: int) -> None:
        """Move the progress bar to `step`; call it every step."""
        if self._bar is not None:
            self._bar.move(step)

    def print(self, text: str) -> None:
        """A line on the console, above the progress bar; process 0 only."""
        say(text, None if self._bar is None else self._bar.print)

    def close(self) -> None:
        """Finish the files and the progress bar."""
        if self._bar is not None:
            with contextlib.suppress(OSError):  # a terminal that is gone
                self._bar.stop()
        if self._board is not None:
            self._board.close()
        self._bar = None

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
