"""Speak: Think's states and speech units in, groups of speech units out."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ieat_jax.model.cache import KVCache
from ieat_jax.model.config import ModelConfig
from ieat_jax.model.layers import RMSNorm, embed, normal
from ieat_jax.model.llm import make_layers, pick_rows, run_layers
from ieat_jax.model.sharding import Divided
from ieat_jax.model.sight import Sight

# U is not divided over `tensor`: 4,098 has no useful divisors, and these tables are small.
TABLE, HEADS = (None, "embed"), (None, "embed", None)


class Speak(nnx.Module):
    """A second copy of Write's layers with its own norm, unit embedding, and one head per unit of a group."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        table, layers, heads = jax.random.split(key, 3)
        self.config = config
        units, group, width = config.speak.unit_vocab_size, config.speak.group_size, config.llm.width
        self.embed = normal(table, (units, width), TABLE, 0.02)
        self.layers = make_layers(config.llm, config.write_layers, layers)
        self.norm = RMSNorm(width, config.llm.norm_eps)
        self.heads = normal(heads, (group, width, units), HEADS, 1 / math.sqrt(width))

    def feed(self, think_states: jax.Array, speak_state: jax.Array, speak_units: jax.Array) -> jax.Array:
        """What Speak is fed: a Think state plus the sum of a group's unit embeddings.

        Args:
            think_states: [B, T, D].
            speak_state: [B, S] int32: which state, -1 = none.
            speak_units: [B, S, group] int32: which units, -1 = none.

        Returns:
            [B, S, D].
        """
        states = pick_rows(think_states, speak_state)
        units = embed(self.embed.get_value(), jnp.maximum(speak_units, 0), states.dtype)
        return states + jnp.sum(jnp.where(speak_units[..., None] >= 0, units, 0), axis=-2)

    def __call__(self, states: jax.Array, sight: Sight, cache: KVCache | None = None) -> Any:
        """`feed`'s [B, S, D] -> [B, S, D] after Speak's norm; with a cache ([B, S, D], cache).

        Positions of `sight` count from 0 over Speak's own sequence, one segment per answer.
        """
        x, new_cache = run_layers(self.layers, states, sight, self.config, cache)
        x = self.norm(x)
        return x if cache is None else (x, new_cache)

    def unit_heads(self) -> Divided:
        """The heads [group, D, U]."""
        return Divided(self.heads.get_value(), HEADS, jnp.dtype(self.config.dtype))

    def unit_logits(self, x: jax.Array, heads: jax.Array | None = None) -> jax.Array:
        """[..., D] -> float32 [..., group, U]; `heads`: `unit_heads()` gathered, for several calls."""
        heads = self.unit_heads().gather() if heads is None else heads
        return jnp.einsum("...d,gdu->...gu", x, heads, preferred_element_type=jnp.float32)

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` rows of up to `length` Speak positions."""
        llm, layers = self.config.llm, self.config.write_layers
        dtype = jnp.dtype(self.config.dtype)
        return KVCache.empty(layers, batch, length, llm.num_kv_heads, llm.head_dim, dtype)
