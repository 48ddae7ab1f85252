"""Whisper's encoder: a clip's log-mel in, states of 20 ms out, of every layer or of the last."""

from __future__ import annotations

import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ieat_jax.model.attention import Attention, Mix
from ieat_jax.model.config import EncoderConfig
from ieat_jax.model.layers import MLP, LayerNorm, Linear, Names, normal, stack, standardise
from ieat_jax.model.llm import recompute
from ieat_jax.model.places import Places
from ieat_jax.model.sharding import array_spec, gather, out_sharding

Count = TypeVar("Count", int, np.ndarray, jax.Array)


def encoder_length(frames: Count) -> Count:
    """Encoder positions (20 ms) of `frames` log-mel frames (10 ms)."""
    return (frames + 1) // 2


def clear(x: jax.Array, clips: Places) -> jax.Array:
    """`x` [N, P, W] with zeros, and no gradient, at positions outside of `clips`."""
    return jnp.where(clips.inside(x.shape[1])[..., None], x, 0)


class Conv(Linear):
    """1-D convolution over [N, P, inputs], kernel [taps, inputs, outputs], zero padding of taps // 2 at both ends."""

    def __init__(
        self, taps: int, inputs: int, outputs: int, key: jax.Array, *, stride: int, names: tuple[Names, Names]
    ):
        super().__init__((taps, inputs), outputs, key, bias=True, names=names)
        self.stride = stride

    def __call__(self, x: jax.Array, slots: jax.Array | None = None) -> jax.Array:
        """[N, P, inputs] -> [N, ceil(P / stride), outputs].

        `slots` [N, P]: what stands in another slot than an output's own place is read as zero.
        """
        taps, stride = self.kernel.shape[0], self.stride
        count = -(-x.shape[1] // stride)
        last = (count - 1) * stride + 1
        around = (taps // 2, taps // 2)
        x = jnp.pad(x, ((0, 0), around, (0, 0)))
        read = jnp.stack([x[:, tap : tap + last : stride] for tap in range(taps)], axis=2)
        if slots is not None:
            beside = jnp.pad(slots, ((0, 0), around), constant_values=-1)
            beside = jnp.stack([beside[:, tap : tap + last : stride] for tap in range(taps)], axis=2)
            read = jnp.where((beside == slots[:, ::stride, None])[..., None], read, 0)
        return super().__call__(read)


class EncoderLayer(nnx.Module):
    """Whisper's pre-norm layer: bidirectional attention, then GELU MLP, each added to its input."""

    def __init__(self, config: EncoderConfig, key: jax.Array):
        attention, mlp = jax.random.split(key)
        heads = config.num_heads
        self.attention_norm = LayerNorm(config.width)
        self.attention = Attention(config.width, heads, heads, config.head_dim, attention, biases="qvo")
        self.mlp_norm = LayerNorm(config.width)
        self.mlp = MLP(config.width, config.mlp_width, mlp)

    def __call__(self, x: jax.Array, mix: Mix) -> jax.Array:
        """[N, P, W] -> [N, P, W]."""
        x = x + self.attention(self.attention_norm(x), None, mix)
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nnx.Module):
    """Whisper's encoder: two convolutions (100 Hz -> 50 Hz), learned positions, stacked layers, final norm."""

    def __init__(self, config: EncoderConfig, key: jax.Array):
        keys = jax.random.split(key, 4)
        width = config.width
        self.conv1 = Conv(3, config.num_mels, width, keys[0], stride=1, names=((None, None), ("embed",)))
        self.conv2 = Conv(3, width, width, keys[1], stride=2, names=((None, "embed"), (None,)))
        self.positions = normal(keys[2], (config.max_positions, width), (None, "embed"), 0.02)
        self.layers = stack(functools.partial(EncoderLayer, config), config.num_layers, keys[3])
        self.norm = LayerNorm(width)

    def stem(self, mel: jax.Array, clips: Places | None = None, *, alone: bool = False) -> jax.Array:
        """Log-mel [N, F, M] of `clips`, or of whole windows -> the states that enter the first layer [N, P, W].

        `alone`: the second convolution reads nothing behind a clip, either, as if its window ended there.
        """
        slots = None if clips is None else clips.slots(mel.shape[1])
        x = jax.nn.gelu(self.conv1(mel, slots), approximate=False)
        x = clear(x, clips) if alone and clips is not None else x
        x = jax.nn.gelu(self.conv2(x, slots), approximate=False)
        table = self.positions.get_value()
        if clips is None or slots is None:
            return x + gather(table[: x.shape[1]], (None, "embed"), x.dtype)
        offsets = jnp.minimum(clips.halved().offsets(x.shape[1]), len(table) - 1)  # silence may reach beyond
        table = jnp.asarray(gather(table, (None, "embed"), x.dtype))
        return x + table.at[offsets].get(out_sharding=out_sharding(array_spec(x)))

    def last_state(self, x: jax.Array, mix: Mix, remat: str) -> jax.Array:
        """States after the last layer, not yet normalised."""
        body = recompute(lambda x, layer: (layer(x, mix), None), remat)
        return jax.lax.scan(body, x, self.layers)[0]

    def mixed_states(self, x: jax.Array, mix: Mix, remat: str, weights: jax.Array) -> jax.Array:
        """Sum over the stem's and every layer's states, each standardised, by `weights` [num_layers + 1]; float32."""
        # Outside the layers' recompute: with a frozen encoder only this part is differentiated, by `weights`, and no
        # layer runs twice. Its own checkpoint saves the plain states and not what is inside `standardise`.
        share = jax.checkpoint(lambda x, weight: weight * standardise(x.astype(jnp.float32), 1e-5))
        run_layer = recompute(lambda x, layer: layer(x, mix), remat)

        def body(carry: tuple[jax.Array, jax.Array], step: tuple[EncoderLayer, jax.Array]):
            x, total = carry
            layer, weight = step
            x = run_layer(x, layer)
            return (x, total + share(x, weight)), None

        return jax.lax.scan(body, (x, share(x, weights[0])), (self.layers, weights[1:]))[0][1]
