"""One thread that computes, and the queue before it: requests are answered in the order of their coming."""

import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ieat_jax.errors import UserError


class BusyError(UserError):
    """More requests wait than the queue holds, or the server is about to end."""


class Job:
    """An answer in the making; `cancel` when nobody waits for it any more."""

    def __init__(self, begin: Callable[[], Iterator[Any]], tell: Callable[[Any], None]):
        self.begin, self.tell = begin, tell
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Free the model: what waits is left out, what runs ends at its next event."""
        self._cancelled.set()


class Worker:
    """Runs jobs one by one. Each tells its events, and an exception as the last one where it fails."""

    def __init__(self, most_waiting: int):
        self.most_waiting = most_waiting
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: list[Job] = []  # that wait or run
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="model")

    def start(self) -> None:
        """Begin to work; whoever starts it has to stop it."""
        self._thread.start()

    @property
    def open(self) -> int:
        """How many jobs wait or run, those that were cancelled left out."""
        with self._lock:
            return sum(not job.cancelled for job in self._open)

    def submit(self, begin: Callable[[], Iterator[Any]], tell: Callable[[Any], None]) -> Job:
        """Queue a job: `begin` and the iterator that it returns run in the worker's thread, as does `tell`.

        Raises:
            BusyError: the queue is full, or the server ends.
        """
        job = Job(begin, tell)
        with self._lock:
            if self._stopped:
                raise BusyError("the server is about to end; ask again later")
            if sum(not other.cancelled for other in self._open) > self.most_waiting:
                raise BusyError(f"{self.most_waiting} requests wait already; ask again later")
            self._open.append(job)
        self._jobs.put(job)
        return job

    def stop(self) -> None:
        """Take no more jobs, end what runs at its next event, and tell those who wait; returns when all is told."""
        with self._lock:
            self._stopped = True
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._run(job)
            except UserError as error:
                job.tell(error)
            except Exception as error:
                traceback.print_exception(error, file=sys.stderr)  # a bug of ours: it belongs into the server's log
                job.tell(error)
            finally:
                with self._lock:
                    self._open.remove(job)

    def _run(self, job: Job) -> None:
        if job.cancelled:
            return
        if self._stopped:
            raise BusyError("the server is about to end; ask again later")
        for event in job.begin():
            if job.cancelled:
                return
            if self._stopped:
                raise BusyError("the server is about to end; ask again later")
            job.tell(event)
