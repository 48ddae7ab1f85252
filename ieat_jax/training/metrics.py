"""Metrics: summed over steps, reduced to means, and written: JSONL, TensorBoard, and the console."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ieat_jax.progress import in_words
from ieat_jax.training.console import ProgressBar, format_metrics, grouped, say
from ieat_jax.training.metric_files import Board, JsonLines

FILE = "metrics.jsonl"
Parts = Mapping[str, tuple[Any, Any]]


def reduce_parts(parts: Parts) -> dict[str, float]:
    """{name: (sum, weight)} -> {name: sum / weight}; what has weight 0 (nothing was measured) is left out."""
    host = zip(parts, jax.device_get(list(parts.values())), strict=True)  # a list: JAX would sort a dict
    return {name: float(total) / float(weight) for name, (total, weight) in host if float(weight) != 0}


@functools.partial(jax.jit, donate_argnums=0)
def _added(sums: Any, new: Any) -> Any:
    return jax.tree.map(jax.numpy.add, sums, new)


class Window:
    """The sums of a step's metrics since the last line of metrics, which is the mean over these steps.

    They go into every checkpoint: the first line after a resume is over the same steps as if the run had never stopped.
    """

    def __init__(self, stored: Mapping[str, Any] | None = None):
        """`stored`: what `as_json` returned when the checkpoint was saved that a run goes on from."""
        self.steps, self._sums, self._stored = 0, None, stored

    def add(self, metrics: Any) -> None:
        """Add the metrics of a step, a tree of numbers."""
        if self._stored is not None:
            self._sums, self.steps = _like(metrics, self._stored)
            self._stored = None
        self._sums = metrics if self._sums is None else _added(self._sums, metrics)
        self.steps += 1

    def take(self) -> tuple[Any, int]:
        """(sums on the host, their steps); the next window begins."""
        sums, steps = jax.device_get(self._sums), self.steps
        self._sums, self.steps = None, 0
        return sums, steps

    def as_json(self) -> dict[str, Any] | None:
        """The window as it is kept in a checkpoint; None: nothing was added since the last line."""
        if self._sums is None:
            return None
        return {"steps": self.steps, "sums": {name: value.item() for name, value in _by_path(self._sums).items()}}


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _like(metrics: Any, stored: Mapping[str, Any]) -> tuple[Any, int]:
    """(sums, steps) as stored, of the types of `metrics`; (None, 0) where other metrics were summed then."""
    names, sums = _by_path(metrics), stored["sums"]
    if names.keys() != sums.keys():
        return None, 0
    leaves = [np.asarray(sums[name], leaf.dtype) for name, leaf in names.items()]
    return jax.tree.unflatten(jax.tree.structure(metrics), leaves), stored["steps"]


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
            groups = grouped(values, parts or ())
            self._board.write(
                step, {f"{group}/{name}": v for group, members in groups.items() for name, v in members.items()}
            )
        if self._console:
            shown = [f"step {step}/{self._total}", *map(format_metrics, groups.values())]
            if step < self._total and "step_seconds" in values:
                shown.append(f"about {in_words(values['step_seconds'] * (self._total - step))} left")
            self.print(" | ".join(shown))
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
