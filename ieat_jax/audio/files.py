"""Audio files in and out. Whatever a file holds, reading it ends in a waveform or in an `AudioError` that says why."""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ieat_jax.audio.flac import SAMPLE_RATE, off_grid, on_grid
from ieat_jax.audio.streams import Stream, find_streams
from ieat_jax.audio.whole import StreamError
from ieat_jax.errors import UserError
from ieat_jax.storage import StorageError, without_address

MIN_SECONDS = 0.1
SAMPLE_RATES = (8_000, 192_000)
MAX_CHANNELS = 8
# Of other formats that libsndfile reads it cannot be known whether a file is all there.
FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "RF64", "W64", "NIST", "SVX")
# No codec that libsndfile reads packs more samples than this into one byte; a header that claims more is lying.
MAX_SAMPLES_PER_BYTE = 200
MAX_PEAK = 4.0
SILENCE = 1e-4  # -80 dB of full scale
BLOCK = 1 << 20  # samples of all channels that are decoded at a time: 4 MiB, on every core of a machine with many


class AudioError(UserError):
    """An audio file that cannot be used.

    `code` is a stable short word for counting (quarantine reports), `path` the file as it was given.
    """

    def __init__(self, code: str, path: str | os.PathLike, message: str):
        super().__init__(f"{path}: {message} [{code}]")
        self.code = code
        self.path = str(path)
        self.message = message

    def __reduce__(self):
        """Errors travel between processes of a worker pool, so they must unpickle."""
        return type(self), (self.code, self.path, self.message)


def read_audio(path: str | os.PathLike, *, max_seconds: float, root: str | os.PathLike | None = None) -> np.ndarray:
    """Decode one file to float32 mono at 16 kHz, shape [samples].

    Channels are averaged; channels that cancel each other are refused. With `root`, a path (relative paths start
    there) whose target lies outside of it is refused, symbolic links included. All streams of a file that holds
    several are read. Headers are checked before anything is decoded, and no more than `max_seconds` is ever allocated.
    Samples are rounded to 24 bits, see `flac.on_grid`.

    Raises:
        AudioError: whatever is wrong, with a code.
    """
    with _opened_streams(path, max_seconds, root) as sounds:
        return _heard(path, sounds)


def read_audio_bytes(data: bytes, *, max_seconds: float, where: str) -> np.ndarray:
    """As `read_audio`, of the bytes of a file; `where` names them in messages.

    Raises:
        AudioError: whatever is wrong, with a code.
    """
    with _streams_of_bytes(data, max_seconds, where) as sounds:
        return _heard(where, sounds)


def _heard(path: str | os.PathLike, sounds: list[soundfile.SoundFile]) -> np.ndarray:
    decoded = [(sound.samplerate, *_decode(path, sound)) for sound in sounds]
    _check_levels(path, [levels for _, _, levels in decoded])
    if len({rate for rate, _, _ in decoded}) == 1:  # the seams are those of one recording
        decoded = [(decoded[0][0], np.concatenate([mono for _, mono, _ in decoded]), None)]
    heard = [
        mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE).astype(np.float32)
        for rate, mono, _ in decoded
    ]
    return off_grid(*on_grid(np.concatenate(heard)))


def count_samples(path: str | os.PathLike, *, max_seconds: float, root: str | os.PathLike | None = None) -> int:
    """How many samples `read_audio` returns at most, by the headers alone; it returns fewer of a file that is cut off.

    Raises:
        AudioError: whatever the headers show to be wrong, with the codes of `read_audio`.
    """
    with _opened_streams(path, max_seconds, root) as sounds:
        return sum(math.ceil(sound.frames * SAMPLE_RATE / sound.samplerate) for sound in sounds)


def count_audio_bytes(data: bytes, *, where: str) -> int:
    """As `count_samples`, of the bytes of a file of any length.

    Raises:
        AudioError: with the codes of `read_audio`.
    """
    with _streams_of_bytes(data, math.inf, where) as sounds:
        return sum(math.ceil(sound.frames * SAMPLE_RATE / sound.samplerate) for sound in sounds)


