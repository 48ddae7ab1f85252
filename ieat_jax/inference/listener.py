"""What Listen makes of clips, each heard once however often it occurs in dialogues, controls and later turns."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import jax
import numpy as np

from ieat_jax.audio.logmel import log_mel
from ieat_jax.model.config import ListenConfig
from ieat_jax.model.listen import FRAMES_PER_SECOND, Listen, adapter_length
from ieat_jax.model.sharding import put

MAX_BYTES = 1 << 29  # what is remembered: thousands of short clips


@jax.jit
def _hear(listen: Listen, mel: jax.Array, frames: jax.Array) -> jax.Array:
    return listen(mel, frames)[0][:, 0]


class Listener:
    """Runs Listen over clips in batches of `rows`, and keeps the results by the clips' contents."""

    def __init__(self, listen: Listen, config: ListenConfig, rows: int):
        self.listen, self.config, self.rows = listen, config, rows
        self.frames = round(config.clip_seconds * FRAMES_PER_SECOND)
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._bytes = 0

    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """16 kHz waveforms within the window -> their positions of the LLM, each [A,D]. Call it under the mesh."""
        keys = [hashlib.blake2b(waveform.tobytes(), digest_size=16).digest() for waveform in waveforms]
        new = {key: waveform for key, waveform in zip(keys, waveforms, strict=True) if key not in self._known}
        found = {key: self._known[key] for key in keys if key in self._known}
        for first in range(0, len(new), self.rows):
            part = list(new)[first : first + self.rows]
            found |= dict(zip(part, self._run([new[key] for key in part]), strict=True))
        self._remember({key: found[key] for key in keys})
        return [found[key] for key in keys]

    def _run(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        mel = np.zeros((self.rows, 1, self.frames, self.config.encoder.num_mels), np.float32)
        frames = np.zeros((self.rows, 1), np.int32)
        for row, waveform in enumerate(waveforms):
            own = log_mel(waveform, num_mels=mel.shape[-1])[: self.frames]
            mel[row, 0, : len(own)], frames[row] = own, len(own)
        heard = np.asarray(_hear(self.listen, put(mel, "batch"), put(frames, "batch")))
        lengths = [int(adapter_length(self.config.adapter, int(count))) for count in frames[: len(waveforms), 0]]
        return [heard[row, :length].copy() for row, length in enumerate(lengths)]

    def _remember(self, found: dict[bytes, np.ndarray]) -> None:
        """Keep what was used last, up to MAX_BYTES."""
        for key, heard in found.items():
            if key not in self._known:
                self._bytes += heard.nbytes
            self._known[key] = heard
            self._known.move_to_end(key)
        while self._bytes > MAX_BYTES:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
