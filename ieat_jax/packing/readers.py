"""Reading ahead, by threads or by processes of their own, none of which can hang or die without a word."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.flags
import grain
import threadpoolctl

from ieat_jax.config.sections import DataConfig
from ieat_jax.data.sources.store import DataError
from ieat_jax.errors import UserError
from ieat_jax.packing.signs import Sign, Signs

SHARED = Path("/dev/shm")  # where processes hand over arrays
START = 300.0  # seconds that processes may take to begin
THREADS_OF_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LOOK = 1.0  # seconds between looks at the readers while nothing comes


class Readers(Iterator[Any]):
    """The elements of a dataset from the `first` on, in order, made ahead as `config.data.read_*` says."""

    def __init__(self, dataset: grain.MapDataset, first: int, settings: DataConfig, signs: Signs, *, size: int = 0):
        """Begin to read; `size`: bytes of an element, which processes hand over through shared memory.

        Raises:
            DataError: the shared memory of this machine is too small for that.
        """
        self._settings, self._signs = settings, signs
        self._left = len(dataset) - first
        workers = settings.read_workers
        ahead = settings.read_ahead if not workers else max(settings.read_ahead // workers, 1)
        if workers:
            _check_shared_memory(size * workers * (2 * ahead + 1))
        options = grain.ReadOptions(num_threads=settings.read_threads, prefetch_buffer_size=ahead)
        read = dataset.slice(slice(first, len(dataset))).to_iter_dataset(options)
        if workers:
            if not absl.flags.FLAGS.is_parsed():
                absl.flags.FLAGS.mark_as_parsed()  # Grain asks for flags of its own, which only absl's `app` parses
            multiprocess = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
            read = read.mp_prefetch(multiprocess, worker_init_fn=_begin_worker)
        # Grain's own wait for a process that hangs has no end: it is done by a thread that can be left behind.
        self._made: queue.Queue[Any] = queue.Queue(maxsize=1)
        threading.Thread(target=self._fetch, args=(read,), name="readers", daemon=True).start()

    def __iter__(self) -> Readers:
        return self

    def __next__(self) -> Any:
        """The next element.

        Raises:
            DataError: a reader hangs for longer than `config.data.read_timeout`, or died; names its record.
        """
        if not self._left:
            raise StopIteration
        self._left -= 1
        began = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                element, error = self._made.get(timeout=LOOK)
                break
            waited = time.monotonic() - began
            if waited > self._settings.read_timeout:
                self._check_alive(waited)
        if error is None:
            return element
        if isinstance(error, UserError):
            raise error
        if isinstance(error, StopIteration):
            raise DataError(f"reading ended {self._left + 1} steps too early; start the same command again to go on")
        if died := self._died():
            where = "; ".join(f"at {sign.place}" if sign.place else "between two records" for sign in died)
            raise DataError(
                f"{len(died)} of the {self._settings.read_workers} reading processes ended by themselves or were "
                f"killed, perhaps for memory: {where}. Start the same command again to go on; fewer of them "
                "(config.data.read_workers) take less memory"
            ) from error
        raise error

    def _fetch(self, read: grain.IterDataset) -> None:
        try:
            elements = iter(read)
            while True:
                self._made.put((next(elements), None))
        except BaseException as error:  # told to whoever waits
            self._made.put((None, error))

    def _check_alive(self, waited: float) -> None:
        """Raise where nobody works: a slow reader gives signs of life."""
        limit, signs = self._settings.read_timeout, list(self._signs)
        stuck = [sign for sign in signs if sign.place and sign.seconds > limit]
        begun = len({sign.process for sign in signs}) >= max(self._settings.read_workers, 1)
        if not stuck and (any(sign.seconds <= limit for sign in signs) or (not begun and waited < START)):
            return
        where = "; ".join(f"{sign.place}, for {sign.seconds:.0f} s" for sign in stuck[:3])
        raise DataError(
            f"nothing was read for {waited:.0f} s: {f'a reader is at {where}' if where else 'no reader is at work'}. "
            f"Does the storage hang? config.data.read_timeout (now {limit:g} s) says how long a reader may take; start "
            "the same command again to go on"
        )

    def _died(self) -> list[Sign]:
        """The last signs of reading processes that are gone."""
        alive = {os.getpid(), *(child.pid for child in multiprocessing.active_children())}
        return [sign for sign in self._signs if sign.process not in alive]


def _check_shared_memory(needed: int) -> None:
    with contextlib.suppress(OSError):  # no such folder: another system's shared memory
        free = shutil.disk_usage(SHARED).free
        if free < needed:
            raise DataError(
                f"config.data.read_workers: reading processes hand over batches through {SHARED}, which has "
                f"{free / 2**20:,.0f} MiB free, and need up to {needed / 2**20:,.0f} MiB: make it larger (docker run "
                "--shm-size, a volume of medium Memory on Kubernetes), or lower config.data.read_ahead or read_workers"
            )


def _begin_worker(index: int, count: int) -> None:
    """Leave signals to the run, which saves before it ends; share the cores with the others; end with the run."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threadpoolctl.threadpool_limits(1)  # of libraries that are loaded by now; others will look at the environment
    os.environ.update(dict.fromkeys(THREADS_OF_LIBRARIES, "1"))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)
