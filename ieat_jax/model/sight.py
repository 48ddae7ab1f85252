"""Which tokens of a row are visible to each other."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ieat_jax.model.sharding import array_spec, lay, whole


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sight:
    """Where the tokens of a batch stand and which of them see each other; all int32 [B, T].

    Key j is visible to query i when both have the same segment id above 0 (0 = padding), j does not come after i, and
    j is of the trunk (branch id 0) or of i's own branch.
    """

    positions: jax.Array  # RoPE position
    segment_ids: jax.Array  # 0 = padding
    branch_ids: jax.Array | None = None  # 0 = trunk; None = there are no branches

    @classmethod
    def plain(cls, valid: jax.Array) -> Sight:
        """One segment per row without branches, positions from 0; `valid` bool [B, T], padding anywhere."""
        valid = valid.astype(jnp.int32)
        positions = jnp.maximum(jnp.cumsum(whole(valid), axis=1) - 1, 0)
        return cls(lay(positions, array_spec(valid)), valid)


def clean(x: jax.Array, sight: Sight) -> jax.Array:
    """`x` [B, T, D] with padding set to zero, so that nothing in it (not even NaN) reaches values or gradients."""
    return jnp.where(sight.segment_ids[..., None] > 0, x, 0)


def visible(q_sight: Sight, kv_sight: Sight, *, causal: bool, q_slots: jax.Array | None = None) -> jax.Array:
    """Which keys each query sees: bool [B, Tq, Tk]. `q_slots` [B, Tq]: places of the queries among the keys."""
    q_segment, k_segment = q_sight.segment_ids[:, :, None], whole(kv_sight.segment_ids)[:, None]
    seen = (q_segment == k_segment) & (k_segment > 0)
    if kv_sight.branch_ids is not None:
        k_branch = whole(kv_sight.branch_ids)[:, None]
        own = 0 if q_sight.branch_ids is None else q_sight.branch_ids[:, :, None]
        seen &= (k_branch == 0) | (k_branch == own)
    if causal:
        if q_slots is None:
            q_slots = jax.lax.broadcasted_iota(jnp.int32, q_sight.segment_ids.shape, 1)
            q_slots = lay(q_slots, array_spec(q_sight.segment_ids))
        seen &= jax.lax.broadcasted_iota(jnp.int32, (1, 1, k_segment.shape[-1]), 2) <= q_slots[:, :, None]
    return seen
