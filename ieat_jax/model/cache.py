"""The keys and values of tokens already seen, for decoding."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ieat_jax.model.sharding import array_spec, check_divides, lay, out_sharding, spec, whole
from ieat_jax.model.sight import Sight


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of N layers for B rows of up to L tokens; every row fills its slots from 0 without gaps.

    Prefill and step are the same call: whatever tokens come are appended after those of earlier calls; padding tokens
    (segment id 0) are not stored. There is no check for a full cache under jit: tokens beyond L are not stored, so size
    it for prompt plus reply.
    """

    # Heads before slots: attention reads a layer in the order that it is stored in, without a copy per step.
    k: jax.Array  # [N, B, K, L, head_dim], RoPE applied
    v: jax.Array  # [N, B, K, L, head_dim]
    sight: Sight  # [B, L] of what is stored; segment id 0 = empty slot
    next: jax.Array  # [B] int32: next free slot of each row

    @classmethod
    def empty(
        cls, num_layers: int, batch: int, length: int, num_kv_heads: int, head_dim: int, dtype: jnp.dtype
    ) -> KVCache:
        """A cache without tokens, its rows laid over the mesh's batch axes."""
        check_divides(batch, "batch", "the cache's rows", "the batch size")
        names = (None, "batch", "kv_heads", None, None)
        shape = (num_layers, batch, num_kv_heads, length, head_dim)

        def zeros(shape: tuple[int, ...], dtype: jnp.dtype, *names: str | None) -> jax.Array:
            return jnp.zeros(shape, dtype, out_sharding=out_sharding(spec(*names)))

        k, v = zeros(shape, dtype, *names), zeros(shape, dtype, *names)
        sight = Sight(*(zeros((batch, length), jnp.int32, "batch", None) for _ in range(3)))
        return cls(k, v, sight, zeros((batch,), jnp.int32, "batch"))

    def admit(self, sight: Sight) -> tuple[KVCache, jax.Array]:
        """Reserve slots for the tokens of `sight` [B, T].

        Returns the cache with their sight stored (keys and values still to come, see `store`) and their slots [B, T]:
        for padding L, which is out of range and so never stored.
        """
        if sight.branch_ids is None:
            sight = dataclasses.replace(sight, branch_ids=jnp.zeros_like(sight.segment_ids))
        sight = jax.tree.map(whole, sight)
        valid = (sight.segment_ids > 0).astype(jnp.int32)
        slots = jnp.where(valid > 0, self.next[:, None] + jnp.cumsum(valid, axis=1) - 1, self.k.shape[3])
        stored = jax.tree.map(lambda old, new: put_rows(old, new, slots), self.sight, sight)
        return dataclasses.replace(self, sight=stored, next=self.next + jnp.sum(valid, axis=1)), slots


def put_rows(stored: jax.Array, new: jax.Array, slots: jax.Array) -> jax.Array:
    """`stored` [B, L, ...] with `new` [B, T, ...] written at each row's `slots` [B, T], those out of range left out."""
    new = lay(whole(new), array_spec(stored)).astype(stored.dtype)
    return jax.vmap(lambda row, values, at: row.at[at].set(values, mode="drop"))(stored, new, slots)


def store(layers: jax.Array, index: jax.Array, new: jax.Array, slots: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Write `new` [B, T, K, hd] of layer `index` into `layers` [N, B, K, L, hd].

    Returns all layers, and that layer as [B, L, K, hd].
    """
    layout = array_spec(layers)
    new = lay(whole(new), PartitionSpec(layout[1], None, layout[2], None)).astype(layers.dtype)
    at = jnp.stack([jnp.zeros_like(slots) + index, slots], axis=-1)
    # One scatter into all layers, which a loop does in place; cutting the layer out and putting it back copies it.
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(2, 3),
        inserted_window_dims=(0, 3),
        scatter_dims_to_operand_dims=(0, 3),
        operand_batching_dims=(1,),
        scatter_indices_batching_dims=(0,),
    )
    layers = jax.lax.scatter(layers, at, new, numbers, unique_indices=True, mode=jax.lax.GatherScatterMode.FILL_OR_DROP)
    layer = jax.lax.dynamic_index_in_dim(layers, index, 0, keepdims=False)
    return layers, jnp.swapaxes(layer, 1, 2)
