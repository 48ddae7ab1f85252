"""Speed, and how a step's time divides."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax


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
