"""Metrics: loss parts reduced to means, speed, and where both are written - JSONL, TensorBoard, and the console."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

FILE = "metrics.jsonl"
Parts = Mapping[str, tuple[Any, Any]]


def reduce_parts(parts: Parts) -> dict[str, float]:
    """{name: (sum, weight)} -> {name: sum / weight}; what has weight 0 (nothing was measured) is left out."""
    host = zip(parts, jax.device_get(list(parts.values())), strict=True)  # a list: JAX would sort a dict
    return {name: float(total) / float(weight) for name, (total, weight) in host if float(weight) != 0}


class Throughput:
    """Speed and how the time of a step divides, since the last `report`.

    `with throughput.data(): batch = next(batches)` around what waits for input, `throughput.step(...)` after each step.
    """

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._began, self._data, self._steps, self._tokens, self._audio = time.perf_counter(), 0.0, 0, [], []

    @contextlib.contextmanager
    def data(self) -> Iterator[None]:
        """Time inside counts as waiting for data."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._data += time.perf_counter() - began

    def step(self, tokens: Any, audio_seconds: Any) -> None:
        """One step is done (or under way on the device); counts are global, numbers or arrays of the device."""
        self._steps += 1
        self._tokens.append(tokens)
        self._audio.append(audio_seconds)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time inside (a checkpoint, an evaluation) does not count."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - began

    def report(self) -> dict[str, float]:
        """Per step: seconds, of which waiting for data and computing; and tokens and seconds of audio per second.

        Empty without steps. Call it after the last step's metrics have arrived, so that its computation is counted.
        """
        if not self._steps:
            return {}
        tokens, audio = jax.device_get((self._tokens, self._audio))
        seconds = time.perf_counter() - self._began
        report = {
            "step_seconds": seconds / self._steps,
            "data_seconds": self._data / self._steps,
            "compute_seconds": (seconds - self._data) / self._steps,
            "tokens_per_second": float(sum(tokens)) / seconds,
            "audio_seconds_per_second": float(sum(audio)) / seconds,
        }
        self._restart()
        return report


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
            self._bar = _ProgressBar(total_steps, start_step)

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


def format_metrics(values: Mapping[str, float]) -> str:
    """'loss 1.234  grad_norm 0.5600': four digits, large numbers with separators."""
    return "  ".join(f"{name} {_digits(value)}" for name, value in values.items())


def _digits(value: float) -> str:
    if not math.isfinite(value) or value == int(value):
        return f"{value:,.0f}" if math.isfinite(value) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


class _ProgressBar:
    """A `rich` progress bar over steps."""

    def __init__(self, total: int, done: int):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

        columns = ("training", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
        self._progress = Progress(*columns, refresh_per_second=4)
        self._task = self._progress.add_task("training", total=total, completed=done)
        self._progress.start()

    def move(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def print(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        self._progress.stop()
