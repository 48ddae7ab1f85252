"""The model's part of the configuration: every size and choice of Listen, Think, Write and Speak."""

from __future__ import annotations

import dataclasses
from typing import Any

from ieat_jax.errors import UserError

DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "attention", "full", "offload")
ATTENTIONS = ("auto", "xla", "splash", "cudnn")
LAYER_MIXES = ("learned", "last")
ADAPTERS = ("goat", "mlp", "linear")


class ModelConfigError(UserError):
    """A model size or choice that cannot be built; names the config field."""


def _require(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise ModelConfigError(f"config.model.{field}: {problem}")


def _one_of(value: str, choices: tuple[str, ...], field: str) -> None:
    _require(value in choices, field, f"{value!r} is not one of {', '.join(choices)}")


def _positive(config: Any, prefix: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{prefix}.{name}", f"must be at least 1, not {value}")


def _grouped_heads(config: Any, prefix: str) -> None:
    _require(
        config.num_heads % config.num_kv_heads == 0,
        f"{prefix}.num_kv_heads",
        f"{config.num_kv_heads} does not divide num_heads = {config.num_heads}",
    )


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Whisper's encoder. Defaults: whisper-tiny."""

    num_layers: int = 4  # transformer layers
    width: int = 384  # d_model
    num_heads: int = 6  # attention heads
    mlp_width: int = 1536  # hidden width of the MLP
    num_mels: int = 80  # log-mel bins (128 for large-v3)
    max_positions: int = 1500  # positions of 20 ms: 1500 = 30 s

    def __post_init__(self) -> None:
        names = [field.name for field in dataclasses.fields(self)]
        _positive(self, "listen.encoder", *names)
        _require(
            self.width % self.num_heads == 0,
            "listen.encoder.num_heads",
            f"{self.num_heads} does not divide width = {self.width}",
        )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.width // self.num_heads


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """From encoder frames (50 Hz) to positions of the LLM."""

    kind: str = (
        "goat"  # 'goat' (conv + transformer, 6.25 Hz) | 'mlp' (AudioFlamingo3, 25 Hz) | 'linear' (Qwen2-Audio, 25 Hz)
    )
    num_layers: int = 2  # goat: transformer layers
    num_heads: int = 8  # goat: attention heads
    num_kv_heads: int = 4  # goat: key/value heads
    head_dim: int = 32  # goat: width of one head
    mlp_width: int = 768  # goat: hidden width of the SwiGLU MLP
    conv_width: int = 384  # goat: channels between the convolutions, after the gate
    rope_theta: float = 1e4  # goat: RoPE base

    def __post_init__(self) -> None:
        _one_of(self.kind, ADAPTERS, "listen.adapter.kind")
        _positive(self, "listen.adapter", "num_heads", "num_kv_heads", "head_dim", "mlp_width", "conv_width")
        _require(self.num_layers >= 0, "listen.adapter.num_layers", f"must not be negative, not {self.num_layers}")
        _require(self.head_dim % 2 == 0, "listen.adapter.head_dim", f"must be even for RoPE, not {self.head_dim}")
        _grouped_heads(self, "listen.adapter")


@dataclasses.dataclass(frozen=True)
class ListenConfig:
    """Speech in: encoder, layer mix, adapter."""

    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)  # Whisper
    adapter: AdapterConfig = dataclasses.field(default_factory=AdapterConfig)  # encoder -> LLM
    layer_mix: str = "learned"  # 'learned': softmax mix of all encoder layers | 'last': published behaviour
    clip_seconds: float = 30.0  # window per clip; 30 is exact Whisper, less saves work

    def __post_init__(self) -> None:
        _one_of(self.layer_mix, LAYER_MIXES, "listen.layer_mix")
        limit = self.encoder.max_positions / 50
        _require(
            0 < self.clip_seconds <= limit,
            "listen.clip_seconds",
            f"must be above 0 and at most {limit:g} (listen.encoder.max_positions / 50), not {self.clip_seconds:g}",
        )


@dataclasses.dataclass(frozen=True)
class LLMConfig:
    """One decoder that is Llama, Qwen2 or Qwen3 by its fields. Defaults: a small model to train from scratch."""

    vocab_size: int = 2048  # V
    width: int = 256  # D
    mlp_width: int = 768  # hidden width of the SwiGLU MLP
    num_layers: int = 6  # N, Think and Write together
    num_heads: int = 4  # H
    num_kv_heads: int = 2  # K
    head_dim: int = 64  # width of one head
    rope_theta: float = 1e4  # RoPE base
    rope_scaling: tuple[float, ...] | None = (
        None  # 'llama3': (factor, low_freq_factor, high_freq_factor, original length)
    )
    norm_eps: float = 1e-6  # RMSNorm epsilon
    qkv_bias: bool = False  # Qwen2
    qk_norm: bool = False  # Qwen3
    tie_embeddings: bool = True  # LM head = embedding table

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "width", "mlp_width", "num_layers", "num_heads", "num_kv_heads", "head_dim")
        _positive(self, "llm", *sizes)
        _grouped_heads(self, "llm")
        _require(self.head_dim % 2 == 0, "llm.head_dim", f"must be even for RoPE, not {self.head_dim}")
        _require(
            self.rope_scaling is None or len(self.rope_scaling) == 4,
            "llm.rope_scaling",
            "must be None or (factor, low_freq_factor, high_freq_factor, original length)",
        )


