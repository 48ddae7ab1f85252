"""A run's folder belongs to one attempt at a time: `claim.json` names it while it lives.

The file is locked, which ends with the process however it ends. Where a lock of another machine may not be seen (some
network file systems), the owner's sign of life, a number that it counts up in the file, decides.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ieat_jax import processes
from ieat_jax.runs.folder import RunError, cannot_write
from ieat_jax.runs.paths import absolute

FILE = "claim.json"
BEAT = 5.0  # seconds between two signs of life
DEAD = 20.0  # seconds without one
SEEN = 10.0  # seconds until a network file system shows a new file everywhere


class Claim:
    """The right to write into a run's folder. All processes make it; process 0 holds it for all."""

    def __init__(self, folder: str | Path):
        """Make the folder where there is none.

        Raises:
            RunError: another attempt is using it, or it cannot be written.
        """
        absolute(folder)  # a path that cannot be used is refused before anything is made
        self.folder = Path(folder)
        self._held: _Held | None = None
        said: dict[str, Any] | str | None = None
        if processes.index() == 0:
            try:
                self._held = _Held(self.folder)
                said = self._held.owner
            except RunError as error:
                said = str(error)
        owner = processes.gather("claim", said)[0]
        if isinstance(owner, str):
            raise RunError(owner)
        seen = processes.gather("claim seen", self._held is not None or _sees(self.folder / FILE, owner))
        blind = ", ".join(str(process) for process, sees in enumerate(seen) if not sees)
        if blind:
            self.close()
            raise RunError(
                f"{self.folder}: process {blind} does not see the folder that process 0 writes to; all must see the "
                "same one under this path, on a file system that they share"
            )

    def close(self) -> None:
        """Give the folder back."""
        if self._held is not None:
            self._held.close()
        self._held = None

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class _Held:
    """The claim of this process."""

    def __init__(self, folder: Path):
        self._path = folder / FILE
        self._made = not folder.exists()
        try:
            _make(folder)
            self._file, locked = _take(self._path)
        except OSError as error:
            raise cannot_write(folder, error.strerror or str(error)) from error
        self.owner = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "kernel": _kernel() if locked else "",
        }
        try:
            self._beat(0)
        except OSError as error:
            self._give_back()
            raise cannot_write(folder, error.strerror or str(error)) from error
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._live, name="claim", daemon=True)
        self._thread.start()

    def _beat(self, number: int) -> None:
        content = json.dumps(self.owner | {"beat": number}).encode() + b"\n"
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, len(content))
        os.fsync(self._file)

    def _live(self) -> None:
        number = 0
        while not self._closed.wait(BEAT):
            number += 1
            with contextlib.suppress(OSError):  # a full disk does not end a run that can go on
                owner = _read(self._file)
                if owner is not None and {name: owner.get(name) for name in self.owner} != self.owner:
                    print(
                        f"{self._path.parent}: taken over by {_name(owner)} while this process was asleep; ending it",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(2)
                self._beat(number)

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=1)
        self._give_back()

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == os.fstat(self._file).st_ino:
                self._path.unlink()
            if self._made:
                self._path.parent.rmdir()  # where nothing was written
        os.close(self._file)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(f"{folder}: is not a folder, or lies below a file; give another workdir") from error


def _take(path: Path) -> tuple[int, bool]:
    """(the claim's file, open, whether it is locked), once nobody alive has it."""
    silent = None  # an owner who gave no sign of life
    while True:
        with contextlib.ExitStack() as stack:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            stack.callback(os.close, file)
            locked, owner = _lock(file), _read(file)
            if locked is False:
                raise _in_use(path, owner)
            if not _same_file(path, file):
                continue  # given back just now
            # Where locks work, an owner on this machine would still hold one.
            if owner in (None, silent) or (locked and owner.get("kernel") == _kernel()):
                stack.pop_all()
                return file, bool(locked)
        print(f"{path.parent}: was in use by {_name(owner)}; waiting {DEAD:.0f} s for a sign of life", flush=True)
        if _beats(path, owner):
            raise _in_use(path, owner)
        silent = owner


def _in_use(path: Path, owner: dict[str, Any] | None) -> RunError:
    return RunError(f"{path.parent}: in use by {_name(owner)}; stop it, or use another workdir")


def _lock(file: int) -> bool | None:
    """True: locked; False: somebody has the lock; None: there are no locks here."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _same_file(path: Path, file: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file).st_ino
    except FileNotFoundError:
        return False


def _read(file: int) -> dict[str, Any] | None:
    """Who holds the claim; None: nobody, or it cannot be read."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def _beats(path: Path, owner: dict[str, Any]) -> bool:
    """Wait for a sign of life of an owner who may be on another machine."""
    end = time.monotonic() + DEAD
    while time.monotonic() < end:
        time.sleep(min(BEAT, DEAD) / 5)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # anew: a network file system shows what is there now
        except FileNotFoundError:
            return False
        try:
            if _read(file) not in (owner, None):
                return True
        finally:
            os.close(file)
    return False


def _name(owner: dict[str, Any] | None) -> str:
    if owner is None:
        return "another process"
    return f"process {owner.get('process')} on {owner.get('host')} since {owner.get('since')}"


def _sees(path: Path, owner: dict[str, Any]) -> bool:
    """Whether the claim of `owner`, made just now on another machine, is in this folder, too."""
    end = time.monotonic() + SEEN
    while True:
        with contextlib.suppress(OSError, ValueError):
            there = json.loads(path.read_text(encoding="utf-8"))
            if {name: there.get(name) for name in owner} == owner:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def _kernel() -> str:
    """The start of the machine: equal in all of its containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
