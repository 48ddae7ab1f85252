"""Stopping a run: SIGTERM or Ctrl-C asks it to save and leave, which it does within seconds wherever it is.

All processes agree on the step. A second signal ends the process at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from ieat_jax import processes

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPPED = 75  # exit code: stopped at request, start again to go on
GRACE = 7.0  # seconds until a process that is asked to leave and does not come to it is ended
ONE = 0.3  # seconds within which signals count as one: launchers and process groups send it twice
LAST = 2.0  # seconds after a run's end until threads that hang are left behind,
TOGETHER = 30.0  # and of one of several processes, which end together


class Asked(BaseException):
    """Raised where a run waits and is asked to leave."""


class Preemption:
    """Knows whether the run is asked to leave. Make it after `jax.distributed.initialize`, on the main thread.

    `requested` is asked once per step on every process. What may wait for long stands inside of `interruptible`. A
    process that does neither for some seconds (reads from a file system that hangs, compiles, waits for others) has
    nothing that could still be saved, and is ended with code 75; `saving` has all the time that it needs.

    Where JAX is distributed (one process will do), its service names one step to all.
    """

    def __init__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("Preemption must be made on the main thread: Python handles signals only there")
        self._distributed = jax.distributed.is_initialized()
        self._asked = threading.Event()
        self._interruptible = self._busy = False
        self._since, self._step_seconds, self._steps = time.monotonic(), 0.0, 0
        self._tell = _handler_of_jax() if self._distributed else lambda: None
        # Python's handlers wait until the main thread leaves C code; of the pipe another thread learns at once.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._wait_for_signals, name="preemption", daemon=True)
        self._watch.start()

    def _handle(self, number: int, frame: Any) -> None:
        self._asked.set()
        if self._interruptible:
            self._interruptible = False
            raise Asked

    @contextlib.contextmanager
    def interruptible(self, *, alone: bool = False) -> Iterator[None]:
        """Let a request end what is inside at once: nothing there is worth finishing.

        `alone`: only where there are no other processes, which would wait for this one's part of the step.

        Raises:
            Asked: the run was asked to leave.
        """
        if alone and self._distributed:
            yield
            return
        self._interruptible = True
        try:
            if self._asked.is_set():
                raise Asked
            yield
        finally:
            self._interruptible = False

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, a process is not ended."""
        self._busy = True
        try:
            yield
        finally:
            self._busy, self._since = False, time.monotonic()

    def requested(self, step: int) -> bool:
        """Whether to save after `step` and exit; the same answer for the same step on all processes."""
        now = time.monotonic()
        if self._steps:  # the first one compiles
            self._step_seconds = now - self._since
        self._since, self._steps = now, self._steps + 1
        if self._distributed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked.is_set()

    def _wait_for_signals(self) -> None:
        """Note the first signal, end the process at the second, or when the first one has no effect."""
        asked_at = None
        while not self._closed.is_set():
            readable, _, _ = select.select([self._read], [], [], None if asked_at is None else 0.1)
            for number in os.read(self._read, 64) if readable else b"":
                if number not in SIGNALS or (asked_at is not None and time.monotonic() - asked_at < ONE):
                    continue
                if asked_at is not None:
                    processes.leave(128 + number, "asked twice to leave: ended without saving")
                asked_at = time.monotonic()
                self._asked.set()
                self._tell()
            if asked_at is None or self._busy or self._closed.is_set():
                continue
            # A step that takes long is finished first.
            waited = time.monotonic() - max(asked_at, self._since)
            if waited > max(GRACE, 2 * self._step_seconds):
                processes.leave(
                    STOPPED, f"asked to leave, but stuck in {_main_thread_at()}: ended; the newest checkpoint stands"
                )

    def close(self) -> None:
        """Give the signals their earlier meaning back."""
        if self._closed.is_set():
            return
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        if self._distributed:
            _restore_handler_of_jax(self._tell)
        self._closed.set()
        os.write(self._write, b"\0")
        self._watch.join(timeout=1)
        os.close(self._write)
        os.close(self._read)

    def __enter__(self) -> Preemption:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def exit_soon(code: int) -> None:
    """End the process with `code` in a moment, although threads wait: Python's own exit waits for all of them."""

    def end() -> None:
        time.sleep(TOGETHER if processes.count() > 1 else LAST)
        processes.end(code)

    threading.Thread(target=end, daemon=True).start()


def _main_thread_at() -> str:
    """'file.py:12 read < ...': where the main thread is, and what of ours called it."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    calls = [f"{os.path.basename(call.filename)}:{call.lineno} {call.name}" for call in traceback.extract_stack(frame)]
    return " < ".join(reversed(calls[-6:]))


def _handler_of_jax() -> Callable[[], None]:
    """What JAX's service does at SIGTERM, as a function: a handler of ours takes its place, and hands on to it."""
    native = ctypes.create_string_buffer(512)  # struct sigaction, which begins with the handler
    ctypes.CDLL(None).sigaction(int(signal.SIGTERM), None, native)
    address = ctypes.c_void_p.from_buffer(native).value
    if not address or address == 1:  # SIG_DFL, SIG_IGN
        return lambda: None
    function = ctypes.CFUNCTYPE(None, ctypes.c_int)(address)

    def tell() -> None:
        function(int(signal.SIGTERM))

    tell.address = address
    return tell


def _restore_handler_of_jax(tell: Callable[[], None]) -> None:
    address = getattr(tell, "address", None)
    if address is not None:
        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        libc.signal(int(signal.SIGTERM), address)
