"""Think and Write: one decoder that is Llama, Mistral, Qwen2, Qwen3 or OLMo 2 by configuration, cut in two at
`speak.freeze_layer`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from ieat_jax.model.attention import Attention, Mix, Rotation, attend, rope
from ieat_jax.model.cache import KVCache, store
from ieat_jax.model.config import LLMConfig, ModelConfig
from ieat_jax.model.cudnn import cudnn_is_saved
from ieat_jax.model.layers import GatedMLP, RMSNorm, embed, normal, stack
from ieat_jax.model.sharding import array_spec, out_sharding, whole
from ieat_jax.model.sight import Sight, clean
from ieat_jax.model.splash import SAVED

LAYER_INPUT = "layer_input"  # checkpoint name, for remat policies


class DecoderLayer(nnx.Module):
    """Transformer layer: attention, then SwiGLU MLP, each added to its input; norms before them, or behind (OLMo 2)."""

    def __init__(self, config: LLMConfig, key: jax.Array):
        attention, mlp = jax.random.split(key)
        gain = 1 / math.sqrt(2 * config.num_layers)  # the residual stream keeps its variance with depth (GPT-2)
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(
            config.width,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            attention,
            biases="qkv" if config.qkv_bias else "",
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
            norm_heads=config.post_norm,
            gain=gain,
        )
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = GatedMLP(config.width, config.mlp_width, mlp, gain=gain)
        self.post_norm = config.post_norm

    def __call__(self, x: jax.Array, rotation: Rotation, mix: Mix) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        if self.post_norm:
            x = x + self.attention_norm(self.attention(x, rotation, mix))
            return x + self.mlp_norm(self.mlp(x))
        x = x + self.attention(self.attention_norm(x), rotation, mix)
        return x + self.mlp(self.mlp_norm(x))


def make_layers(config: LLMConfig, count: int, key: jax.Array) -> DecoderLayer:
    """`count` layers stacked: every parameter has a leading layer dimension."""
    return stack(functools.partial(DecoderLayer, config), count, key)


def recompute(body: Callable[[jax.Array, Any], Any], policy: str) -> Callable[[jax.Array, Any], Any]:
    """`body(x, layer)` of a scan under the remat policy `config.model.remat`."""
    if policy == "none":
        return body
    policies = jax.checkpoint_policies
    saved = {
        "full": None,
        "dots": policies.dots_with_no_batch_dims_saveable,
        "attention": policies.save_from_both_policies(policies.save_only_these_names(SAVED), cudnn_is_saved),
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[LAYER_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }

    def named(x: jax.Array, layer: Any) -> Any:
        return body(checkpoint_name(x, LAYER_INPUT), layer)

    return jax.checkpoint(named if policy == "offload" else body, policy=saved[policy], prevent_cse=False)


def run_layers(
    layers: DecoderLayer, x: jax.Array, sight: Sight, config: ModelConfig, cache: KVCache | None = None
) -> tuple[jax.Array, KVCache | None]:
    """Run stacked layers over `x` [B, T, D] -> ([B, T, D], cache with these tokens appended or None)."""
    llm = config.llm
    rotation = rope(sight.positions, llm.head_dim, llm.rope_theta, llm.rope_scaling, sight.segment_ids)
    x = clean(x, sight)
    if cache is None:
        mix = functools.partial(attend, q_sight=sight, kv_sight=sight, causal=True, kernel=config.attention)
        body = recompute(lambda x, layer: (layer(x, rotation, mix), None), config.remat)
        return jax.lax.scan(body, x, layers)[0], None
    cache, slots = cache.admit(sight)

    def step(carry: tuple[jax.Array, ...], layer: DecoderLayer) -> tuple[tuple[jax.Array, ...], None]:
        x, all_k, all_v, index = carry
        stored = {}

        def remember(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            stored["k"], k = store(all_k, index, k, slots)
            stored["v"], v = store(all_v, index, v, slots)
            return attend(q, k, v, sight, cache.sight, causal=True, q_slots=slots)

        x = layer(x, rotation, remember)
        return (x, stored["k"], stored["v"], index + 1), None

    # The cache rides in the carry, not in the scanned inputs and outputs, so that XLA updates it in place.
    (x, k, v, _), _ = jax.lax.scan(step, (x, cache.k, cache.v, jnp.int32(0)), layers)
    return x, KVCache(k, v, cache.sight, cache.next)


def pick_rows(values: jax.Array, index: jax.Array) -> jax.Array:
    """Rows `index` [B, T] of `values` [B, M, D] -> [B, T, D]; zero where the index is -1."""
    values = whole(values)
    layout = out_sharding(PartitionSpec(*array_spec(index)[1:], None))
    picked = jax.vmap(lambda rows, at: rows.at[at].get(mode="clip", out_sharding=layout))(values, jnp.maximum(index, 0))
    return jnp.where(index[..., None] >= 0, picked, 0)


class Think(nnx.Module):
    """Token embedding and the LLM's layers 0..freeze_layer, shared by text and speech."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        table, layers = jax.random.split(key)
        self.config = config
        self.embed = normal(table, (config.llm.vocab_size, config.llm.width), ("vocab", "embed"), 0.02)
        self.layers = make_layers(config.llm, config.think_layers, layers)

    def __call__(
        self,
        tokens: jax.Array,
        sight: Sight,
        audio: jax.Array | None = None,
        audio_index: jax.Array | None = None,
        cache: KVCache | None = None,
    ) -> Any:
        """States that enter layer freeze_layer + 1, un-normalised.

        Args:
            tokens: [B, T] int32; ignored where audio_index is not -1.
            sight: of the tokens.
            audio: [B, C, A, D] from Listen; None = text only.
            audio_index: [B, T] int32: -1 = text, else c * A + a.
            cache: appended to; the tokens then also see what it holds.

        Returns:
            [B, T, D]; with a cache ([B, T, D], cache).
        """
        x = self.embed_tokens(tokens)
        if audio is not None and audio.size:
            rows, clips, positions, width = audio.shape
            heard = pick_rows(audio.reshape(rows, clips * positions, width).astype(x.dtype), audio_index)
            x = jnp.where(audio_index[..., None] >= 0, heard, x)
        x, new_cache = run_layers(self.layers, x, sight, self.config, cache)
        return x if cache is None else (x, new_cache)

    def embed_tokens(self, tokens: jax.Array) -> jax.Array:
        """[...] int32 -> [..., D] in the computation's type."""
        return embed(self.embed.get_value(), tokens, jnp.dtype(self.config.dtype))

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        return _cache(self.config, self.config.think_layers, batch, length)


class Write(nnx.Module):
    """The LLM's layers above Think, its final norm, and its head unless tied to the embedding."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        layers, head = jax.random.split(key)
        self.config = config
        self.layers = make_layers(config.llm, config.write_layers, layers)
        self.norm = RMSNorm(config.llm.width, config.llm.norm_eps)
        shape = (config.llm.width, config.llm.vocab_size)
        self.head = None if config.llm.tie_embeddings else normal(head, shape, ("embed", "vocab"), 0.02)

    def __call__(self, states: jax.Array, sight: Sight, cache: KVCache | None = None) -> Any:
        """Think's states [B, T, D] -> [B, T, D] after the final norm; with a cache ([B, T, D], cache)."""
        x, new_cache = run_layers(self.layers, states, sight, self.config, cache)
        x = self.norm(x)
        return x if cache is None else (x, new_cache)

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        return _cache(self.config, self.config.write_layers, batch, length)


def _cache(config: ModelConfig, layers: int, batch: int, length: int) -> KVCache:
    llm = config.llm
    return KVCache.empty(layers, batch, length, llm.num_kv_heads, llm.head_dim, jnp.dtype(config.dtype))
