"""Listen: Whisper's encoder, the mix of its layers, and the adapter to positions of the LLM."""

from __future__ import annotations

import functools
import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.model.attention import Attention, Mix, attend, rope
from ieat_jax.model.config import AdapterConfig, EncoderConfig, LLMConfig, ModelConfig, ModelConfigError
from ieat_jax.model.layers import MLP, LayerNorm, Linear, Names, RMSNorm, constant, normal, stack, standardise
from ieat_jax.model.llm import make_layers, recompute
from ieat_jax.model.places import Places
from ieat_jax.model.sharding import also, array_spec, check_divides, current_mesh, gather, lay, out_sharding

SILENCE = -1.5  # Whisper's log-mel of digital silence: (log10(1e-10) + 4) / 4
DYNAMIC_RANGE = 2.0  # 8 decades below the clip's maximum, in Whisper's scaling

Count = TypeVar("Count", int, np.ndarray, jax.Array)


def encoder_length(frames: Count) -> Count:
    """Encoder positions (20 ms) of `frames` log-mel frames (10 ms)."""
    return (frames + 1) // 2


def adapter_length(adapter: AdapterConfig, frames: Count) -> Count:
    """Positions of the LLM that a clip of `frames` log-mel frames takes; 0 for 0 frames, at least 1 for others."""
    positions = encoder_length(frames)
    if adapter.kind == "goat":
        for _ in range(3):
            positions = (positions + 1) // 2
        return positions
    return positions // 2 + (positions == 1)


def adapter_stride(adapter: AdapterConfig) -> int:
    """Log-mel frames of one position of the LLM: 16 or 4."""
    return 16 if adapter.kind == "goat" else 4


def slot_length(adapter: AdapterConfig, frames: Count) -> Count:
    """Frames that a clip of `frames` takes in a window that clips share: with the silence that its last state reads.

    The two convolutions of the encoder's last position read one frame behind the clip, or two where the clip has an odd
    number of frames; the next clip begins where a position of the LLM does.
    """
    stride = adapter_stride(adapter)
    return (2 * encoder_length(frames) + stride) // stride * stride


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

    def stem(self, mel: jax.Array, clips: Places | None = None) -> jax.Array:
        """Log-mel [N, F, M] of `clips`, or of whole windows -> the states that enter the first layer [N, P, W]."""
        slots = None if clips is None else clips.slots(mel.shape[1])
        x = jax.nn.gelu(self.conv1(mel, slots), approximate=False)
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


def average_pairs(x: jax.Array) -> jax.Array:
    """Average pooling of 2 over [N, P, W]; a last odd position is left out, unless it is the only one."""
    pairs = x.shape[1] // 2
    return (x[:, 0 : 2 * pairs : 2] + x[:, 1 : 2 * pairs : 2]) / 2 if pairs else x


def clear(x: jax.Array, clips: Places) -> jax.Array:
    """`x` [N, P, W] with zeros, and no gradient, at positions outside of `clips`."""
    return jnp.where(clips.inside(x.shape[1])[..., None], x, 0)


def fill_silence(mel: jax.Array, clips: Places) -> jax.Array:
    """`mel` [N, F, M] with the frames behind each clip set to what Whisper's log-mel has for appended silence."""
    inside = clips.inside(mel.shape[1])
    peak = clips.highest(jnp.max(jnp.where(inside[..., None], mel, -jnp.inf), axis=2))
    return jnp.where(inside[..., None], mel, jnp.maximum(peak - DYNAMIC_RANGE, SILENCE)[..., None])