@contextmanager
def _streams_of_bytes(data: bytes, max_seconds: float, where: str) -> Iterator[list[soundfile.SoundFile]]:
    try:
        if not data:
            raise AudioError("empty", where, "the file has no bytes")
        with ExitStack() as stack:
            yield _streams(where, None, data, max_seconds, stack)
    except UserError:
        raise
    except Exception as error:  # what a decoder makes of bytes that nobody has met before
        raise AudioError("not_audio", where, f"cannot be decoded ({type(error).__name__}: {error})") from error


@contextmanager
def _opened_streams(
    path: str | os.PathLike, max_seconds: float, root: str | os.PathLike | None
) -> Iterator[list[soundfile.SoundFile]]:
    """All streams of a file, their headers checked; whatever goes wrong inside is an AudioError."""
    try:
        file = locate(path, root)
        with _mapped(file, path) as data, ExitStack() as stack:
            yield _streams(path, file, data, max_seconds, stack)
    except UserError:
        raise
    except OSError as error:
        raise AudioError("unreadable", path, f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # what a decoder makes of bytes that nobody has met before
        raise AudioError("not_audio", path, f"cannot be decoded ({type(error).__name__}: {error})") from error


def _streams(
    path: str | os.PathLike, file: Path | None, data: mmap.mmap | bytes, max_seconds: float, stack: ExitStack
) -> list[soundfile.SoundFile]:
    try:
        streams = find_streams(data)
    except StreamError as error:
        raise AudioError(error.code, path, error.message) from error
    whole = streams == [Stream(0, len(data))]
    if not isinstance(data, bytes):
        data.madvise(mmap.MADV_DONTNEED)  # what was looked through need not stay in memory
    sounds, seconds = [], 0.0
    for stream in streams:
        sound = stack.enter_context(
            _opened(path, os.open(file, os.O_RDONLY) if whole and file else _Window(data, stream))
        )
        _check_header(path, sound, len(stream.head) + stream.end - stream.start)
        seconds += sound.frames / sound.samplerate
        sounds.append(sound)
        if seconds > max_seconds:  # the others need not be opened: each takes memory
            break
    check_length(path, seconds, max_seconds)
    return sounds


def check_waveform(waveform: np.ndarray, max_seconds: float, *, where: str = "the waveform") -> np.ndarray:
    """A 16 kHz mono waveform given in Python as float32 [samples], after the checks that a file gets.

    Raises:
        AudioError: with the codes of `read_audio`; not_mono for another shape, not_audio for what is no number.
    """
    array = np.asarray(waveform)
    if array.ndim != 1:
        message = f"its shape is {array.shape}; it must be [samples] at {SAMPLE_RATE // 1000} kHz"
        raise AudioError("not_mono", where, message)
    if array.dtype.kind not in "iuf":
        raise AudioError("not_audio", where, f"holds {array.dtype}, not numbers")
    if array.dtype.kind in "iu":
        raise AudioError("out_of_range", where, f"holds {array.dtype}; divide it by {np.iinfo(array.dtype).max + 1}")
    check_length(where, len(array) / SAMPLE_RATE, max_seconds)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    levels = _Levels.of(1)
    _add_levels(where, levels, array[:, None], array)
    _check_levels(where, [levels])
    return array


def write_wav(path: str | os.PathLike, waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a mono waveform [samples] in [-1, 1] as 16-bit WAV; louder samples are clipped.

    Raises:
        AudioError: the waveform has several axes, or holds NaN or infinity, or the file cannot be written.
    """
    waveform = np.asarray(waveform, np.float32)
    if waveform.ndim != 1:
        raise AudioError("not_mono", path, f"a waveform to write has one axis, this one has shape {waveform.shape}")
    if not np.isfinite(waveform).all():
        raise AudioError("not_finite", path, "the waveform to write holds NaN or infinity")
    try:
        soundfile.write(path, np.clip(waveform, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError("unwritable", path, f"cannot be written ({error}); give another place") from error


def locate(path: str | os.PathLike, root: str | os.PathLike | None) -> Path:
    """Return the real path of a regular file, inside `root` where one is given.

    Raises:
        AudioError: there is no such file, it is not a regular one, or it leads outside of `root`.
    """
    try:
        file = without_address(path, "sound")
        if root is not None:
            file = without_address(root, "audio folder") / path
        resolved = file.resolve()
        if root is not None and not resolved.is_relative_to(Path(root).resolve()):
            raise AudioError("outside_root", path, f"leads outside of the audio folder {root}")
        mode = resolved.stat().st_mode
    except FileNotFoundError as error:
        raise AudioError("missing", path, "no such file" + (f" under {root}" if root is not None else "")) from error
    except PermissionError as error:
        raise AudioError("unreadable", path, "permission denied") from error
    except AudioError:
        raise
    except StorageError as error:
        raise AudioError("object_store", path, str(error)) from error
    except (OSError, ValueError, RuntimeError) as error:  # NUL in the name, too long a name, a loop of links
        raise AudioError("bad_path", repr(path), f"not a usable path ({error})") from error
    # A pipe or device would block for ever, so this is checked before the file is opened.
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise AudioError("not_a_file", path, f"is {kind}, not an audio file")
    return resolved


@contextmanager
def _mapped(file: Path, path: str | os.PathLike) -> Iterator[mmap.mmap]:
    """The bytes of a file, read as they are needed."""
    try:
        with file.open("rb") as raw:
            if os.fstat(raw.fileno()).st_size == 0:
                raise AudioError("empty", path, "the file has no bytes")
            with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
    except PermissionError as error:
        raise AudioError("unreadable", path, "permission denied") from error


class _Window:
    """A stream of a file as a file of its own. It has no name: libsndfile's would take `.raw` for a format."""

    def __init__(self, data: mmap.mmap | bytes, stream: Stream):
        self._data, self._stream, self._at = data, stream, 0
        self._size = len(stream.head) + stream.end - stream.start

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max((0, self._at, self._size)[whence] + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        at, self._at = self._at, max(self._at, end)
        head = self._stream.head[at:end]
        start = self._stream.start - len(self._stream.head)
        return head + self._data[start + at + len(head) : start + end]


@contextmanager
def _opened(path: str | os.PathLike, file: int | _Window) -> Iterator[soundfile.SoundFile]:
    """A file by its descriptor, which is closed, or a window; by its content, whatever its name ends in."""
    try:
        with soundfile.SoundFile(file) as sound:
            yield sound
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).strip()
        code = "corrupt" if "lost sync" in reason or "malformed" in reason else "not_audio"
        raise AudioError(code, path, f"cannot be decoded ({reason}); export it again as WAV or FLAC") from error


def _check_header(path: str | os.PathLike, sound: soundfile.SoundFile, size: int) -> None:
    """Refuse by the header alone, before memory is spent on decoding."""
    rate, channels, frames = sound.samplerate, sound.channels, sound.frames
    if sound.format not in FORMATS:
        message = f"is in the format {sound.format}, which does not say when it is cut short; export it as WAV or FLAC"
        raise AudioError("format", path, message)
    low, high = SAMPLE_RATES
    if not low <= rate <= high:
        raise AudioError("sample_rate", path, f"sample rate {rate} Hz is outside of {low}..{high} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError("channels", path, f"{channels} channels; 1 to {MAX_CHANNELS} are supported")
    if frames <= 0:
        raise AudioError("empty", path, "the file holds no samples")
    if frames > 1 << 40:
        raise AudioError("lying_header", path, "the header does not say how long the audio is; export it again")
    if frames * channels > MAX_SAMPLES_PER_BYTE * size:
        raise AudioError("lying_header", path, f"the header promises {frames} samples, far more than {size} bytes hold")


def check_length(path: str | os.PathLike, seconds: float, max_seconds: float) -> None:
    """Refuse sound that is too short or too long to be used.

    Raises:
        AudioError: too_short or too_long.
    """
    if seconds < MIN_SECONDS:
        raise AudioError("too_short", path, f"{seconds:.3f} s of audio; at least {MIN_SECONDS} s are needed")
    if seconds > max_seconds:
        raise AudioError("too_long", path, f"{seconds:.1f} s of audio; the limit is {max_seconds:g} s")


@dataclasses.dataclass
class _Levels:
    """What is to be known of samples [frames, channels] that are seen block by block."""

    lowest: np.ndarray  # [channels]
    highest: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    mono_squares: float = 0.0
    frames: int = 0

    @classmethod
    def of(cls, channels: int) -> _Levels:
        return cls(np.full(channels, np.inf), np.full(channels, -np.inf), np.zeros(channels), np.zeros(channels))

    def add(self, block: np.ndarray, mono: np.ndarray) -> None:
        channels = np.ascontiguousarray(block.T)  # numpy reduces rows several times faster than columns
        self.lowest = np.minimum(self.lowest, channels.min(axis=1))
        self.highest = np.maximum(self.highest, channels.max(axis=1))
        self.total += channels.sum(axis=1, dtype=np.float64)
        self.squares += np.einsum("cf,cf->c", channels, channels, dtype=np.float64)
        self.mono_squares += float(np.einsum("f,f->", mono, mono, dtype=np.float64))
        self.frames += len(block)

    @property
    def peak(self) -> float:
        return float(max(np.abs(self.lowest).max(), np.abs(self.highest).max()))

    @property
    def moving(self) -> float:
        """Largest distance of a sample from its channel's mean."""
        mean = self.total / self.frames
        return float(max((self.highest - mean).max(), (mean - self.lowest).max()))

    @property
    def kept(self) -> float:
        """Share of the channels' summed power that is left in their mean."""
        power = (self.squares / self.frames - np.square(self.total / self.frames)).sum()
        return (self.mono_squares / self.frames - (self.total.mean() / self.frames) ** 2) / power


def _decode(path: str | os.PathLike, sound: soundfile.SoundFile) -> tuple[np.ndarray, _Levels]:
    """The mean of a stream's channels [frames], a block at a time: eight channels do not take eight times memory."""
    frames, levels = sound.frames, _Levels.of(sound.channels)
    mono = np.empty(frames, np.float32)
    while levels.frames < frames:
        try:
            block = sound.read(min(BLOCK // sound.channels, frames - levels.frames), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            message = f"is damaged after sample {levels.frames} ({str(error.error_string).strip()}); export it again"
            raise AudioError("corrupt", path, message) from error
        if not len(block):
            break
        part = mono[levels.frames : levels.frames + len(block)]
        part[:] = block[:, 0] if sound.channels == 1 else block.mean(axis=1)
        _add_levels(path, levels, block, part)
    # An encoder of MP3 adds sound before and after, which decoders count in several ways; the others are exact.
    slack = max(0.01 * frames, 0.1 * sound.samplerate) if sound.format == "MP3" else 0
    if levels.frames < frames - slack:
        raise AudioError("truncated", path, f"the header promises {frames} samples, the file holds {levels.frames}")
    return mono[: levels.frames], levels


def _add_levels(path: str | os.PathLike, levels: _Levels, block: np.ndarray, mono: np.ndarray) -> None:
    if not np.isfinite(block).all():
        raise AudioError("not_finite", path, "the audio holds NaN or infinity")
    levels.add(block, mono)


def _check_levels(path: str | os.PathLike, streams: list[_Levels]) -> None:
    """Check the values of all streams of a file: one of several may be silent."""
    peak = max(levels.peak for levels in streams)
    if peak > MAX_PEAK:
        raise AudioError("out_of_range", path, f"samples reach {peak:.3g}; float audio must lie within -1..1")
    if max(levels.moving for levels in streams) < SILENCE:
        kind = "silent" if peak < SILENCE else "constant"
        raise AudioError(kind, path, f"the audio is {kind}: its peak is {peak:.2g}, its deviation below {SILENCE}")
    for levels in streams:
        channels = len(levels.total)
        # Independent channels keep 1/channels^2 of their summed power; only opposed ones fall far below that.
        if channels > 1 and levels.moving >= SILENCE and levels.kept < 0.02 / channels**2:
            raise AudioError("antiphase", path, "the channels cancel each other; export one channel instead")
