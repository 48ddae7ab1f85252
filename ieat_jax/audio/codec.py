"""Speech units: what a codec is, how one is loaded, and how two are kept from being mixed up."""

import hashlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from ieat_jax.errors import UserError

GROUP_SIZE = 4  # units per Speak step
IDENTITY_FIELDS = ("name", "rate", "vocab_size", "hash")


class CodecError(UserError):
    """A codec that cannot be loaded, or that is asked for something it cannot do."""


@runtime_checkable
class UnitCodec(Protocol):
    """Waveform <-> speech units.

    `rate` units stand for one second; `vocab_size` is the size of the unit table, end ids included; ids below `end_id`
    are sound, `end_id` and above end speech. `sample_rate` is what `decode` returns; `encode` takes 16 kHz.
    """

    name: str
    rate: int
    vocab_size: int
    end_id: int
    group_size: int
    sample_rate: int

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """16 kHz waveform [samples] -> int32 ids [n]."""
        ...

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Ids [n] below `end_id` -> float32 waveform [n * sample_rate / rate]."""
        ...

    def identity(self) -> dict:
        """{'name', 'rate', 'vocab_size', 'hash'}: stored next to every unit, compared by `check_identity`."""
        ...


def check_identity(expected: Mapping, actual: Mapping, *, where: str = "") -> None:
    """Raise `CodecError` naming every identity field in which two codecs differ.

    `expected` belongs to the units or the checkpoint, `actual` to the codec at hand; `where` says what is being read.
    """
    differing = [field for field in IDENTITY_FIELDS if expected.get(field) != actual.get(field)]
    if differing:
        details = "; ".join(
            f"{field}: {expected.get(field)!r} there, {actual.get(field)!r} here" for field in differing
        )
        raise CodecError(
            f"{where + ': ' if where else ''}units of another codec ({details}). "
            "Units of one codec are noise to another: use the codec they were made with, or extract the units again"
        )


def content_hash(*parts: bytes) -> str:
    """Short SHA-256 over some bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def check_ids(ids: np.ndarray, end_id: int) -> np.ndarray:
    """Return `ids` as an int32 vector.

    Raises:
        CodecError: an id does not stand for sound, or `ids` is not one list of whole numbers.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise CodecError(f"unit ids must be one list of whole numbers, got shape {ids.shape} of {ids.dtype}")
    wrong = np.flatnonzero((ids < 0) | (ids >= end_id))
    if len(wrong):
        raise CodecError(f"unit {int(ids[wrong[0]])} at position {int(wrong[0])} is not sound (0..{end_id - 1})")
    return ids.astype(np.int32)
