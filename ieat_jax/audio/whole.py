"""Whether a stream of sound is all there. libsndfile reads what is left of one that was cut short, and says nothing."""

from __future__ import annotations

import math
import mmap
import re
import zlib

SLACK_BYTES = 64  # of a file that may be missing: programs count their headers in several ways
Bytes = bytes | mmap.mmap  # a whole file

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)  # of a FLAC's frame
_TAIL = 1 << 18  # bytes in which the last frame of a FLAC begins
_NIST = (b"sample_count", b"sample_n_bytes", b"channel_count")
_NEVER = 1 << 62  # a size of 64 bits that its program never learned, and others that no file has
_UNKNOWN = (1 << 32) - 1  # a size that its program never learned


class StreamError(Exception):
    """A file that would be read in part; `code` as in `AudioError`."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


def check_size(promised: int, size: int) -> None:
    """Refuse a file of `size` bytes whose header promises more.

    Raises:
        StreamError: it was cut short.
    """
    if promised > size + SLACK_BYTES:
        raise StreamError("truncated", f"the file was cut short: its header promises {promised} bytes, it has {size}")


def promised_size(data: Bytes, start: int) -> int:
    """The bytes that a file of the kinds below that begins at `start` has by its header, 0 where that is not said."""
    magic = data[start : start + 4]
    if magic == b"riff":
        return int.from_bytes(data[start + 16 : start + 24], "little")
    if magic == b"RF64":
        return 8 + int.from_bytes(data[start + 20 : start + 28], "little")
    if magic == b"FORM":
        size = int.from_bytes(data[start + 4 : start + 8])
        return 0 if size >= _UNKNOWN - 8 else 8 + size
    if magic == b".snd":
        offset, size = (int.from_bytes(data[start + at : start + at + 4]) for at in (4, 8))
        return 0 if size == _UNKNOWN else offset + size
    if magic == b"NIST":
        head = data[start : start + 1024]
        told = [re.search(rb"\n%s -i (\d+)" % name, head) for name in _NIST]
        return int(head[8:16]) + math.prod(int(found[1]) for found in told if found) if all(told) else 0
    if magic == b"caff":
        place = start + 8
        while place + 12 <= len(data) and (size := int.from_bytes(data[place + 4 : place + 12])) < _NEVER:
            place += 12 + size
        return place - start
    return 0


class OggPages:
    """The pages of Ogg streams, seen in order."""

    def __init__(self) -> None:
        self._open: set[bytes] = set()  # streams that have begun and not ended

    @property
    def complete(self) -> bool:
        """Whether every stream that began has ended."""
        return not self._open

    def add(self, data: Bytes, place: int) -> int:
        """Check the page at `place`; returns where the next one begins.

        Raises:
            StreamError: it was damaged or cut short.
        """
        head = data[place : place + 27]
        segments = head[26] if len(head) == 27 else 255
        table = data[place + 27 : place + 27 + segments]
        end = place + 27 + segments + sum(table)
        if len(table) < segments or end > len(data):
            raise StreamError("truncated", f"the file was cut short: the page at byte {place} is not all there")
        body = head[:22] + bytes(4) + data[place + 26 : end]
        # Ogg's sum is zlib's over mirrored bits, without the inversions at its beginning and end.
        made = zlib.crc32(body.translate(_MIRRORED), _UNKNOWN) ^ _UNKNOWN
        if made.to_bytes(4, "big").translate(_MIRRORED) != head[22:26]:
            raise StreamError("corrupt", f"the page at byte {place} is damaged: its checksum is wrong")
        if head[5] & 2:
            self._open.add(head[14:18])
        if head[5] & 4:
            self._open.discard(head[14:18])
        return end

    def end(self) -> None:
        """Say that no page follows.

        Raises:
            StreamError: a stream has not ended.
        """
        if self._open:
            raise StreamError(
                "truncated", "the file was cut short: no page is marked as the end of its stream; export it again"
            )


def check_flac(data: Bytes, start: int, end: int) -> None:
    """Refuse a FLAC stream whose header tells of other samples than its last frame ends at, or of another rate.

    Raises:
        StreamError: the header does.
    """
    info = data[start + 8 : start + 26]  # behind the marker and the header of the first block
    total = int.from_bytes(info[10:18]) & (1 << 36) - 1
    block = int.from_bytes(info[2:4])
    if not total or len(info) < 18 or info[:2] != info[2:4]:  # nothing is told, or blocks vary
        return
    tail = data[max(start + 42, end - _TAIL) : end]
    rate = int.from_bytes(info[10:13]) >> 4
    frames, place = [], tail.rfind(b"\xff\xf8")
    while place >= 0:
        if (span := _flac_frame(tail[place : place + 20].ljust(20, b"\0"), block)) is not None:
            frames.append(span)
        place = tail.rfind(b"\xff\xf8", 0, place + 1)
    ends = {0, *(last for _, last, _ in frames)}
    frames = [frame for frame in frames if frame[0] in ends]  # one by chance follows no other
    if others := {other for _, _, other in frames if other not in (0, rate)}:
        message = f"the header tells of {rate} Hz, and its frames of {min(others)} Hz; export it again"
        raise StreamError("lying_header", message)
    there = max((last for _, last, _ in frames), default=total)
    if there > total:
        raise StreamError("lying_header", f"the header tells of {total} samples, it has {there}; export it again")
    if there < total:
        raise StreamError("truncated", f"the file was cut short: its header promises {total} samples, it has {there}")


def _flac_frame(head: bytes, block: int) -> tuple[int, int, int] | None:
    """(first sample, the one after the last, rate or 0) of a frame with this header, None where it is no header."""
    if not head[2] >> 4 or head[3] & 1:
        return None
    first, place = head[4], 5
    if first < 0x80:
        number = first
    else:
        more = 8 - (first ^ 0xFF).bit_length() - 1  # ones that the byte begins with, but for the first
        if not 1 <= more <= 6:
            return None
        number, place = first & (0x3F >> more), 5 + more
        for byte in head[5:place]:
            number = number << 6 | byte & 0x3F
    code = head[2] >> 4
    if code in (6, 7):
        last, place = int.from_bytes(head[place : place + code - 5]) + 1, place + code - 5
    else:
        last = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    place += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    rate = _RATES[head[2] & 15] if head[2] & 15 < len(_RATES) else 0
    return (number * block, number * block + last, rate) if _crc8(head[:place]) == head[place] else None


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 7 if value & 0x80 else value << 1) & 0xFF
    return value