class Listen(nnx.Module):
    """Clips in, positions of the LLM out. Frames behind a clip are never read.

    With `heard` padding the encoder sees a clip's whole window with silence behind the clip, as Whisper does; with
    `masked` padding it sees the clip alone, as AudioFlamingo3, Qwen2-Audio and Ultravox do.
    """

    def __init__(self, config: ModelConfig, key: jax.Array):
        encoder, adapter = jax.random.split(key)
        self.config = config
        goat, layers = config.listen.adapter.kind == "goat", config.listen.encoder.num_layers
        self.encoder = Encoder(config.listen.encoder, encoder)
        self.mix = constant(0.0, (layers + 1,), (None,)) if config.listen.layer_mix == "learned" else None
        self.adapter = (GoatAdapter if goat else PooledAdapter)(config, adapter)
        self.norm = LayerNorm(config.llm.width) if goat else None

    def __call__(
        self, mel: jax.Array, clip_frames: jax.Array, clip_start: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Log-mel [B, C, F, M] and frames per clip [B, C] -> (audio [B, C, A, D], positions per clip [B, C] int32).

        A clip of 0 frames is filler. Positions from the clip's own on are zero. With `clip_start` [B, C] all clips of
        a row share one window, [B, 1, F, M] -> [B, 1, A, D]: where each begins, in ascending order and `slot_length`
        apart, for which padding has to be masked.
        """
        if 0 in clip_frames.shape:
            return self._nothing(mel, clip_frames)
        if clip_start is not None:
            return self._shared(mel[:, 0], clip_frames, clip_start)
        clips = Places(fold(clip_frames))
        audio, clips = self._adapt(self._encode(fold(mel), clips), clips)
        return unfold(audio, clip_frames), unfold(clips.lengths, clip_frames)

    def encode(self, mel: jax.Array, clip_frames: jax.Array) -> jax.Array:
        """What the adapter reads: encoder states, mixed or of the last layer, [B, C, P, W]; P is halved if it pools."""
        return unfold(self._encode(fold(mel), Places(fold(clip_frames))), clip_frames)

    def adapt(self, states: jax.Array, clip_frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`encode`'s states -> (audio, positions per clip), as `__call__`."""
        audio, clips = self._adapt(fold(states), Places(fold(clip_frames)))
        return unfold(audio, clip_frames), unfold(clips.lengths, clip_frames)

    def _shared(self, mel: jax.Array, clip_frames: jax.Array, clip_start: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Clips that share the windows [B, F, M] of their rows."""
        if not self.config.listen.masked:
            raise ModelConfigError(
                "clips share a window (config.data.shapes.frames), which needs config.model.listen.padding='masked'"
            )
        most = round(self.config.listen.clip_seconds * FRAMES_PER_SECOND)
        clips = Places(spread(clip_frames), spread(clip_start), most)
        audio, clips = self._adapt(self._encode(spread(mel), clips), clips)
        rows = array_spec(clip_frames)[0]
        return (
            lay(audio, PartitionSpec(rows, None, None))[:, None],
            lay(clips.lengths, PartitionSpec(rows, None)),
        )

    def _nothing(self, mel: jax.Array, clip_frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        positions = adapter_length(self.config.listen.adapter, mel.shape[2])
        shape = (*clip_frames.shape, positions, self.config.llm.width)
        return jnp.zeros(shape, self.config.dtype), jnp.zeros(clip_frames.shape, jnp.int32)

    def _encode(self, mel: jax.Array, clips: Places) -> jax.Array:
        config, remat = self.config.listen, self.config.remat
        self._check(mel, shared=clips.starts is not None)
        mel = fill_silence(mel, clips).astype(self.config.dtype)
        x, pooled = self.encoder.stem(mel, clips), config.adapter.kind != "goat"
        sight = clips.halved().sight(x.shape[1]) if config.masked else None
        mix = functools.partial(attend, q_sight=sight, kv_sight=sight, causal=False, kernel=self.config.attention)
        if self.mix is not None:
            weights = jax.nn.softmax(self.mix.get_value())
            x = self.encoder.mixed_states(x, mix, remat, weights).astype(x.dtype)
            return average_pairs(x) if pooled else x
        x = self.encoder.last_state(x, mix, remat)
        return self.encoder.norm(average_pairs(x) if pooled else x)

    def _adapt(self, states: jax.Array, clips: Places) -> tuple[jax.Array, Places]:
        audio = self.adapter(states, clips.halved())
        if self.norm is not None:
            audio = self.norm(audio)
        adapter = self.config.listen.adapter
        clips = clips.scaled(adapter_length(adapter, clips.lengths), adapter_stride(adapter))
        return clear(audio, clips), clips

    def _check(self, mel: jax.Array, *, shared: bool) -> None:
        encoder = self.config.listen.encoder
        if mel.shape[-1] != encoder.num_mels:
            raise ModelConfigError(
                f"config.model.listen.encoder.num_mels is {encoder.num_mels}, but the log-mel has {mel.shape[-1]} bins"
            )
        if not shared and encoder_length(mel.shape[1]) > encoder.max_positions:
            raise ModelConfigError(
                f"config.model.listen.encoder.max_positions is {encoder.max_positions}: the encoder reads at most "
                f"{2 * encoder.max_positions} log-mel frames per clip, not {mel.shape[1]}"
            )


def fold(x: jax.Array) -> jax.Array:
    """[B, C, ...] -> clips [B * C, ...], divided over the mesh's context axis as well where that is even."""
    rows, dims = array_spec(x)[0], x.shape[2:]
    rest = (None,) * len(dims)
    x = lay(x, PartitionSpec(rows, None, *rest))
    return spread(jnp.reshape(x, (-1, *dims), out_sharding=out_sharding(PartitionSpec(rows, *rest))))


def spread(x: jax.Array) -> jax.Array:
    """`x` [N, ...] divided over the mesh's context axis as well where that is even."""
    mesh = current_mesh()
    if mesh is None:
        return x
    axes = also(array_spec(x)[0], "context")
    even = x.shape[0] % math.prod(mesh.shape[axis] for axis in axes) == 0
    return lay(x, PartitionSpec(axes, *(None,) * (x.ndim - 1))) if even else x


def unfold(x: jax.Array, like: jax.Array) -> jax.Array:
    """Clips [B * C, ...] -> [B, C, ...] with the rows of `like` [B, C], whole over the context axis."""
    rows, dims = array_spec(like)[0], x.shape[1:]
    rest = (None,) * len(dims)
    x = lay(x, PartitionSpec(rows, *rest))
    return jnp.reshape(x, (*like.shape, *dims), out_sharding=out_sharding(PartitionSpec(rows, None, *rest)))
