"""Sound kept without loss: samples of 24 bits, and the FLAC that holds them.

What was resampled, averaged or written as fractions lies between the numbers of 24 bits. `files.read_audio` rounds it
to them, by less than anyone hears, so that FLAC gives back exactly what was heard.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
import soundfile

BITS = 24  # of a sample
SAMPLE_RATE = 16_000


class Flac(NamedTuple):
    """A waveform at 16 kHz, and the power of two that its samples are to be multiplied by."""

    content: bytes
    shift: int


def on_grid(waveform: np.ndarray, bits: int = BITS) -> tuple[np.ndarray, int]:
    """Whole numbers of so many bits for float32 [samples], and the power of two (0 or above) that they leave out.

    Numbers of as many bits stay what they are; others move by half a step of the loudest sample's at most.
    """
    highest, lowest = (float(waveform.max()), -float(waveform.min())) if len(waveform) else (0.0, 0.0)
    (_, above), (fraction, below) = math.frexp(max(highest, 0.0)), math.frexp(max(lowest, 0.0))
    shift = max(0, above, below - (fraction == 0.5))  # -1 is a number of 24 bits, +1 is not
    scaled = np.rint(np.asarray(waveform, np.float32) * np.float32(2.0 ** (bits - 1 - shift)))
    return np.minimum(scaled, np.float32((1 << bits - 1) - 1)).astype(np.int32), shift


def off_grid(samples: np.ndarray, shift: int, bits: int = BITS) -> np.ndarray:
    """The waveform of what `on_grid` returned: float32 [samples]."""
    return samples.astype(np.float32) * np.float32(2.0 ** (shift + 1 - bits))


def encode_flac(waveform: np.ndarray, bits: int = BITS) -> Flac:
    """FLAC of a waveform as `read_audio` returns it; with 24 bits nothing is lost, and 16 are taken where they do."""
    samples, shift = on_grid(waveform, bits)
    if bits == BITS and not (samples & 0xFF).any():
        samples, bits = samples >> 8, 16
    made = io.BytesIO()
    ordered = samples.astype(np.int16) if bits == 16 else samples << 8  # libsndfile takes the upper bits
    soundfile.write(made, ordered, SAMPLE_RATE, format="FLAC", subtype=f"PCM_{bits}")
    return Flac(made.getvalue(), shift)


def decode_flac(flac: Flac) -> np.ndarray:
    """The waveform, as `read_audio` returned it: float32 [samples].

    Raises:
        ValueError: it is no such FLAC, or is cut off.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(flac.content)) as sound:
            samples = sound.read(dtype="float32")
            if sound.samplerate != SAMPLE_RATE or samples.ndim != 1 or len(samples) != sound.frames:
                raise ValueError("not whole, or not at 16 kHz with one channel")
    except soundfile.LibsndfileError as error:
        raise ValueError(str(error.error_string)) from error
    return samples * np.float32(2.0**flac.shift)
