"""A source-filter vocoder in numpy: speech <-> 44 numbers per 10 ms (spectral envelope, aperiodicity, pitch).

Analysis removes the harmonics from the spectrum by averaging power over one F0 (as WORLD's CheapTrick does, Morise
2015) and measures periodicity in three bands at the tracked pitch lag. Synthesis filters a pulse train and white noise
with the minimum-phase envelope. No phase has to be guessed, so decoding is one pass, and pitch is a number that
survives coding.
"""

from functools import lru_cache

import numpy as np
import scipy.fft

from ieat_jax.audio.files import SAMPLE_RATE
from ieat_jax.audio.logmel import mel_filters
from ieat_jax.audio.pitch import track_pitch

HOP = 160
WINDOW = 480  # three hops: shifted Hann windows add up to a constant
N_FFT = 1024
MELS = 40
BANDS = ((0, 1500), (1500, 4000), (4000, 8000))
FEATURES = MELS + len(BANDS) + 1
FLOOR = 1e-7  # power; about 48 dB below speech
DEFAULT_F0 = 200.0
UNVOICED_WIDTH = 150.0  # Hz that the spectrum of unvoiced frames is averaged over


@lru_cache(maxsize=1)
def _hann() -> np.ndarray:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


@lru_cache(maxsize=1)
def _mel_basis() -> tuple[np.ndarray, np.ndarray]:
    """Averaging weights [bins, MELS], and interpolation weights back [MELS, bins]."""
    filters = mel_filters(MELS, N_FFT)
    averages = filters / filters.sum(axis=0)
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    centres = bins @ averages
    back = np.stack([np.interp(bins, centres, row) for row in np.eye(MELS)])
    return averages, back.astype(np.float32)


