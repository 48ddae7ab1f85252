"""Where the streams of a sound file begin and end.

A file can hold more than its first header says: recorders and speech services join MP3, Ogg and FLAC streams by
appending them, and programs that write a WAV into a pipe never learn its size. libsndfile reads what the first header
tells of, and says nothing of the rest.
"""

from __future__ import annotations

import dataclasses
import mmap
import re

from ieat_jax.audio.whole import SLACK_BYTES, Bytes, OggPages, StreamError, check_flac, check_size, promised_size

# A size of 0x7FFF0000 and more that the file does not have is what programs write when they do not know it: SoX
# 0x7FFFF024 and 0x7FFFF000, arecord 0x80000024, FFmpeg 0xFFFFFFFF.
STREAMING_SIZE = 0x7FFF0000
SLACK_SHARE = 0.01
PART, OVERLAP = 1 << 24, 64  # bytes that are looked through at a time, and more than what is looked for has
UNEXPLAINED = 4096  # bytes after the sound that are nobody's concern, if they are also below SLACK_SHARE of it

_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # a marker, and the header of the block that has to follow it
_OGG = re.compile(b"OggS")
_SYNC = re.compile(rb"\xff[\xe0-\xff]")  # of an MP3's frame
_WAV = re.compile(rb"RIFF.{4}WAVEfmt ", re.DOTALL)
# Beginnings of containers of which a second one cannot be read; each too long to occur by chance.
_OTHERS = {
    b".snd": re.compile(
        rb"\.snd\x00\x00[\x00-\x03].{5}\x00\x00\x00[\x01-\x1b]\x00[\x00-\x02].{2}\x00\x00\x00[\x01-\x08]", re.DOTALL
    ),
    b"NIST": re.compile(rb"NIST_1A\n   1024\n"),
    b"caff": re.compile(rb"caff\x00\x01\x00\x00desc"),
    b"riff": re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"),
    b"RF64": re.compile(rb"RF64.{4}WAVEds64", re.DOTALL),
    b"FORM": re.compile(rb"FORM.{4}AIF[FC](?:COMM|FVER)", re.DOTALL),
}
_FOURCC = re.compile(rb"[A-Za-z0-9_ ]{4}")


@dataclasses.dataclass(frozen=True)
class Stream:
    """`head`, then the bytes `start` to `end` of a file."""

    start: int
    end: int
    head: bytes = b""


def find_streams(data: Bytes) -> list[Stream]:
    """The streams of a file, in order; one that is the whole file where nothing is known about it.

    Raises:
        StreamError: the file is cut short, or holds more than can be read.
    """
    streams: list[Stream] = []
    place: int | None = 0
    while place is not None and place < len(data):
        found, place = _next_streams(data, place)
        streams += found
    return streams or [Stream(0, len(data))]


# Streams that lie one behind the other in one container, and where the next container may begin (None: nowhere).
_Found = tuple[list[Stream], int | None]


def _next_streams(data: Bytes, begin: int) -> _Found:
    """What begins at `begin`, perhaps behind a tag; nothing where that is not known."""
    start = _after_id3(data, begin)
    magic = data[start : start + 12]
    if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
        return _wav(data, start)
    if magic[:4] == b"OggS":
        return _ogg(data, begin, start)
    if magic[:4] == b"fLaC":
        return _flac(data, begin, start)
    if magic[:4] in _OTHERS:
        if (second := _find(data, _OTHERS[magic[:4]], start + 4)) is not None:
            raise StreamError(
                "joined", f"another file of its kind begins at byte {second} and would not be read; split it"
            )
        check_size(start + promised_size(data, start), len(data))
        return [Stream(start, len(data))], None
    if _mp3_frame(data, start):
        return _mp3(data, begin, start)
    return [], None


def _begins(data: Bytes, place: int) -> bool:
    """Whether another container than Ogg, or a tag before one, begins at `place`."""
    magic = data[place : place + 4]
    known = magic in (b"RIFF", b"fLaC", *_OTHERS) or magic[:3] == b"ID3"
    return known or _mp3_frame(data, place) is not None


def _after_id3(data: Bytes, start: int) -> int:
    """Where an ID3v2 tag ends, if one begins at `start`."""
    head = data[start : start + 10]
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:]) > 0x7F:
        return start
    size = int.from_bytes(head[6:7]) << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return start + 10 + size + (10 if head[5] & 0x10 else 0)


