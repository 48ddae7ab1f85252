"""What Listen makes of clips, each heard once however often it occurs in dialogues, controls and later turns."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import jax
import numpy as np

from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.model.adapters import adapter_length
from ieat_jax.model.config import ListenConfig
from ieat_jax.model.listen import Listen
from ieat_jax.model.sharding import put

MAX_BYTES = 1 << 29  # what is remembered: thousands of short clips


@jax.jit
def _positions(listen: Listen, mel: jax.Array, frames: jax.Array) -> jax.Array:
    return listen(mel, frames)[0][:, 0]


class Listener:
    """Runs Listen over clips in batches of `rows`, and keeps the results by the clips' contents."""

    def __init__(self, listen: Listen, config: ListenConfig, rows: int):
        self.listen, self.config, self.rows = listen, config, rows
        self.frames = round(config.clip_seconds * FRAMES_PER_SECOND)
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._bytes = 0

    @property
    def positions(self) -> int:
        """A: the positions that the window takes."""
        return int(adapter_length(self.config.adapter, self.frames))

    def __call__(self, mels: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-mels [F,M] within the window -> their positions of the LLM, each [A,D]. Call it under the mesh.

        The last `ListenConfig.behind` frames of each stand behind its clip.
        """
        keys = [hashlib.blake2b(mel.tobytes(), digest_size=16).digest() for mel in mels]
        new = {key: mel for key, mel in zip(keys, mels, strict=True) if key not in self._known}
        found = {key: self._known[key] for key in keys if key in self._known}
        for first in range(0, len(new), self.rows):
            part = list(new)[first : first + self.rows]
            found |= dict(zip(part, self._run([new[key] for key in part]), strict=True))
        self._remember({key: found[key] for key in keys})
        return [found[key] for key in keys]

    def _run(self, mels: Sequence[np.ndarray]) -> list[np.ndarray]:
        padded = np.zeros((self.rows, 1, self.frames, self.config.encoder.num_mels), np.float32)
        frames = np.zeros((self.rows, 1), np.int32)
        lengths = [len(mel) - (self.config.behind or 0) for mel in mels]
        for row, mel in enumerate(mels):
            padded[row, 0, : len(mel)], frames[row] = mel[: self.frames], lengths[row]
        heard = np.asarray(_positions(self.listen, put(padded, "batch"), put(frames, "batch")))
        counts = [int(adapter_length(self.config.adapter, length)) for length in lengths]
        return [heard[row, :count].copy() for row, count in enumerate(counts)]

    def _remember(self, found: dict[bytes, np.ndarray]) -> None:
        """Keep what was used last, up to MAX_BYTES."""
        for key, heard in found.items():
            if key not in self._known:
                self._bytes += heard.nbytes
            self._known[key] = heard
            self._known.move_to_end(key)
        while self._bytes > MAX_BYTES:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
