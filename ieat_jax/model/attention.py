"""Attention with grouped heads: RoPE, the attention itself over visible tokens, and its layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from ieat_jax.model.cudnn import cudnn_attend, cudnn_fits
from ieat_jax.model.layers import Linear, RMSNorm
from ieat_jax.model.sharding import array_spec, out_sharding, platform, whole
from ieat_jax.model.sight import Sight, visible
from ieat_jax.model.splash import SAVED, splash_attend, splash_fits

KERNELS = {"tpu": "splash", "gpu": "cudnn"}  # platform -> what 'auto' is; elsewhere 'xla'
CAUSAL_SCOPE, FULL_SCOPE = "causal_attention", "full_attention"  # names that the cost of a step is found by
MASKED = -1e30  # finite: a padding query sees no key, and its softmax must not be NaN


class Rotation(NamedTuple):
    """Cosine and sine [B, T, 1, head_dim / 2] of RoPE, float32."""

    cos: jax.Array
    sin: jax.Array


def rope(
    positions: jax.Array,
    head_dim: int,
    theta: float,
    scaling: tuple[float | str, ...] | None = None,
    segment_ids: jax.Array | None = None,
) -> Rotation:
    """RoPE (Su et al. 2021) at `positions` [B, T], scaled as `config.model.llm.rope_scaling` says.

    `segment_ids` [B, T]: the sequences in a row, which 'dynamic' scales by their lengths; None = one. Formulas of
    transformers, `modeling_rope_utils.py`. A decoding step knows of a sequence what is there by then, as in
    transformers: keys that are in the cache keep the 'dynamic' scale that they came with.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    kind, *numbers = (None,) if scaling is None else scaling if isinstance(scaling[0], str) else ("llama3", *scaling)
    attention = 1.0
    if kind == "llama3":
        factor, low, high, original = numbers
        turns = original * frequencies / (2 * math.pi)  # full turns within the original length
        smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
        frequencies = frequencies * (smooth + (1 - smooth) / factor)
    elif kind == "linear":
        frequencies = frequencies / numbers[0]
    elif kind == "yarn":
        factor, original, fast, slow, attention = numbers
        at = [head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta)) for turns in (fast, slow)]
        low, high = max(math.floor(at[0]), 0), min(math.ceil(at[1]), head_dim - 1)
        ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low if high != low else 0.001), 0.0, 1.0)
        frequencies = frequencies * (1 - ramp + ramp / factor)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies.astype(np.float32)
    if kind == "dynamic":
        factor, original = numbers
        lengths = _lengths(positions, segment_ids).astype(jnp.float32)[..., None, None]
        growth = factor * jnp.maximum(lengths, original) / original - (factor - 1)
        angles = angles * growth ** (-np.arange(0, head_dim, 2, dtype=np.float32) / max(head_dim - 2, 1))
    return Rotation(attention * jnp.cos(angles), attention * jnp.sin(angles))


def _lengths(positions: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """The length of the sequence that each token is of: one more than its highest position, [B, T]."""
    if segment_ids is None:
        segment_ids = jnp.zeros_like(positions)
    same = segment_ids[:, :, None] == whole(segment_ids)[:, None]
    return jnp.max(jnp.where(same, whole(positions)[:, None], 0), axis=-1) + 1


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotate `x` [B, T, heads, head_dim], halves paired as in Hugging Face's Llama."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = rotation
    return jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1).astype(x.dtype)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_sight: Sight | None,
    kv_sight: Sight | None,
    *,
    causal: bool,
    q_slots: jax.Array | None = None,
    kernel: str = "auto",
) -> jax.Array:
    """Softmax attention, q [B, Tq, H, hd], k and v [B, Tk, K, hd] -> [B, Tq, H, hd].

    Query head h reads KV head h // (H / K). Streams None: every query sees every key. A query that sees nothing returns
    a finite value. Inputs must be finite (`clean`). Scores and softmax are float32. `q_slots` [B, Tq]: places of the
    queries among the keys, None = they are the same tokens. `kernel`: as `config.model.attention`; keys in slots, and
    sequences that do not fit a kernel's tiles, take 'xla'.
    """
    with jax.named_scope(CAUSAL_SCOPE if causal else FULL_SCOPE):
        if kernel == "auto":
            kernel = KERNELS.get(platform(), "xla")
        if q_slots is None and kernel == "splash" and splash_fits(q):
            sights = (q_sight, None if kv_sight is None else jax.tree.map(whole, kv_sight))
            return splash_attend(q, whole(k), whole(v), *sights, causal=causal)
        if q_slots is None and kernel == "cudnn" and cudnn_fits(q):
            mask = None if q_sight is None else visible(q_sight, kv_sight, causal=causal)
            return cudnn_attend(q, whole(k), whole(v), mask, causal=causal)
        return checkpoint_name(_xla_attend(q, k, v, q_sight, kv_sight, causal=causal, q_slots=q_slots), SAVED)


