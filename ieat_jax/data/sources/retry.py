"""Reads that are tried again where their storage fails for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ieat_jax.audio.files import AudioError
from ieat_jax.data.sources.store import DataError

PAUSES = (0.1, 1.0, 5.0)  # seconds before a read that failed is tried again
PASSING = ("unreadable",)  # codes of faults that may pass: of the storage, not of the file

Read = TypeVar("Read")


def retried(read: Callable[[], Read], what: str) -> Read:
    """The result of a read, tried again where its storage fails for a moment.

    Raises:
        AudioError: the file itself is bad.
        DataError: the storage fails again and again; names what was to be read.
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except AudioError as error:
            if error.code not in PASSING:
                raise
            if pause is None:
                raise DataError(
                    f"{what}: {error}; {len(PAUSES) + 1} tries failed. The run ends here, since leaving out what "
                    "another try can read would give other batches; start the same command again to go on"
                ) from error
            time.sleep(pause)
    raise AssertionError("the last try raises")