def _find(data: Bytes, pattern: re.Pattern[bytes], start: int) -> int | None:
    """Where `pattern` is found from `start` on, None where it is not."""
    for begin in range(start, len(data), PART):
        if found := pattern.search(data, begin, min(begin + PART + OVERLAP, len(data))):
            return found.start()
        _pass(data, begin, begin + PART)
    return None


def _all_zero(data: Bytes, start: int) -> bool:
    """Whether nothing but zeros stands from `start` on, as where space was reserved."""
    for begin in range(start, len(data), PART):
        part = data[begin : begin + PART]
        if part != bytes(len(part)):
            return False
        _pass(data, begin, begin + PART)
    return True


def _pass(data: Bytes, place: int, following: int) -> None:
    """Go on to another place; what was looked through leaves the memory, of which a file may have more."""
    if place // PART != following // PART and isinstance(data, mmap.mmap):
        data.madvise(mmap.MADV_DONTNEED)


def _number(data: Bytes, at: int, size: int = 4) -> int:
    return int.from_bytes(data[at : at + size], "little")


# ---- WAV


def _wav(data: Bytes, start: int) -> _Found:
    size, claimed = len(data), _number(data, start + 4)
    place, align = start + 12, 1
    while place + 8 <= size and data[place : place + 4] != b"data":
        if data[place : place + 4] == b"fmt ":
            align = max(_number(data, place + 20, 2), 1)
        place += 8 + _number(data, place + 4) + _number(data, place + 4) % 2
    if place + 8 > size:  # no sound in it: libsndfile says what is wrong
        return [Stream(start, size)], None
    first, promised = place + 8, _number(data, place + 4)
    never_patched = promised == 0 and claimed + 8 <= first + 8 - start
    open_end = size - first < promised or (promised == 0 and claimed >= STREAMING_SIZE)
    if never_patched or (open_end and max(promised, claimed) >= STREAMING_SIZE):
        following = _find(data, _WAV, first)
        end = size if following is None else following
        sound = (end - first) // align * align
        sizes = (first - start + sound - 8, sound)
        head = b"RIFF%b%b%b" % (
            sizes[0].to_bytes(4, "little"),
            data[start + 8 : first - 4],
            sizes[1].to_bytes(4, "little"),
        )
        return [Stream(first, first + sound, head)], following
    whole = max(claimed + 8 if claimed < STREAMING_SIZE else 0, first - start + promised)
    check_size(start + whole, size)
    end = _after_chunks(data, first + promised + promised % 2)
    rest = size - end
    more = rest > 0 and _next_streams(data, end) != ([], None)
    if not more and rest > max(UNEXPLAINED, SLACK_SHARE * promised) and not _all_zero(data, end):
        raise StreamError(
            "lying_header",
            f"the header tells of {promised} bytes of sound, and {rest} bytes follow that may be sound, too; "
            "export it again",
        )
    return [Stream(start, min(end, size))], end if more else None


def _after_chunks(data: Bytes, place: int) -> int:
    """Where the chunks that follow the sound of a WAV end."""
    while (name := data[place : place + 4]) and _FOURCC.fullmatch(name) and name not in (b"RIFF", b"OggS", b"fLaC"):
        end = place + 8 + _number(data, place + 4)
        if end > len(data):
            break
        if name == b"data":
            raise StreamError("joined", f"a second piece of sound begins at byte {place}; export it again as one")
        place = end + end % 2
    return place


# ---- Ogg (Vorbis, Opus, FLAC, Speex)


def _ogg(data: Bytes, link: int, place: int) -> _Found:
    """Links of a chain. A link begins with pages that are marked as the beginning of something (flag 2)."""
    streams, pages, begun = [], OggPages(), False
    while place + 4 <= len(data):
        if data[place : place + 4] != b"OggS":
            following = None if pages.complete and _begins(data, place) else _find(data, _OGG, place)
            if following is None:
                break
            if not pages.complete:
                raise StreamError("corrupt", f"no page begins at byte {place}, where one should; export it again")
            place = following
            continue
        if begun and pages.complete:
            streams.append(Stream(link, place))
            link = place
        begun = True
        following = pages.add(data, place)
        _pass(data, place, following)
        place = following
    pages.end()
    streams.append(Stream(link, len(data)))
    return streams, place


# ---- FLAC


def _flac(data: Bytes, begin: int, start: int) -> _Found:
    place, last = start + 4, False
    while not last and place + 4 <= len(data):  # past pictures, which may hold anything
        last = bool(data[place : place + 1][0] & 0x80)
        place += 4 + int.from_bytes(data[place + 1 : place + 4], "big")
    end = _find(data, _FLAC, place)
    check_flac(data, start, len(data) if end is None else end)
    return [Stream(begin, len(data) if end is None else end)], end


