"""Units to sound in chunks, for streaming, with any codec that decodes a whole sequence at a time."""

import numpy as np

from ieat_jax.audio.codec import UnitCodec


class ChunkedVocoder:
    """Decodes the newest units together with those around them and joins the chunks with a short cross-fade.

    `context` seconds before a chunk are decoded again so that the codec hears what came before; the newest `hold`
    seconds are kept back until their right-hand context has arrived.
    """

    def __init__(self, codec: UnitCodec, *, context: float = 0.6, hold: float = 0.1, fade: float = 0.02):
        self.codec = codec
        self.samples_per_unit = round(codec.sample_rate / codec.rate)
        self.context = round(context * codec.rate)
        self.hold = round(hold * codec.rate)
        self.fade = round(fade * codec.sample_rate)
        self.units = np.zeros(0, np.int32)
        self.emitted = 0  # units whose sound is out
        self.tail = np.zeros(0, np.float32)  # what the chunk before would have played next

    def push(self, units: np.ndarray, *, final: bool = False) -> np.ndarray:
        """Add units [n]; the samples that are certain now (all of them when `final`)."""
        self.units = np.concatenate([self.units, np.asarray(units, np.int32)])
        end = len(self.units) if final else len(self.units) - self.hold
        if end <= self.emitted:
            return np.zeros(0, np.float32)
        first = max(0, self.emitted - self.context)
        window = self._decode(self.units[first:])
        start, stop = ((unit - first) * self.samples_per_unit for unit in (self.emitted, end))
        chunk = window[start:stop].copy()
        overlap = min(len(self.tail), len(chunk))
        if overlap:
            rise = (np.arange(overlap) + 0.5) / overlap
            chunk[:overlap] = self.tail[:overlap] * (1 - rise) + chunk[:overlap] * rise
        self.tail = window[stop : stop + self.fade]
        self.emitted = end
        return chunk

    def _decode(self, units: np.ndarray) -> np.ndarray:
        """Decode to exactly `samples_per_unit` samples per unit, whatever a codec does at its edges."""
        waveform = np.asarray(self.codec.decode(units), np.float32)
        size = len(units) * self.samples_per_unit
        return np.pad(waveform, (0, max(size - len(waveform), 0)))[:size]