def _xla_attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_sight: Sight | None,
    kv_sight: Sight | None,
    *,
    causal: bool,
    q_slots: jax.Array | None,
) -> jax.Array:
    """The reference: plain XLA."""
    batch, length, heads, head_dim = q.shape
    kv_heads, group = k.shape[2], heads // k.shape[2]
    rows, tokens, over_heads = array_spec(q)[:3]

    def shaped(x: jax.Array, *dims: int) -> jax.Array:
        layout = PartitionSpec(rows, over_heads, tokens, *(None,) * (len(dims) - 3))
        return jnp.reshape(x, dims, out_sharding=out_sharding(layout))

    # Heads that share keys become rows of one matrix: a CPU multiplies those twice as fast as a batch of small ones.
    q = jnp.swapaxes(jnp.reshape(q, (batch, length, kv_heads, -1), out_sharding=out_sharding(array_spec(q))), 1, 2)
    q = shaped(q * (1 / math.sqrt(head_dim)), batch, kv_heads, length * group, head_dim)
    k, v = jnp.swapaxes(whole(k), 1, 2), jnp.swapaxes(whole(v), 1, 2)
    scores = jnp.einsum("bkth,bksh->bkts", q, k, preferred_element_type=jnp.float32)
    if q_sight is not None:
        seen = visible(q_sight, kv_sight, causal=causal, q_slots=q_slots)[:, None, :, None]
        scores = jnp.where(seen, shaped(scores, batch, kv_heads, length, group, -1), MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bkth,bkhs->bkts", shaped(weights, batch, kv_heads, length * group, k.shape[2]), v)
    mixed = jnp.swapaxes(shaped(mixed, batch, kv_heads, length, group * head_dim), 1, 2)
    layout = PartitionSpec(rows, tokens, over_heads, None)
    return jnp.reshape(mixed, (batch, length, heads, head_dim), out_sharding=out_sharding(layout))


Mix = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Attention(nnx.Module):
    """Multi-head attention layer: q, k, v projections, optional q/k norm and RoPE, attention, output projection."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        key: jax.Array,
        *,
        biases: str = "",
        qk_norm_eps: float | None = None,
        norm_heads: bool = False,
        gain: float = 1.0,
    ):
        """`biases`: which projections have one, letters of 'qkvo'.

        `qk_norm_eps`: RMSNorm on each head of q and k (Qwen3), or, with `norm_heads`, on all heads as one (OLMo 2).
        """
        keys = jax.random.split(key, 4)

        def project(letter: str, heads: int, name: str, key: jax.Array) -> Linear:
            return Linear(width, (heads, head_dim), key, bias=letter in biases, names=(("embed",), (name, None)))

        self.q = project("q", num_heads, "heads", keys[0])
        self.k = project("k", num_kv_heads, "kv_heads", keys[1])
        self.v = project("v", num_kv_heads, "kv_heads", keys[2])
        out = (("heads", None), ("embed",))
        self.o = Linear((num_heads, head_dim), width, keys[3], bias="o" in biases, names=out, gain=gain)

        def normalise(heads: int, name: str) -> RMSNorm | None:
            shape = (heads, head_dim) if norm_heads else head_dim
            return None if qk_norm_eps is None else RMSNorm(shape, qk_norm_eps, name)

        self.q_norm, self.k_norm = normalise(num_heads, "heads"), normalise(num_kv_heads, "kv_heads")

    def project(self, x: jax.Array, rotation: Rotation | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, T, D] -> q [B, T, H, hd], k and v [B, T, K, hd]; `rotation` None = no RoPE."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return checkpoint_name(q, SAVED), checkpoint_name(k, SAVED), checkpoint_name(v, SAVED)

    def __call__(self, x: jax.Array, rotation: Rotation | None, mix: Mix) -> jax.Array:
        """[B, T, D] -> [B, T, D]; `mix(q, k, v)` is the attention, usually `attend` with its sights bound."""
        return checkpoint_name(self.o(mix(*self.project(x, rotation))), SAVED)
