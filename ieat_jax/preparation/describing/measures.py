"""What a signal shows of a voice: pitch, loudness, speed, the longest pause. Measured with librosa."""

from __future__ import annotations

import dataclasses

import numpy as np

from ieat_jax.audio.files import SAMPLE_RATE

HOP = SAMPLE_RATE // 100
WINDOW = 4 * HOP  # of loudness
PITCH_WINDOW = 1024  # two periods of the lowest pitch
LOWEST_HZ, HIGHEST_HZ = 65.0, 600.0
PITCH_STEP = 0.2  # semitones; finer steps take pYIN several times as long, and are far below what is told apart
VOICED_FRAMES = 10  # fewer, of 20 ms, have no pitch to speak of
SPEECH_DB = 30.0  # below the loudest frame: still speech
PAUSE_DB = 35.0  # below the loudest frame: silence
SHORT_GAP = 0.3  # seconds; a longer gap is a pause, which is no part of the speed of speaking
BLIP = 0.1  # seconds; a shorter sound beside a gap, a click say, does not make it a pause in speech
# Syllable nuclei after de Jong & Wempe (2009): peaks of loudness between dips, where the voice sounds.
DIP_DB, NUCLEUS_DB, APART_SECONDS = 2.0, 25.0, 0.07
NUCLEI, SPOKEN_SECONDS = 3, 0.5  # fewer or less have no speed to speak of


@dataclasses.dataclass(frozen=True)
class Voice:
    """Measures of one clip, None where the signal shows none."""

    pitch: float | None  # Hz, median of the voiced frames
    level: float | None  # dB of full scale, of the frames with speech
    peak: float | None  # dB of full scale
    effort: float | None  # dB, how strong 1 to 5 kHz are beside what lies below: more when one raises the voice
    rate: float | None  # syllables a second, pauses not counted
    pause: float  # seconds of the longest silence between two stretches of sound


def measure(waveform: np.ndarray) -> Voice:
    """Measure a waveform [samples] at 16 kHz."""
    import librosa  # which takes seconds to load

    rms = librosa.feature.rms(y=waveform, frame_length=WINDOW, hop_length=HOP)[0]
    decibels = librosa.amplitude_to_db(rms, ref=1.0, amin=1e-6, top_db=None)
    stretches = librosa.effects.split(waveform, top_db=PAUSE_DB, frame_length=WINDOW, hop_length=HOP) / SAMPLE_RATE
    pitches, _, _ = librosa.pyin(
        waveform,
        fmin=LOWEST_HZ,
        fmax=HIGHEST_HZ,
        sr=SAMPLE_RATE,
        frame_length=PITCH_WINDOW,
        hop_length=2 * HOP,
        resolution=PITCH_STEP,
    )
    voiced = ~np.isnan(pitches)
    speech = decibels > decibels.max() - SPEECH_DB
    if not rms.any():
        return Voice(None, None, None, None, None, 0.0)
    return Voice(
        pitch=float(np.median(pitches[voiced])) if voiced.sum() >= VOICED_FRAMES else None,
        level=float(10 * np.log10(np.mean(np.square(rms[speech])))),
        peak=float(20 * np.log10(np.abs(waveform).max())),
        effort=_effort(waveform, voiced),
        rate=_rate(decibels, voiced, stretches),
        pause=_longest_pause(stretches),
    )


def _effort(waveform: np.ndarray, voiced: np.ndarray) -> float | None:
    """The alpha ratio of voiced frames, which does not depend on how far away the microphone stood."""
    import librosa

    if voiced.sum() < VOICED_FRAMES:
        return None
    power = np.square(np.abs(librosa.stft(waveform, n_fft=PITCH_WINDOW, hop_length=2 * HOP)))[:, : len(voiced)]
    mean = power[:, voiced[: power.shape[1]]].mean(axis=1)
    hertz = librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=PITCH_WINDOW)
    low, high = (mean[(hertz >= first) & (hertz < last)].sum() for first, last in ((50, 1000), (1000, 5000)))
    return float(10 * np.log10(max(high, 1e-12) / max(low, 1e-12)))


def _rate(decibels: np.ndarray, voiced: np.ndarray, stretches: np.ndarray) -> float | None:
    """Syllables a second."""
    from scipy.signal import find_peaks

    smooth = np.convolve(np.pad(decibels, 2, mode="edge"), np.hanning(7)[1:-1] / np.hanning(7).sum(), mode="valid")
    peaks, _ = find_peaks(
        smooth,
        height=smooth.max() - NUCLEUS_DB,
        prominence=DIP_DB,
        distance=round(APART_SECONDS * SAMPLE_RATE / HOP),
    )
    if voiced.any():
        peaks = peaks[voiced[np.minimum(peaks // 2, len(voiced) - 1)]]
    gaps = stretches[1:, 0] - stretches[:-1, 1]
    spoken = stretches[-1, 1] - stretches[0, 0] - gaps[gaps >= SHORT_GAP].sum()
    return len(peaks) / float(spoken) if len(peaks) >= NUCLEI and spoken >= SPOKEN_SECONDS else None


def _longest_pause(stretches: np.ndarray) -> float:
    """`stretches` of sound [n, 2], in seconds."""
    sounds = stretches[stretches[:, 1] - stretches[:, 0] >= BLIP]
    gaps = sounds[1:, 0] - sounds[:-1, 1]
    return float(gaps.max(initial=0.0))
