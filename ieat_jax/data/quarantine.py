"""Bad records: set aside, counted and reported, and the end of a run when there are too many."""

import errno
import json
import sys
import threading
from collections import Counter
from pathlib import Path

from ieat_jax.errors import UserError
from ieat_jax.storage import special


class QuarantineError(UserError):
    """More records are bad than the run accepts."""


class Quarantine:
    """Notes bad records, each once, and raises in `check` when their share of `total` exceeds `max_share`.

    `total` is what was looked at, good and bad. With `path`, every note is also appended there as one JSON line; a file
    of an earlier run is replaced. All methods can be called from any thread.
    """

    def __init__(self, max_share: float, path: Path | None = None):
        if not 0 <= max_share <= 1:
            raise UserError(f"max_share={max_share}: the share of bad records that is accepted lies between 0 and 1")
        self.max_share = max_share
        self.path = None if path is None else Path(path)
        self.total = 0
        self._notes: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def expect(self, count: int) -> None:
        """Add `count` records to the total."""
        with self._lock:
            self.total += count

    def note(self, record_id: str, code: str, message: str, source: str = "") -> bool:
        """Set a record of a source aside; True if it was not noted before."""
        with self._lock:
            name = f"{source}: {record_id}" if source else record_id
            if name in self._notes:
                return False
            self._notes[name] = (code, message)
            if self.path is not None:
                fields = {"source": source} if source else {}
                fields |= {"id": record_id, "code": code, "message": message}
                line = json.dumps(fields, ensure_ascii=True)
                try:
                    _append(self.path, line)
                except OSError as error:  # a list that cannot be written is no reason to end the work
                    print(
                        f"{self.path}: cannot be written ({error.strerror or error}); bad records are counted",
                        file=sys.stderr,
                    )
                    self.path = None
            return True

    @property
    def notes(self) -> dict[str, tuple[str, str]]:
        """Record -> (code, message), in the order of their discovery; "SOURCE: ID" where a source was named."""
        with self._lock:
            return dict(self._notes)

    def __len__(self) -> int:
        return len(self._notes)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._notes

    def summary(self) -> dict[str, int]:
        """Number of bad records per code, most frequent first."""
        return dict(Counter(code for code, _ in self.notes.values()).most_common())

    def check(self) -> None:
        """Raise QuarantineError if more than the accepted share is bad."""
        notes, total = self.notes, self.total
        if not notes or len(notes) <= self.max_share * total:
            return
        counts = ", ".join(f"{count} x {code}" for code, count in self.summary().items())
        first = "; ".join(message for _, message in list(notes.values())[:3])
        report = f"; all are in {self.path}" if self.path is not None else ""
        raise QuarantineError(
            f"{len(notes)} of {total} records are bad, more than the accepted share of {self.max_share:g} "
            f"({counts}). First: {first}{report}. Repair or remove them, or accept a larger share"
        )


def _append(path: Path, line: str) -> None:
    if kind := special(path):  # which would be waited for
        raise OSError(errno.EINVAL, f"is {kind}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
