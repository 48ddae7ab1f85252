"""A dialogue as one run of bytes: its record, the sound of its turns, its units. What shards hold."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from ieat_jax.audio.flac import Flac, decode_flac
from ieat_jax.data.records import Record, parse_record, with_units
from ieat_jax.errors import UserError

_HEAD = b"IEAT\x01"  # and a CRC-32 of what follows: nothing that is damaged, cut off or empty passes for a dialogue


class PayloadError(UserError):
    """Bytes that are no dialogue."""


class Payload:
    """A dialogue, of which only what is asked for is decoded."""

    def __init__(self, data: bytes):
        """Take the bytes of `pack`.

        Raises:
            PayloadError: they are others.
        """
        begin = len(_HEAD) + 4
        content = data[begin:]
        right = data[: len(_HEAD)] == _HEAD and zlib.crc32(content) == int.from_bytes(
            data[len(_HEAD) : begin], "little"
        )
        if not (content and right):
            raise PayloadError("is damaged" if data else "is empty")
        self._value: dict[str, Any] = msgpack.unpackb(content)

    def record(self) -> Record:
        """The record, with its units."""
        record = parse_record(json.loads(self._value["record"]))
        units = {
            turn.turn_id: np.frombuffer(ids, "<i4").astype(np.int32)
            for turn, ids in zip(record.turns, self._value["units"], strict=True)
            if ids is not None
        }
        return with_units(record, units, record.codec) if units and record.codec is not None else record

    def flac(self, turn: int, *, reply: bool = False) -> Flac | None:
        """The sound of turn `turn`, from 0, or of its reply; None = there is none."""
        kept = self._value["replies" if reply else "clips"]
        return Flac(*kept[turn]) if turn < len(kept) and kept[turn] is not None else None

    def waveform(self, turn: int, *, reply: bool = False) -> np.ndarray | None:
        """The same, decoded: float32 [samples] at 16 kHz, as it was read when the dialogue was packed.

        Raises:
            PayloadError: it cannot be decoded.
        """
        flac = self.flac(turn, reply=reply)
        try:
            return None if flac is None else decode_flac(flac)
        except ValueError as error:
            raise PayloadError(f"has a turn {turn + 1} whose sound cannot be decoded ({error})") from error


def pack(record: Record, clips: Sequence[Flac | None], replies: Sequence[Flac | None] = ()) -> bytes:
    """The bytes of a dialogue, its sound by turns; the same ones for the same dialogue."""
    value: dict[str, Any] = {**record.raw, "turns": [turn.raw for turn in record.turns]}
    if record.codec is not None:
        value["ieat_meta"] = {**(value.get("ieat_meta") or {}), "codec": record.codec}
    content = msgpack.packb(
        {
            "record": json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")),
            "units": [None if turn.units is None else turn.units.astype("<i4").tobytes() for turn in record.turns],
            "clips": clips,
            "replies": replies,
        }
    )
    return _HEAD + zlib.crc32(content).to_bytes(4, "little") + content
