"""Audio files in and out. Whatever a file holds, reading it ends in a waveform or in an `AudioError` that says why."""

import os
import stat
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ieat_jax.errors import UserError

SAMPLE_RATE = 16_000
MIN_SECONDS = 0.1
SAMPLE_RATES = (8_000, 192_000)
MAX_CHANNELS = 8
# No codec that libsndfile reads packs more samples than this into one byte; a header that claims more is lying.
MAX_SAMPLES_PER_BYTE = 200
MAX_PEAK = 4.0
SILENCE = 1e-4  # -80 dB of full scale
STREAMING_SIZES = (0, 0x7FFFFFFF, 0x7FFFFFFF + 8, 0xFFFFFFFF, 0xFFFFFFFF - 8)


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
    there) whose target lies outside of it is refused, symbolic links included. The header is checked before anything
    is decoded, and no more than `max_seconds` is ever allocated.

    Raises:
        AudioError: the file is missing, damaged, too long, too short or silent; its `code` says which.
    """
    file = locate(path, root)
    _check_container(file, path)
    try:
        with soundfile.SoundFile(file) as sound:
            rate, channels, frames = sound.samplerate, sound.channels, sound.frames
            _check_header(path, rate, channels, frames, file.stat().st_size, max_seconds)
            samples = sound.read(frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).strip()
        code = "corrupt" if "lost sync" in reason or "malformed" in reason else "not_audio"
        raise AudioError(code, path, f"cannot be decoded ({reason}); export it again as WAV or FLAC") from error
    if len(samples) < frames - max(0.01 * frames, 0.1 * rate):
        raise AudioError("truncated", path, f"the header promises {frames} samples, the file holds {len(samples)}")
    mono = _to_mono(path, samples)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE).astype(np.float32)
    return np.ascontiguousarray(mono)


def write_wav(path: str | os.PathLike, waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a mono waveform [samples] in [-1, 1] as 16-bit WAV; louder samples are clipped.

    Raises:
        AudioError: the waveform has several axes, or holds NaN or infinity.
    """
    waveform = np.asarray(waveform, np.float32)
    if waveform.ndim != 1:
        raise AudioError("not_mono", path, f"a waveform to write has one axis, this one has shape {waveform.shape}")
    if not np.isfinite(waveform).all():
        raise AudioError("not_finite", path, "the waveform to write holds NaN or infinity")
    soundfile.write(path, np.clip(waveform, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")


def locate(path: str | os.PathLike, root: str | os.PathLike | None) -> Path:
    """Return the real path of a regular file, inside `root` where one is given.

    Raises:
        AudioError: there is no such file, it is not a regular one, or it leads outside of `root`.
    """
    try:
        file = Path(path) if root is None else Path(root) / path
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
    except (OSError, ValueError, RuntimeError) as error:  # NUL in the name, too long a name, a loop of links
        raise AudioError("bad_path", repr(path), f"not a usable path ({error})") from error
    # A pipe or device would block for ever, so this is checked before the file is opened.
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise AudioError("not_a_file", path, f"is {kind}, not an audio file")
    return resolved


def _check_container(file: Path, path: str | os.PathLike) -> None:
    """Catch what libsndfile passes over in silence: an empty file, a WAV cut short."""
    size = file.stat().st_size
    if size == 0:
        raise AudioError("empty", path, "the file has no bytes")
    try:
        with file.open("rb") as raw:
            head = raw.read(12)
    except PermissionError as error:
        raise AudioError("unreadable", path, "permission denied") from error
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        claimed = int.from_bytes(head[4:8], "little")
        if claimed not in STREAMING_SIZES and claimed + 8 > 1.01 * size + 64:
            message = f"the file was cut short: its header promises {claimed + 8} bytes, it has {size}"
            raise AudioError("truncated", path, message)


def _check_header(
    path: str | os.PathLike, rate: int, channels: int, frames: int, size: int, max_seconds: float
) -> None:
    """Refuse by the header alone, before memory is spent on decoding."""
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
    seconds = frames / rate
    if seconds < MIN_SECONDS:
        raise AudioError("too_short", path, f"{seconds:.3f} s of audio; at least {MIN_SECONDS} s are needed")
    if seconds > max_seconds:
        raise AudioError("too_long", path, f"{seconds:.1f} s of audio; the limit is {max_seconds:g} s")


def _to_mono(path: str | os.PathLike, samples: np.ndarray) -> np.ndarray:
    """Average the channels of [frames, channels] after checking their values."""
    if not np.isfinite(samples).all():
        raise AudioError("not_finite", path, "the audio holds NaN or infinity")
    peak = float(np.abs(samples).max())
    if peak > MAX_PEAK:
        raise AudioError("out_of_range", path, f"samples reach {peak:.3g}; float audio must lie within -1..1")
    moving = samples - samples.mean(axis=0)
    if float(np.abs(moving).max()) < SILENCE:
        kind = "silent" if peak < SILENCE else "constant"
        raise AudioError(kind, path, f"the audio is {kind}: its peak is {peak:.2g}, its deviation below {SILENCE}")
    mono = samples.mean(axis=1)
    if samples.shape[1] > 1:
        kept = float(np.square(moving.mean(axis=1)).mean()) / float(np.square(moving).sum(axis=1).mean())
        # Independent channels keep 1/channels^2 of their summed power; only opposed ones fall far below that.
        if kept < 0.02 / samples.shape[1] ** 2:
            raise AudioError("antiphase", path, "the channels cancel each other; export one channel instead")
    return mono.astype(np.float32)
