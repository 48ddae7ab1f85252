"""The voice of the demo corpus: hibari-tts with prosody set by rules before its waveform is synthesised.

hibari's network predicts F0 and spectral parts per 12.5 ms frame; numpy turns them into sound. We change F0, rate,
level, spectral tilt and breath in between, so no artefacts of changing a finished waveform arise. The classes are named
after emotions because of the rules' intention; they say nothing about how people sound.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import soxr

from ieat_jax.audio.files import SAMPLE_RATE
from ieat_jax.errors import UserError

VOICED_HZ = 40.0
FRAME_SECONDS = 0.0125
SPEECH_RMS = 0.08


@dataclass(frozen=True)
class Prosody:
    """What is done to a sentence. All zeros and a speed and range of 1 leave it as the network speaks it."""

    speed: float = 1.0  # relative to the network's pace
    shift: float = 0.0  # of F0, semitones
    span: float = 1.0  # factor on F0 movement around its median, in semitones
    final: float = 0.0  # semitones reached at the end of the last third
    level: float = 0.0  # dB
    tilt: float = 0.0  # dB per octave above 500 Hz
    breath: float = 0.0  # dB of noise added to voiced sound
    tremor: float = 0.0  # semitones of 7 Hz vibration of F0

    def scaled(self, intensity: float, rest: "Prosody") -> "Prosody":
        """The point at `intensity` on the line from `rest` (0) to this (1)."""
        values = {name: getattr(rest, name) * (1 - intensity) + getattr(self, name) * intensity for name in FIELDS}
        return Prosody(**values)

    def jittered(self, rng: np.random.Generator) -> "Prosody":
        """A little different, as no two utterances are alike."""
        return replace(
            self,
            speed=self.speed * float(np.exp(rng.normal(0, 0.03))),
            shift=self.shift + float(rng.normal(0, 0.4)),
            span=self.span * float(np.exp(rng.normal(0, 0.08))),
            level=self.level + float(rng.normal(0, 1.0)),
            tilt=self.tilt + float(rng.normal(0, 0.3)),
        )


FIELDS = tuple(Prosody.__dataclass_fields__)
REST = Prosody(span=0.85)

USER_PROSODY = {
    "neutral": REST,
    "happy": Prosody(speed=1.12, shift=2.5, span=1.35, level=2, tilt=2.0),
    "sad": Prosody(speed=0.80, shift=-3.0, span=0.45, final=-2, level=-5, tilt=-3.0, breath=6),
    "anger": Prosody(speed=1.15, shift=0.5, span=1.25, final=-4, level=6, tilt=3.5),
    "fear": Prosody(speed=1.22, shift=5.0, span=0.55, level=-2, tilt=-0.5, breath=8, tremor=1.2),
    "surprise": Prosody(speed=0.92, shift=5.0, span=1.9, final=7, level=2),
}
REPLY_PROSODY = {
    "neutral": REST,
    "happy": Prosody(speed=1.06, shift=2.0, span=1.3, level=1, tilt=0.5),
    "comfort": Prosody(speed=0.88, shift=-2.0, span=0.7, level=-3, tilt=-1.5, breath=3),
    "encourage": Prosody(speed=0.98, shift=0.5, span=1.1, level=1, tilt=0.5),
    "surprise": Prosody(speed=1.0, shift=2.5, span=1.5, final=3, level=1),
}


@lru_cache(maxsize=1)
def _voice():
    try:
        from hibari import Hibari
    except ImportError as error:
        raise UserError("the demo corpus is spoken by hibari-tts: pip install 'ieat_jax[demo]'") from error
    return Hibari(voice="heart", threads=1)


def speak(text: str, prosody: Prosody, seed: int) -> np.ndarray:
    """One or more English sentences -> float32 waveform [samples] at 16 kHz, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    voice = _voice()
    parts = [_sentence(voice, voice.ids(phonemes), prosody, rng) for phonemes in voice.phonemize(text)]
    pause = np.zeros(int(0.12 * SAMPLE_RATE), np.float32)
    joined = parts[0]
    for part in parts[1:]:
        joined = np.concatenate([joined, pause, part])
    loudness = np.sqrt(np.square(joined).mean() + 1e-12)
    joined = joined * (SPEECH_RMS * 10 ** (prosody.level / 20) / loudness)
    peak = np.abs(joined).max()
    joined = joined * min(1.0, 0.95 / peak)
    edge = np.zeros(int(0.06 * SAMPLE_RATE), np.float32)
    return np.concatenate([edge, joined, edge]).astype(np.float32)


def _sentence(voice, ids: list[int], prosody: Prosody, rng: np.random.Generator) -> np.ndarray:
    """Run the network on phoneme ids, apply the rules to its frames, synthesise and trim."""
    from hibari import dsp

    feeds = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([prosody.speed], np.float32)}
    harmonic, theta, noise, free, phase, f0 = (part[0] for part in voice.sess.run(None, feeds))
    voiced = f0 > VOICED_HZ
    frequencies = np.fft.rfftfreq(dsp.N_FFT, 1 / dsp.SR)
    octaves = np.log2(np.maximum(frequencies, 500.0) / 500.0)
    tilt = (prosody.tilt * octaves * np.log(10) / 20).astype(np.float32)[:, None]
    breath = np.where(voiced, prosody.breath * np.log(10) / 20, 0.0).astype(np.float32)
    wave = dsp.synth(harmonic + tilt, theta, noise + tilt + breath, free + tilt, phase, _move(f0, voiced, prosody), rng)
    return _trim(soxr.resample(wave, dsp.SR, SAMPLE_RATE))


def _move(f0: np.ndarray, voiced: np.ndarray, prosody: Prosody) -> np.ndarray:
    """Apply the F0 rules to a contour [frames] in Hz; unvoiced frames stay as they are."""
    if not voiced.any():
        return f0
    frames = np.flatnonzero(voiced)
    semitones = 12 * np.log2(f0[frames])
    centre = np.median(semitones)
    moved = centre + (semitones - centre) * prosody.span + prosody.shift
    place = (frames - frames[0]) / max(frames[-1] - frames[0], 1)
    moved += prosody.final * np.clip((place - 2 / 3) * 3, 0, 1)
    moved += prosody.tremor * np.sin(2 * np.pi * 7.0 * frames * FRAME_SECONDS)
    result = f0.copy()
    result[frames] = np.clip(2 ** (moved / 12), 75.0, 500.0)
    return result


def _trim(wave: np.ndarray) -> np.ndarray:
    """Cut leading and trailing silence, leaving 20 ms."""
    hop = SAMPLE_RATE // 100
    frames = wave[: len(wave) // hop * hop].reshape(-1, hop)
    loud = np.flatnonzero(np.sqrt(np.square(frames).mean(axis=1)) > 0.003)
    if not len(loud):
        return wave
    return wave[max(loud[0] - 2, 0) * hop : (loud[-1] + 3) * hop]
