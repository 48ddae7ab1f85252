"""Preemption: SIGTERM asks a run to save and leave; all processes agree on the step."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Knows whether SIGTERM has come. Make it after `jax.distributed.initialize`, ask once per step on every process.

    Where JAX is distributed (one process will do), its service catches the signal on any host and names one step to
    all; a handler of ours would switch that off. Else a handler is installed until `close`.
    """

    def __init__(self) -> None:
        self._distributed = jax.distributed.is_initialized()
        self._asked = threading.Event()
        self._before: Any = None
        if not self._distributed:
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError("Preemption must be made on the main thread: Python handles signals only there")
            self._before = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())

    def requested(self, step: int) -> bool:
        """Whether to save after `step` and exit; the same answer for the same step on all processes."""
        if self._distributed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked.is_set()

    def close(self) -> None:
        """Give SIGTERM its earlier meaning back."""
        if not self._distributed and signal.getsignal(signal.SIGTERM) is not self._before:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def __enter__(self) -> Preemption:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