@dataclasses.dataclass(frozen=True)
class SpeakConfig:
    """Speech out, and where Think ends."""

    enabled: bool = True  # False: no speech output; the model has no Speak
    freeze_layer: int = 3  # Think = LLM layers 0..freeze_layer; Write and Speak = the layers above
    unit_vocab_size: int = 4098  # U: unit ids and the end ids
    group_size: int = 4  # units per group = unit heads

    def __post_init__(self) -> None:
        _positive(self, "speak", "unit_vocab_size", "group_size")
        _require(self.freeze_layer >= 0, "speak.freeze_layer", f"must not be negative, not {self.freeze_layer}")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on linear layers (Hu et al. 2021): kernel + alpha / rank * a b."""

    rank: int = 0  # 0 = no LoRA
    alpha: float = 16.0  # scale
    pattern: str = (
        r"(think|write)\.layers\..*"  # full match against a linear layer's path, such as think.layers.attention.q
    )

    def __post_init__(self) -> None:
        _require(self.rank >= 0, "lora.rank", f"must not be negative, not {self.rank}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The unified model."""

    listen: ListenConfig = dataclasses.field(default_factory=ListenConfig)  # speech in
    llm: LLMConfig = dataclasses.field(default_factory=LLMConfig)  # Think and Write
    speak: SpeakConfig = dataclasses.field(default_factory=SpeakConfig)  # speech out
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)  # low-rank adapters
    num_emotions: int = 7  # classes of the user's emotion: HumDial's 7, or 8 with boredom
    dtype: str = "float32"  # of the computation; parameters are float32
    # What a layer recomputes in the backward pass: 'none' | 'dots' all but matmuls | 'attention' all but attention and
    # its projections | 'full' all, its input is kept | 'offload' all, its input waits in host memory
    remat: str = "none"
    # 'splash' (TPU) | 'cudnn' (GPU, bfloat16) | 'xla' (anywhere, the reference) | 'auto' the platform's own
    attention: str = "auto"

    def __post_init__(self) -> None:
        _one_of(self.dtype, DTYPES, "dtype")
        _one_of(self.remat, REMAT_POLICIES, "remat")
        _one_of(self.attention, ATTENTIONS, "attention")
        _require(self.num_emotions > 0, "num_emotions", f"must be at least 1, not {self.num_emotions}")
        _require(
            self.speak.freeze_layer <= self.llm.num_layers - 2,
            "speak.freeze_layer",
            f"{self.speak.freeze_layer} leaves no layer for Write: with llm.num_layers = {self.llm.num_layers} it can "
            f"be at most {self.llm.num_layers - 2}",
        )

    @property
    def think_layers(self) -> int:
        """Layers in Think; the rest are Write's."""
        return self.speak.freeze_layer + 1

    @property
    def write_layers(self) -> int:
        """Layers in Write, and in Speak."""
        return self.llm.num_layers - self.think_layers
