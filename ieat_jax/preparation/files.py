"""Work on many sound files: each by itself, in processes, and not twice when it was stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ieat_jax.audio.files import AudioError
from ieat_jax.storage import local_path

Job = tuple[str, str]  # a file, and the folder that it lies in
Work = Callable[[Job], tuple[str, Any]]  # a function of a module: the file, and what was made of it or its AudioError
Setup = tuple[Callable[..., None], tuple[Any, ...]]  # what every process calls before it works
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ALONE = 8  # files that are too few for a process of their own


class Journal:
    """A file of what was made of sound files: a line for each, which counts while the file and `identity` are those.

    `identity`: what it depends on besides the sound; what is noted is JSON.
    """

    def __init__(self, path: Path, root: Path, identity: Any):
        self.path, self.root, self.identity = local_path(path, "journal"), root, identity

    def read(self, files: Iterable[str]) -> dict[str, Any]:
        """What is known already."""
        if not self.path.is_file():
            return {}
        lines, wanted = {}, set(files)
        for line in self.path.read_bytes().splitlines():
            mark, _, text = line.partition(b" ")
            if mark != _mark(text):  # the last line may be cut off, and any may be damaged
                continue
            entry = json.loads(text)
            if (entry["identity"], entry["root"]) == (self.identity, str(self.root)) and entry["file"] in wanted:
                lines[entry["file"]] = entry
        return {file: entry["made"] for file, entry in lines.items() if entry["state"] == self._state(file)}

    def note(self, file: str, made: Any) -> None:
        """Add one."""
        entry = {"file": file, "root": str(self.root), "state": self._state(file), "identity": self.identity}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(entry | {"made": made}).encode()
        with self.path.open("ab") as out:
            out.write(_mark(text) + b" " + text + b"\n")

    def _state(self, file: str) -> list[int]:
        with suppress(OSError):
            status = (self.root / file).stat()
            return [status.st_size, status.st_mtime_ns]
        return []


def _mark(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def work_on(
    files: Sequence[str],
    root: Path,
    work: Work,
    *,
    setup: Setup | None = None,
    workers: int | None = None,
    journal: Journal | None = None,
    plain: Callable[[Any], Any] = lambda made: made,
    again: Callable[[Any], Any] = lambda made: made,
) -> Iterator[tuple[str, Any]]:
    """(file, what `work` makes of it or its AudioError), in the order given; `workers` processes (default: all cores).

    Whatever goes wrong with one file, its process included, is a result like another. `journal`: keeps what was made,
    so that work that was cut off is not done again; `plain` turns what was made into JSON, `again` the other way.
    """
    known = {} if journal is None else journal.read(files)
    jobs = [(file, str(root)) for file in files if file not in known]
    workers = min(workers or os.cpu_count() or 1, -(-len(jobs) // _ALONE))
    if workers <= 1:
        if setup is not None:
            setup[0](*setup[1])
        found = map(work, jobs)
    else:
        found = _in_processes(jobs, work, setup, workers)
    for file in files:
        if file in known:
            yield file, again(known[file])
            continue
        done, result = next(found)
        if journal is not None and not isinstance(result, AudioError):
            journal.note(done, plain(result))
        yield done, result


def _in_processes(jobs: Sequence[Job], work: Work, setup: Setup | None, workers: int) -> Iterator[tuple[str, Any]]:
    part = 512 * workers  # so that a large corpus is not queued as a whole
    start = 0
    while start < len(jobs):
        with _processes(setup, workers) as pool:
            try:
                while start < len(jobs):
                    for result in pool.map(work, jobs[start : start + part], chunksize=_ALONE):
                        yield result
                        start += 1
                return
            except BrokenProcessPool:
                pass
        # A process was killed: by one of the files that follow. Each is tried on its own, until it is found.
        for job in jobs[start : start + _ALONE * workers]:
            start += 1
            with _processes(setup, 1) as pool:
                try:
                    yield pool.submit(work, job).result()
                except BrokenProcessPool:
                    yield job[0], AudioError("crashed", job[0], "the process that worked on it died")
                    break


@contextmanager
def _processes(setup: Setup | None, workers: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned, not forked: the caller may run threads that a fork would leave in a broken state.
    context = multiprocessing.get_context("spawn")
    initializer, arguments = setup or (None, ())
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, mp_context=context, initializer=initializer, initargs=arguments) as pool,
    ):
        yield pool


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread for linear algebra: they share the cores already."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
