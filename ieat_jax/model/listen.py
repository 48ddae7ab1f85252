"""Listen: Whisper's encoder, the mix of its layers, and the adapter to positions of the LLM."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.model.adapters import adapter_length, adapter_stride, average_pairs, make_adapter
from ieat_jax.model.attention import attend
from ieat_jax.model.config import POOLED, ModelConfig, ModelConfigError
from ieat_jax.model.encoder import Encoder, clear, encoder_length
from ieat_jax.model.layers import LayerNorm, constant
from ieat_jax.model.places import Places
from ieat_jax.model.sharding import also, array_spec, current_mesh, lay, out_sharding

SILENCE = -1.5  # Whisper's log-mel of digital silence: (log10(1e-10) + 4) / 4
DYNAMIC_RANGE = 2.0  # 8 decades below the clip's maximum, in Whisper's scaling


def fill_silence(mel: jax.Array, clips: Places, behind: int = 0) -> jax.Array:
    """`mel` [N, F, M] with the frames behind each clip set to what Whisper's log-mel has for appended silence.

    `behind`: so many frames behind a clip are left as they are.
    """
    if behind:
        clips = dataclasses.replace(clips, lengths=jnp.where(clips.lengths > 0, clips.lengths + behind, 0))
    inside = clips.inside(mel.shape[1])
    peak = clips.highest(jnp.max(jnp.where(inside[..., None], mel, -jnp.inf), axis=2))
    return jnp.where(inside[..., None], mel, jnp.maximum(peak - DYNAMIC_RANGE, SILENCE)[..., None])


class Listen(nnx.Module):
    """Clips in, positions of the LLM out. Frames behind a clip are read where `ListenConfig.behind` says so alone.

    With `heard` padding the encoder sees a clip's whole window with silence behind the clip, as Whisper does; with
    `masked` padding its attention sees the clip alone, as AudioFlamingo3, Qwen2-Audio and Ultravox do.
    """

    def __init__(self, config: ModelConfig, key: jax.Array):
        encoder, adapter = jax.random.split(key)
        self.config = config
        layers = config.listen.encoder.num_layers
        self.encoder = Encoder(config.listen.encoder, encoder)
        self.mix = constant(0.0, (layers + 1,), (None,)) if config.listen.layer_mix == "learned" else None
        self.adapter = make_adapter(config, adapter)
        self.norm = LayerNorm(config.llm.width) if config.listen.adapter.kind == "goat" else None

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
        alone = config.behind == 0
        mel = clear(mel, clips) if alone else fill_silence(mel, clips, config.behind or 0)
        x = self.encoder.stem(mel.astype(self.config.dtype), clips, alone=alone)
        pooled = config.adapter.kind in POOLED
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
