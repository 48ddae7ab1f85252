"""Where clips lie in the windows that an encoder reads: one in each, or several that do not see each other."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ieat_jax.model.sight import Sight


@dataclasses.dataclass(frozen=True)
class Places:
    """The positions of clips in windows [N, P], int32, counted in what P counts (frames, states of the encoder, ...).

    A clip's slot is the clip and what follows it up to the next one.
    """

    lengths: jax.Array  # [N], one clip in each window, from its beginning on; or [N, C], 0 = no clip
    starts: jax.Array | None = None  # [N, C] in ascending order; None = one clip in each window
    most: int = 0  # of a clip that shares a window: as long as a window of its own, which nothing stands behind

    def halved(self) -> Places:
        """The same clips where two positions have become one; each begins at an even position."""
        return self.scaled((self.lengths + 1) // 2, 2)

    def scaled(self, lengths: jax.Array, stride: int) -> Places:
        """The same clips, of which `stride` positions have become one, with these lengths."""
        return Places(lengths, None if self.starts is None else self.starts // stride, -(-self.most // stride))

    def slots(self, size: int) -> jax.Array | None:
        """Which clip's slot each of `size` positions is in: [N, P] from 1, 0 = none; None = one in each window."""
        return None if self.starts is None else jnp.where(self.offsets(size) < self.most, self._begun(size), 0)

    def offsets(self, size: int) -> jax.Array:
        """How far each of `size` positions is from the beginning of its slot: [N, P], or [P] for one clip a window."""
        at = jnp.arange(size, dtype=jnp.int32)
        return at if self.starts is None else at - self._of_slot(self.starts, size)

    def inside(self, size: int) -> jax.Array:
        """Which of `size` positions are a clip's own: bool [N, P]."""
        if self.starts is None:
            return jnp.arange(size, dtype=jnp.int32) < self.lengths[:, None]
        return self.offsets(size) < self._of_slot(self.lengths, size)

    def sight(self, size: int) -> Sight:
        """Each clip sees itself alone."""
        inside = self.inside(size)
        if self.starts is None:
            return Sight.plain(inside)
        return Sight(self.offsets(size), jnp.where(inside, self.slots(size), 0))

    def highest(self, values: jax.Array) -> jax.Array:
        """The largest of `values` [N, P] of each position's slot: [N, 1] for one clip a window, else [N, P]."""
        if self.starts is None:
            return jnp.max(values, axis=1, keepdims=True)
        size = values.shape[1]
        own = self._begun(size)[..., None] == jnp.arange(1, self.starts.shape[1] + 1)
        return self._of_slot(jnp.max(jnp.where(own, values[..., None], -jnp.inf), axis=1), size)

    def _begun(self, size: int) -> jax.Array:
        """How many clips have begun at each of `size` positions: [N, P]."""
        begun = (jnp.arange(size, dtype=jnp.int32)[:, None] >= self.starts[:, None]) & (self.lengths[:, None] > 0)
        return jnp.sum(begun, axis=2, dtype=jnp.int32)

    def _of_slot(self, of_clips: jax.Array, size: int) -> jax.Array:
        """What [N, C] says of the clip in whose slot each of `size` positions is: [N, P]; 0 where there is none."""
        own = self._begun(size)[..., None] == jnp.arange(1, of_clips.shape[1] + 1)
        return jnp.sum(jnp.where(own, of_clips[:, None], 0), axis=2, dtype=of_clips.dtype)
