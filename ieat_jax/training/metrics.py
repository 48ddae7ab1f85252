"""Metrics: loss parts reduced to means, speed, and where both are written - JSONL, TensorBoard, and the console."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ieat_jax.training.console import ProgressBar, format_metrics

FILE = "metrics.jsonl"
Parts = Mapping[str, tuple[Any, Any]]


def reduce_parts(parts: Parts) -> dict[str, float]:
    """{name: (sum, weight)} -> {name: sum / weight}; what has weight 0 (nothing was measured) is left out."""
    host = zip(parts, jax.device_get(list(parts.values())), strict=True)  # a list: JAX would sort a dict
    return {name: float(total) / float(weight) for name, (total, weight) in host if float(weight) != 0}


def truncate_metrics(path: Path, last_step: int) -> None:
    """Drop lines after `last_step`, and a line that was cut short, so that a resumed run writes no step twice."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    part = path.with_suffix(".part")
    part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(part, path)


class MetricWriter:
    """Writes a run's metrics: `metrics.jsonl` (one line per `write`), `tensorboard/`, and the console.

    The console shows a progress bar on a terminal and plain lines elsewhere. Only process 0 writes; all processes may
    call everything.
    """

    def __init__(self, workdir: str | Path, *, total_steps: int, start_step: int = 0, console: bool = True):
        """`start_step`: the step that the run resumes from; later lines of an earlier attempt are dropped."""
        self._main = jax.process_index() == 0
        self._total, self._file, self._board, self._bar = total_steps, None, None, None
        self._console = console and self._main
        if not self._main:
            return
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        truncate_metrics(workdir / FILE, start_step)
        self._file = (workdir / FILE).open("a", encoding="utf-8")
        from tensorboardX import SummaryWriter  # a second to import: only where it is used

        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1, flush_secs=30)
        if console and sys.stdout.isatty():
            self._bar = ProgressBar(total_steps, start_step)

    def write(self, step: int, metrics: Mapping[str, Any], parts: Parts | None = None) -> dict[str, float]:
        """Record `metrics` (numbers) and `parts` (see `reduce_parts`) of `step`; returns all of them as floats."""
        host = zip(metrics, jax.device_get(list(metrics.values())), strict=True)
        values = reduce_parts(parts or {}) | {name: float(value) for name, value in host}
        if self._main:
            # JSON has no NaN: null stands for a number that is not finite.
            line = {name: value if math.isfinite(value) else None for name, value in values.items()}
            self._file.write(json.dumps({"step": step, **line}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._console:
            self.print(f"step {step}/{self._total}  {format_metrics(values)}")
        return values

    def advance(self, step: int) -> None:
        """Move the progress bar to `step`; call it every step."""
        if self._bar is not None:
            self._bar.move(step)

    def print(self, text: str) -> None:
        """A line on the console, above the progress bar; process 0 only."""
        if self._bar is not None:
            self._bar.print(text)
        elif self._main:
            print(text, flush=True)

    def close(self) -> None:
        """Finish the files and the progress bar."""
        if self._bar is not None:
            self._bar.stop()
        for writer in (self._file, self._board):
            if writer is not None:
                writer.close()
        self._bar = None

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