# ---- MP3

_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
UNTOLD = 1 << 32  # a note that tells of no number
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclasses.dataclass(frozen=True)
class _Frame:
    size: int  # bytes
    kind: tuple[int, int, int, bool]  # version, layer, sample rate, mono
    tag: int  # where an encoder's note on the stream would begin


def _mp3_frame(data: Bytes, place: int) -> _Frame | None:
    head = data[place : place + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    table = _KBITS[1, layer] if version == 3 else _KBITS[2, min(layer, 2)]
    hertz, padding, mono = _RATES[version][rate], head[2] >> 1 & 1, head[3] >> 6 == 3
    kilobits = table[bits - 1] * 1000
    if layer == 1:
        size = (12 * kilobits // hertz + padding) * 4
    else:
        size = (72 if layer == 3 and version != 3 else 144) * kilobits // hertz + padding
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return _Frame(size, (version, layer, hertz, mono), 4 + side)


def _mp3(data: Bytes, begin: int, place: int) -> _Found:
    """Streams by their encoders' notes (Xing, Info, VBRI), at which mpg123 stops, and by a change of their kind."""
    streams: list[Stream] = []
    kind, told, sound, sizes = None, None, begin, []  # of a stream; `sound` begins after its note

    def stream(end: int) -> Stream:
        # mpg123 believes the note, and guesses by the first frame where there is none.
        if told not in (None, UNTOLD) and len(sizes) + 1 < told:
            message = f"the file was cut short: its header promises {told} frames, it has {len(sizes)}"
            raise StreamError("truncated", message)
        varies = told in (None, UNTOLD) and max(sizes, default=0) - min(sizes, default=0) > 4
        if varies or (told is not None and len(sizes) > told + 1):
            return Stream(sound, end, _note(data, sound, len(sizes)))
        return Stream(begin, end)

    while place < len(data):
        frame = _mp3_frame(data, place)
        if frame is None or (kind not in (None, frame.kind) and not _mp3_frame(data, place + frame.size)):
            following = _after_tags(data, place)
            if following is None:
                break
            place = following
            continue
        if place + frame.size > len(data) + SLACK_BYTES:
            raise StreamError("truncated", f"the file was cut short: the frame at byte {place} is not all there")
        count = _told(data, place, frame)
        if kind is not None and (count is not None or frame.kind != kind):
            streams.append(stream(place))
            begin, kind = place, None
        if kind is None:
            kind, told, sound, sizes = frame.kind, count, place if count is None else place + frame.size, []
        if count is None:
            sizes.append(frame.size)
        _pass(data, place, place + frame.size)
        place += frame.size
    streams.append(stream(len(data)))
    return streams, None if _mp3_frame(data, place) else place


def _note(data: Bytes, place: int, frames: int) -> bytes:
    """A frame of the kind of that at `place`, large enough to tell of `frames`."""
    sync, version, rate, mode = data[place : place + 4]
    head = bytes([sync, version | 1, 0x90 | rate & 0x0F, mode])
    frame = _mp3_frame(head, 0)
    note = head.ljust(frame.tag, b"\0") + b"Xing\0\0\0\1" + frames.to_bytes(4, "big")
    return note.ljust(frame.size, b"\0")


def _told(data: Bytes, place: int, frame: _Frame) -> int | None:
    """The number of frames that an encoder's note tells of, None where the frame is sound."""
    note = data[place + frame.tag : place + frame.tag + 12]
    silent = not any(data[place + 4 : place + frame.tag])  # mpg123 believes no other
    if silent and note[:4] in (b"Xing", b"Info"):
        return int.from_bytes(note[8:12]) if len(note) == 12 and note[7] & 1 else UNTOLD
    if data[place + 36 : place + 40] == b"VBRI":
        return int.from_bytes(data[place + 50 : place + 54])
    return None


def _after_tags(data: Bytes, place: int) -> int | None:
    """Where the next frame begins after tags or other bytes, None where there is none."""
    if (end := _after_id3(data, place)) != place:
        return end
    if data[place : place + 3] == b"TAG":
        return place + 128
    following = _find(data, _SYNC, place + 1)
    while following is not None:
        frame = _mp3_frame(data, following)
        if frame and (second := _mp3_frame(data, following + frame.size)) and second.kind == frame.kind:
            return following
        following = _find(data, _SYNC, following + 1)
    return None