def analyse(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """16 kHz waveform [samples] -> (features [F, 44] float32, voiced [F] bool), F = samples // 160.

    Features: 40 log powers on a mel scale, 3 aperiodicities in 0..1, log F0 (interpolated where unvoiced).
    """
    waveform = np.asarray(waveform, np.float32)
    f0, _ = track_pitch(waveform, SAMPLE_RATE, HOP)
    count = len(f0)
    if not count:
        return np.zeros((0, FEATURES), np.float32), np.zeros(0, bool)
    voiced = f0 > 0
    padded = np.pad(waveform, (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
    spectrum = scipy.fft.rfft(frames * _hann(), N_FFT)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) / np.square(_hann()).sum()
    smooth = _average_over(power, np.where(voiced, f0, UNVOICED_WIDTH))
    log_mel = np.log(np.maximum(smooth @ _mel_basis()[0], FLOOR))
    pitch = np.full(count, np.log(DEFAULT_F0))
    if voiced.any():
        pitch = np.interp(np.arange(count), np.flatnonzero(voiced), np.log(f0[voiced]))
    features = np.concatenate([log_mel, _aperiodicity(waveform, f0), pitch[:, None]], axis=1)
    return features.astype(np.float32), voiced


def _average_over(power: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Mean of the power [F, bins] over `width` [F] Hz around each bin, by differences of its running sum."""
    count, bins = power.shape
    mirrored = np.concatenate([power[:, 64:0:-1], power, power[:, -2:-66:-1]], axis=1)
    total = np.concatenate([np.zeros((count, 1)), np.cumsum(mirrored, axis=1, dtype=np.float64)], axis=1)
    half = (width / (SAMPLE_RATE / N_FFT) / 2)[:, None]
    places = np.arange(bins)[None] + 64 + 0.5

    def up_to(place):
        low = place.astype(np.int64)
        part = place - low
        take = np.take_along_axis
        return take(total, low, 1) * (1 - part) + take(total, low + 1, 1) * part

    return (up_to(places + half) - up_to(places - half)) / (2 * half)


def _aperiodicity(waveform: np.ndarray, f0: np.ndarray) -> np.ndarray:
    """1 - correlation of each band with itself one period earlier, [F, bands]; 1 where unvoiced."""
    count = len(f0)
    result = np.ones((count, len(BANDS)))
    voiced = np.flatnonzero(f0 > 0)
    if not len(voiced):
        return result
    spectrum = scipy.fft.rfft(waveform)
    frequencies = np.linspace(0, SAMPLE_RATE / 2, len(spectrum))
    lags = np.round(SAMPLE_RATE / f0[voiced]).astype(np.int64)
    size, margin = WINDOW, int(SAMPLE_RATE / 70)
    starts = voiced * HOP + margin + WINDOW // 2 - size // 2
    for band, (low, high) in enumerate(BANDS):
        inside = (frequencies >= low) & (frequencies < high)
        signal = scipy.fft.irfft(np.where(inside, spectrum, 0), len(waveform))
        signal = np.pad(signal, (margin + WINDOW // 2, margin + WINDOW))
        view = np.lib.stride_tricks.sliding_window_view(signal, size)
        now, earlier = view[starts + lags // 2], view[starts + lags // 2 - lags]
        energy = np.sqrt(np.square(now).sum(1) * np.square(earlier).sum(1)) + 1e-8
        result[voiced, band] = 1 - np.clip((now * earlier).sum(1) / energy, 0, 1)
    return result


def synthesise(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Features [F, 44] -> float32 waveform [F * 160] at 16 kHz; `seed` fixes the noise."""
    count = len(features)
    if not count:
        return np.zeros(0, np.float32)
    envelope = _minimum_phase(features[:, :MELS] @ _mel_basis()[1])
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    middles = [(low + high) / 2 for low, high in BANDS]
    noisy = np.clip(features[:, MELS : MELS + len(BANDS)], 0, 1)
    noisy = np.stack([np.interp(bins, middles, row) for row in noisy])
    pulses = _pulse_train(np.exp(features[:, -1]))
    noise = np.random.default_rng(seed).standard_normal(count * HOP).astype(np.float32)
    spectrum = _frame_spectra(pulses, count) * np.sqrt(1 - noisy) + _frame_spectra(noise, count) * np.sqrt(noisy)
    frames = scipy.fft.irfft(spectrum * envelope, N_FFT)
    output = np.zeros(count * HOP + N_FFT + HOP, np.float64)
    for frame, samples in enumerate(frames):
        output[frame * HOP : frame * HOP + N_FFT] += samples
    return output[WINDOW // 2 : WINDOW // 2 + count * HOP].astype(np.float32)


def _frame_spectra(signal: np.ndarray, count: int) -> np.ndarray:
    """Spectra of windowed frames whose overlap-add is the signal, [F, bins]."""
    padded = np.pad(signal, (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
    return scipy.fft.rfft(frames * (_hann() / 1.5), N_FFT)


def _minimum_phase(log_power: np.ndarray) -> np.ndarray:
    """Minimum-phase spectra [F, bins] of log powers [F, bins], by folding the cepstrum."""
    cepstrum = scipy.fft.irfft(0.5 * log_power, N_FFT)
    cepstrum[:, 1 : N_FFT // 2] *= 2
    cepstrum[:, N_FFT // 2 + 1 :] = 0
    return np.exp(scipy.fft.rfft(cepstrum, N_FFT))


def _pulse_train(f0: np.ndarray) -> np.ndarray:
    """All harmonics of F0 [F] below half the sample rate at equal amplitude and unit power, [F * HOP]."""
    count = len(f0)
    samples = np.arange(count * HOP) / HOP
    f0 = np.interp(samples, np.arange(count), f0)
    phase = 2 * np.pi * np.mod(np.cumsum(f0 / SAMPLE_RATE), 1.0)
    harmonics = np.floor(SAMPLE_RATE / 2 / f0)
    # sum_{h=1..H} cos(h t) = sin((H + 1/2) t) / (2 sin(t / 2)) - 1/2
    base = 2 * np.sin(phase / 2)
    near = np.abs(base) < 1e-4
    total = np.where(near, harmonics + 0.5, np.sin((harmonics + 0.5) * phase) / np.where(near, 1, base)) - 0.5
    return (total * np.sqrt(4 * f0 / SAMPLE_RATE)).astype(np.float32)
