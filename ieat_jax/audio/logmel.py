"""Whisper's log-mel spectrogram in numpy, for windows of any length."""

from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft

from ieat_jax.audio.files import SAMPLE_RATE

N_FFT = 400
HOP = 160
FRAMES_PER_SECOND = SAMPLE_RATE // HOP


@lru_cache(maxsize=8)
def mel_filters(num_mels: int, n_fft: int = N_FFT, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Slaney-style triangular filters of unit area, [n_fft // 2 + 1, num_mels] float32.

    The same numbers as `librosa.filters.mel` (tested), without the seconds that importing librosa takes.
    """
    # Slaney's scale: linear (200/3 Hz per mel) up to 1 kHz, logarithmic (6.4-fold per 27 mels) above.
    step, knee, log_step = 200 / 3, 1000.0, np.log(6.4) / 27
    top_hz = sample_rate / 2
    top = knee / step + np.log(top_hz / knee) / log_step
    mels = np.linspace(0, top, num_mels + 2)
    edges = np.where(mels < knee / step, mels * step, knee * np.exp(log_step * (mels - knee / step)))
    bins = np.linspace(0, top_hz, n_fft // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)).astype(np.float32)


@lru_cache(maxsize=1)
def _window() -> np.ndarray:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


def clip_log_mel(
    waveform: np.ndarray, *, num_mels: int, window_seconds: float, behind: int | None = None
) -> np.ndarray:
    """The frames of a clip [F, num_mels]: those that hold any of its sound, as Whisper has them in its padded window.

    Frames beyond are silence, which the model fills in by itself. With `behind` (`ListenConfig.behind`) a clip has the
    frames of `clip_frames`, and so many more follow; with 0 its sound is mirrored at its end, as in a window that ends
    there.
    """
    frames = clip_frames(len(waveform), window_seconds=window_seconds, behind=behind)
    if behind == 0:
        return log_mel(waveform, num_mels=num_mels, window_seconds=frames * HOP / SAMPLE_RATE)
    wanted = frames + (behind or 0)
    # As much of the window's silence as these frames see; the rest is most of the work.
    seconds = min(window_seconds, (wanted * HOP + N_FFT) / SAMPLE_RATE)
    # A copy: whoever keeps the frames of a short clip does not keep those of the whole window.
    mel = log_mel(waveform, num_mels=num_mels, window_seconds=seconds)[:wanted].copy()
    return np.pad(mel, ((0, wanted - len(mel)), (0, 0)), mode="edge") if len(mel) < wanted else mel


def clip_frames(samples: Any, *, window_seconds: float, behind: int | None = None) -> Any:
    """How many frames a clip of so many samples has in a window: of a number, or of an array of them.

    Those that hold any of its sound; with `behind` as many as the public processors count, one for 160 samples begun.
    """
    size = round(window_seconds * SAMPLE_RATE)
    if behind is not None:
        return np.minimum(size // HOP, -(-np.minimum(samples, size) // HOP))
    # A frame reaches N_FFT / 2 samples to both sides of its centre.
    return np.minimum(size // HOP, (np.minimum(samples, size) + N_FFT // 2 - 1) // HOP + 1)


def log_mel(waveform: np.ndarray, *, num_mels: int = 80, window_seconds: float | None = None) -> np.ndarray:
    """Log-mel of a 16 kHz waveform [samples] as Whisper computes it: [F, num_mels] float32, one frame per 10 ms.

    With `window_seconds` the waveform is first cut or zero-padded to that length; 30 gives exactly what
    `transformers.WhisperFeatureExtractor` gives (transposed). Values are clipped to 8 decades below the maximum *of the
    window that is passed*, so for a shorter window the frames of the audio itself stay the same, since padding is
    silence and never holds the maximum; only audio cut off by the window could.

    Raises:
        ValueError: the waveform has more than one axis.
    """
    waveform = np.asarray(waveform, np.float32)
    if waveform.ndim != 1:
        raise ValueError(f"log_mel takes one waveform [samples], got shape {waveform.shape}")
    size = len(waveform) if window_seconds is None else round(window_seconds * SAMPLE_RATE)
    if size < HOP:
        return np.zeros((0, num_mels), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(_reflected(waveform[:size], size), N_FFT)[::HOP][: size // HOP]
    spectrum = scipy.fft.rfft(frames * _window(), axis=-1, overwrite_x=True)
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    mel = np.maximum(power @ mel_filters(num_mels), 1e-10)
    mel = np.log(mel, out=mel)  # numpy has no vector instructions for log10
    mel *= 1 / np.log(10)
    return ((np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0).astype(np.float32)


def _reflected(waveform: np.ndarray, size: int) -> np.ndarray:
    """A waveform of `size` samples, zeros behind it, between its mirror images of half an FFT each."""
    reach = N_FFT // 2
    if size <= reach:
        return np.pad(np.pad(waveform, (0, size - len(waveform))), reach, mode="reflect")
    padded = np.zeros(size + 2 * reach, np.float32)
    padded[reach : reach + len(waveform)] = waveform
    padded[:reach] = padded[2 * reach : reach : -1]
    padded[-reach:] = padded[-reach - 2 : -2 * reach - 2 : -1]
    return padded
