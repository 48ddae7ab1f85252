"""Pitch tracking: normalised autocorrelation and a Viterbi path, in the manner of Boersma (1993), in numpy."""

import numpy as np
import scipy.fft

LOW_HZ, HIGH_HZ = 75.0, 550.0
WINDOW_SECONDS = 0.04
CANDIDATES = 5
# Costs of the path, in units of correlation.
VOICING_THRESHOLD = 0.45
OCTAVE_COST = 0.03  # prefers the shorter of two equally good periods
JUMP_COST = 0.35  # per octave between frames
SWITCH_COST = 0.14  # between voiced and unvoiced


def track_pitch(waveform: np.ndarray, sample_rate: int, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """F0 of a waveform [samples]: (f0 [F] in Hz, 0 where unvoiced; periodicity [F] in 0..1), F = samples // hop."""
    frames = _frames(waveform, round(WINDOW_SECONDS * sample_rate), hop)
    if not len(frames):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    correlation = _autocorrelation(frames, int(sample_rate / LOW_HZ) + 2)
    lags, scores = _candidates(correlation, sample_rate)
    energy = np.sqrt(np.square(frames).mean(axis=1))
    scores = np.where(energy[:, None] > max(1e-4, 0.01 * energy.max()), scores, 0.0)
    chosen = _best_path(lags, scores, sample_rate)
    rows = np.arange(len(frames))
    voiced = chosen < CANDIDATES
    safe = np.minimum(chosen, CANDIDATES - 1)
    f0 = np.where(voiced, sample_rate / lags[rows, safe], 0.0)
    periodicity = np.where(voiced, scores[rows, safe], scores.max(axis=1, initial=0))
    return f0.astype(np.float32), np.clip(periodicity, 0, 1).astype(np.float32)


def _frames(waveform: np.ndarray, size: int, hop: int) -> np.ndarray:
    """Mean-free frames centred on the hops, [F, size]."""
    padded = np.pad(np.asarray(waveform, np.float32), (size // 2, size))
    count = len(waveform) // hop
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:count]
    return frames - frames.mean(axis=1, keepdims=True)


def _autocorrelation(frames: np.ndarray, lags: int) -> np.ndarray:
    """Autocorrelation of Hann-windowed frames divided by that of the window, [F, lags]; 1 for a perfect period."""
    size = frames.shape[1]
    window = np.hanning(size).astype(np.float32)
    n_fft = scipy.fft.next_fast_len(size + lags, real=True)

    def correlate(signal):
        return scipy.fft.irfft(np.square(np.abs(scipy.fft.rfft(signal, n_fft))), n_fft)[..., :lags]

    raw, shape = correlate(frames * window), correlate(window)
    return raw / np.maximum(raw[:, :1], 1e-9) / (shape / shape[0])


def _candidates(correlation: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """The best peaks of every frame, parabolically refined: (lags [F, K] in samples, heights [F, K])."""
    first = int(sample_rate / HIGH_HZ)
    middle, left, right = correlation[:, first:-1], correlation[:, first - 1 : -2], correlation[:, first + 1 :]
    peak = (middle > left) & (middle >= right)
    preference = OCTAVE_COST * np.log2(np.arange(first, first + middle.shape[1]) / first)
    ranked = np.where(peak, middle - preference, -1.0)
    best = np.argpartition(-ranked, CANDIDATES, axis=1)[:, :CANDIDATES]
    take = lambda values: np.take_along_axis(values, best, axis=1)  # noqa: E731
    low, mid, high = take(left), take(middle), take(right)
    curve = np.minimum(low - 2 * mid + high, -1e-9)
    offset = np.clip(0.5 * (low - high) / curve, -0.5, 0.5)
    heights = np.where(take(peak), np.minimum(mid, 1.0) - preference[best], 0.0)
    return best + first + offset, heights


def _best_path(lags: np.ndarray, scores: np.ndarray, sample_rate: int) -> np.ndarray:
    """Viterbi over K pitch candidates and one unvoiced state; the state of every frame, K = unvoiced."""
    octaves = np.log2(sample_rate / lags)
    gain = np.concatenate([scores, np.full((len(scores), 1), VOICING_THRESHOLD)], axis=1)
    jumps = JUMP_COST * np.abs(octaves[1:, :, None] - octaves[:-1, None, :])  # [F-1, to, from]
    cost = np.full((len(jumps), CANDIDATES + 1, CANDIDATES + 1), SWITCH_COST)
    cost[:, :CANDIDATES, :CANDIDATES] = jumps
    cost[:, CANDIDATES, CANDIDATES] = 0.0
    total, back = gain[0], np.zeros(gain.shape, np.int64)
    for frame in range(1, len(gain)):
        options = total - cost[frame - 1]
        back[frame] = options.argmax(axis=1)
        total = options.max(axis=1) + gain[frame]
    path = np.empty(len(gain), np.int64)
    path[-1] = total.argmax()
    for frame in range(len(gain) - 1, 0, -1):
        path[frame - 1] = back[frame, path[frame]]
    return path
