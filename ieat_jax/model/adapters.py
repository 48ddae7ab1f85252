"""Adapters: from the encoder's states to positions of the LLM."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from ieat_jax.model.attention import attend, rope
from ieat_jax.model.config import AdapterConfig, LLMConfig, ModelConfig
from ieat_jax.model.encoder import Conv, Count, EncoderLayer, clear, encoder_length
from ieat_jax.model.layers import LayerNorm, Linear, RMSNorm, normal, stack
from ieat_jax.model.llm import make_layers, recompute
from ieat_jax.model.places import Places
from ieat_jax.model.sharding import array_spec, check_divides, gather, out_sharding


def adapter_length(adapter: AdapterConfig, frames: Count) -> Count:
    """Positions of the LLM that a clip of `frames` log-mel frames takes; 0 for 0 frames.

    `mlp` and `linear` drop a last odd state, as their public processors do, so that one or two frames take no position.
    """
    positions = encoder_length(frames)
    if adapter.kind == "goat":
        for _ in range(3):
            positions = (positions + 1) // 2
        return positions
    if adapter.kind == "stack":
        return -(-positions // adapter.stack_factor)
    return positions // 2


def adapter_stride(adapter: AdapterConfig) -> int:
    """Log-mel frames of one position of the LLM: 16, 4, or 2 x `stack_factor`."""
    return {"goat": 16, "stack": 2 * adapter.stack_factor}.get(adapter.kind, 4)


def slot_length(adapter: AdapterConfig, frames: Count) -> Count:
    """Frames that a clip of `frames` takes in a window that clips share: with the silence that its last state reads.

    The two convolutions of the encoder's last position read one frame behind the clip, or two where the clip has an odd
    number of frames; the next clip begins where a position of the LLM does.
    """
    stride = adapter_stride(adapter)
    return (2 * encoder_length(frames) + stride) // stride * stride


class GoatAdapter(nnx.Module):
    """GOAT-SLM's: three gated convolutions of stride 2, then a bidirectional transformer over the clip."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        adapter, encoder_width, width = config.listen.adapter, config.listen.encoder.width, config.llm.width
        inner = adapter.conv_width
        check_divides(inner, "embed", "listen.adapter.conv2.kernel", "config.model.listen.adapter.conv_width")
        keys = jax.random.split(key, 4)
        conv = functools.partial(Conv, stride=2, names=((None, "embed"), (None,)))
        self.remat, self.attention = config.remat, config.attention
        self.rope_theta, self.head_dim = adapter.rope_theta, adapter.head_dim
        self.conv1 = conv(5, encoder_width, 2 * inner, keys[0])
        self.conv2 = conv(5, inner, 2 * inner, keys[1])
        self.conv3 = conv(5, inner, 2 * width, keys[2])
        layer = LLMConfig(
            width=width,
            mlp_width=adapter.mlp_width,
            num_layers=max(adapter.num_layers, 1),
            num_heads=adapter.num_heads,
            num_kv_heads=adapter.num_kv_heads,
            head_dim=adapter.head_dim,
            norm_eps=1e-6,
            qkv_bias=True,
        )
        self.layers = make_layers(layer, adapter.num_layers, keys[3]) if adapter.num_layers else None
        self.norm = RMSNorm(width, 1e-6)

    def __call__(self, x: jax.Array, clips: Places) -> jax.Array:
        """Encoder states [N, P, W] of `clips` -> [N, A, D]."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = conv(clear(x, clips), clips.slots(x.shape[1]))
            value, gate = jnp.split(x, 2, axis=-1)
            x = value * jax.nn.sigmoid(gate)
            clips = clips.halved()
        x = clear(x, clips)
        if self.layers is not None:
            sight = clips.sight(x.shape[1])
            rotation = rope(sight.positions, self.head_dim, self.rope_theta)
            mix = functools.partial(attend, q_sight=sight, kv_sight=sight, causal=False, kernel=self.attention)
            body = recompute(lambda x, layer: (layer(x, rotation, mix), None), self.remat)
            x = jax.lax.scan(body, x, self.layers)[0]
        return self.norm(x)


class PooledAdapter(nnx.Module):
    """AudioFlamingo3's `mlp` (linear, GELU, linear) or Qwen2-Audio's `linear`, over pooled encoder states.

    In both, the norm between pooling and projection is Whisper's own final norm. A mix of layers has none that was
    trained for it, so that it gets one here.
    """

    def __init__(self, config: ModelConfig, key: jax.Array):
        first, second = jax.random.split(key)
        encoder_width, width = config.listen.encoder.width, config.llm.width
        self.norm = LayerNorm(encoder_width) if config.listen.layer_mix == "learned" else None
        self.linear1 = Linear(encoder_width, width, first, bias=True)
        self.linear2 = Linear(width, width, second, bias=True) if config.listen.adapter.kind == "mlp" else None

    def __call__(self, x: jax.Array, clips: Places) -> jax.Array:
        """Pooled states [N, A, W] -> [N, A, D]."""
        x = self.linear1(x if self.norm is None else self.norm(x))
        return x if self.linear2 is None else self.linear2(jax.nn.gelu(x, approximate=False))


class StackAdapter(nnx.Module):
    """Ultravox's: the states of `stack_factor` places as one, normalised, then a gated MLP or a small transformer.

    In the MLP the second half of the first layer's outputs gates the first half. Its second norm stands before its
    second layer (Ultravox from 0.5 on) or behind it.
    """

    def __init__(self, config: ModelConfig, key: jax.Array):
        adapter, encoder, width = config.listen.adapter, config.listen.encoder, config.llm.width
        first, table, layers, second = jax.random.split(key, 4)
        self.factor, self.activation = adapter.stack_factor, adapter.activation
        self.remat, self.attention = config.remat, config.attention
        transformer, stacked = adapter.stack_layers > 0, adapter.stack_factor * encoder.width
        hidden = encoder.width if transformer else adapter.hidden_width
        inner = hidden // 2 if adapter.activation == "swiglu" and not transformer else hidden
        check_divides(inner, "embed", "listen.adapter.linear2.kernel", "config.model.listen.adapter.hidden_width")
        self.norm1 = RMSNorm(stacked)
        self.linear1 = Linear(stacked, hidden, first, bias=transformer)
        shape = (encoder.max_positions, hidden)
        self.positions = normal(table, shape, (None, "embed"), 0.02) if transformer else None
        self.layers = (
            stack(functools.partial(EncoderLayer, encoder), adapter.stack_layers, layers) if transformer else None
        )
        self.norm_mid = transformer or adapter.norm_mid
        self.norm2 = RMSNorm(inner if self.norm_mid else width)
        self.linear2 = Linear(inner, width, second, bias=transformer)

    def __call__(self, x: jax.Array, clips: Places) -> jax.Array:
        """Encoder states [N, P, W] of `clips` -> [N, A, D]."""
        x = stack_states(clear(x, clips), self.factor)
        clips = clips.scaled(-(-clips.lengths // self.factor), self.factor)
        x = self.linear1(self.norm1(x))
        if self.layers is None:
            x = activate(x, self.activation)
        else:
            x = self._transform(x, clips)
        return self.linear2(self.norm2(x)) if self.norm_mid else self.norm2(self.linear2(x))

    def _transform(self, x: jax.Array, clips: Places) -> jax.Array:
        table = jnp.asarray(gather(self.positions.get_value(), (None, "embed"), x.dtype))
        offsets = jnp.minimum(clips.offsets(x.shape[1]), len(table) - 1)  # silence may reach beyond
        if clips.starts is None:
            x = x + table[offsets]
        else:
            x = x + table.at[offsets].get(out_sharding=out_sharding(array_spec(x)))
        sight = clips.sight(x.shape[1])
        mix = functools.partial(attend, q_sight=sight, kv_sight=sight, causal=False, kernel=self.attention)
        body = recompute(lambda x, layer: (layer(x, mix), None), self.remat)
        return jax.lax.scan(body, clear(x, clips), self.layers)[0]


def activate(x: jax.Array, activation: str) -> jax.Array:
    """`x` through an activation of the `stack` adapter; 'swiglu' halves its last dimension."""
    if activation == "swiglu":
        value, gate = jnp.split(x, 2, axis=-1)
        return value * jax.nn.silu(gate)
    if activation == "gelu":
        return jax.nn.gelu(x, approximate=False)
    return {"silu": jax.nn.silu, "relu": jax.nn.relu}[activation](x)


def stack_states(x: jax.Array, factor: int) -> jax.Array:
    """[N, P, W] -> [N, ceil(P / factor), factor * W], zeros behind the last state."""
    count = -(-x.shape[1] // factor)
    x = jnp.pad(x, ((0, 0), (0, count * factor - x.shape[1]), (0, 0)))
    return jnp.reshape(x, (x.shape[0], count, -1), out_sharding=out_sharding(array_spec(x)))


def average_pairs(x: jax.Array) -> jax.Array:
    """Average pooling of 2 over [N, P, W]; a last odd position is left out."""
    pairs = x.shape[1] // 2
    return (x[:, 0 : 2 * pairs : 2] + x[:, 1 : 2 * pairs : 2]) / 2


def make_adapter(config: ModelConfig, key: jax.Array) -> GoatAdapter | PooledAdapter | StackAdapter:
    """The adapter that `config.listen.adapter.kind` asks for, with random parameters."""
    kinds = {"goat": GoatAdapter, "stack": StackAdapter}
    return kinds.get(config.listen.adapter.kind, PooledAdapter)(config, key)
