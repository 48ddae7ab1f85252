"""Where metrics are written: `metrics.jsonl` and TensorBoard's file.

Both only watch a run: what they cannot write (a full disk) is left out, with a word, and training goes on.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def truncate_metrics(path: Path, last_step: int) -> None:
    """Drop lines after `last_step`, and a line that was cut short, so that a resumed run writes no step twice."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    part = path.with_suffix(".part")
    part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(part, path)


def set_aside(path: Path) -> Path | None:
    """Rename the file of an attempt that cannot go on, so that nothing is lost; None: there is none.

    Raises:
        OSError: it cannot be renamed.
    """
    if not path.is_file():
        return None
    names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
    target = next(name for name in names if not name.exists())
    path.rename(target)
    return target


class JsonLines:
    """A file of JSON lines that has whole lines only; one that cannot be written is missing, later ones are tried."""

    def __init__(self, path: Path, last_step: int):
        """Lines of an earlier attempt after `last_step` are dropped."""
        self._path, self._end, self._failing = path, 0, False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            truncate_metrics(path, last_step)
            self._end = path.stat().st_size if path.exists() else 0
            self._append(b"")
        except OSError as error:
            self._failed(error)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        try:
            self._append(json.dumps(line).encode() + b"\n")
            self._failing = False
        except OSError as error:
            self._failed(error)

    def _append(self, content: bytes) -> None:
        # Of a pipe that nobody reads, opening would wait: an error, as is shortening any pipe or device.
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o644)
        try:
            os.ftruncate(file, self._end)  # what a full disk cut short
            if os.pwrite(file, content, self._end) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)
        self._end += len(content)

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            _say(f"{self._path}: cannot be written ({error.strerror or error}); lines are left out until it can")
        self._failing = True


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Inside, torch cannot be imported: tensorboardX would load it where it is installed, for what is not used here."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


class Board:
    """TensorBoard's file, of scalars. Written by the thread that calls, which waits for no other that may have died."""

    def __init__(self, folder: Path, purge_step: int):
        """Steps from `purge_step` on that an earlier attempt wrote are hidden."""
        with _without_torch():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2

        self._folder, self._event, self._summary = folder, event_pb2.Event, summary_pb2.Summary
        self._writer = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.write_event(self._event(wall_time=time.time(), step=purge_step, session_log=log))
            self._writer.flush()
        except OSError as error:
            self._failed(error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step."""
        if self._writer is None:
            return
        summary = self._summary(value=[self._summary.Value(tag=n, simple_value=v) for n, v in values.items()])
        try:
            self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
            self._writer.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        # What was cut short could not be read on: nothing follows it in this attempt.
        _say(
            f"{self._folder}: cannot be written ({error.strerror or error}); TensorBoard gets nothing more of this run"
        )
        self._writer = None

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._failed(error)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
