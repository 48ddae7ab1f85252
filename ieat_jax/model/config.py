"""The model's part of the configuration: every size and choice of Listen, Think, Write and Speak."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ieat_jax.errors import UserError
from ieat_jax.ranges import Allowed, Section, field, flag, number, one_of, regex, section

DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "attention", "full", "offload")
ATTENTIONS = ("auto", "xla", "splash", "cudnn")
LAYER_MIXES = ("learned", "last")
ADAPTERS = ("goat", "mlp", "linear", "stack")
POOLED = ("mlp", "linear")  # adapters that read the average of two states
ACTIVATIONS = ("swiglu", "silu", "gelu", "relu")
PADDINGS = ("auto", "heard", "masked")


# How RoPE is scaled, and the numbers behind the name; Llama 3's has four, and no name.
ROPE_KINDS = {
    "linear": ("factor",),
    "dynamic": ("factor", "length"),
    "yarn": ("factor", "length", "beta_fast", "beta_slow", "attention_factor"),
}


def _is_scaling(value: tuple[float | str, ...]) -> bool:
    named = value[:1] and isinstance(value[0], str)
    count = len(ROPE_KINDS.get(str(value[0]), ())) if named else 4
    numbers = value[1:] if named else value
    return 0 < len(numbers) == count and all(type(each) in (int, float) and 0 < each < float("inf") for each in numbers)


ROPE_SCALING = Allowed(
    "None, (factor, low_freq_factor, high_freq_factor, original length), or "
    + ", ".join(f"('{kind}', {', '.join(numbers)})" for kind, numbers in ROPE_KINDS.items()),
    _is_scaling,
)


class ModelConfigError(UserError):
    """A model size or choice that cannot be built; names the config field."""


def _require(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise ModelConfigError(f"config.model.{field}: {problem}")


def _grouped_heads(config: AdapterConfig | LLMConfig, prefix: str) -> None:
    _require(
        config.num_heads % config.num_kv_heads == 0,
        f"{prefix}.num_kv_heads",
        f"{config.num_kv_heads} does not divide num_heads = {config.num_heads}",
    )


@dataclasses.dataclass(frozen=True)
class EncoderConfig(Section):
    """Whisper's encoder. Defaults: whisper-tiny."""

    AT: ClassVar[str] = "config.model.listen.encoder"
    num_layers: int = number(4, least=1)  # transformer layers
    width: int = number(384, least=1)  # d_model
    num_heads: int = number(6, least=1)  # attention heads
    mlp_width: int = number(1536, least=1)  # hidden width of the MLP
    num_mels: int = number(80, least=1)  # log-mel bins (128 for large-v3)
    max_positions: int = number(1500, least=1)  # positions of 20 ms: 1500 = 30 s

    def __post_init__(self) -> None:
        super().__post_init__()
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
class AdapterConfig(Section):
    """From encoder frames (50 Hz) to positions of the LLM."""

    AT: ClassVar[str] = "config.model.listen.adapter"
    # 'goat' (conv + transformer, 6.25 Hz) | 'mlp' (AudioFlamingo3, 25 Hz) | 'linear' (Qwen2-Audio, 25 Hz) | 'stack'
    # (Ultravox, 50 Hz / stack_factor)
    kind: str = one_of("goat", ADAPTERS)
    num_layers: int = number(2, least=0)  # goat: transformer layers
    num_heads: int = number(8, least=1)  # goat: attention heads
    num_kv_heads: int = number(4, least=1)  # goat: key/value heads
    head_dim: int = number(32, least=1)  # goat: width of one head
    mlp_width: int = number(768, least=1)  # goat: hidden width of the SwiGLU MLP
    conv_width: int = number(384, least=1)  # goat: channels between the convolutions, after the gate
    rope_theta: float = number(1e4, above=0)  # goat: RoPE base
    stack_factor: int = number(8, least=1)  # stack: encoder states that become one position
    stack_layers: int = number(0, least=0)  # stack: layers as the encoder's between its linear ones; 0 = its MLP
    hidden_width: int = number(1024, least=2)  # stack: outputs of the MLP's first layer; 'swiglu' halves them
    activation: str = one_of("swiglu", ACTIVATIONS)  # stack: of the MLP
    norm_mid: bool = flag(True)  # stack: second norm before the MLP's last layer (Ultravox from 0.5 on), or behind it

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.activation != "swiglu" or self.hidden_width % 2 == 0,
            "listen.adapter.hidden_width",
            f"must be even for activation 'swiglu', which gates one half with the other, not {self.hidden_width}",
        )
        _require(self.head_dim % 2 == 0, "listen.adapter.head_dim", f"must be even for RoPE, not {self.head_dim}")
        _grouped_heads(self, "listen.adapter")


@dataclasses.dataclass(frozen=True)
class ListenConfig(Section):
    """Speech in: encoder, layer mix, adapter."""

    AT: ClassVar[str] = "config.model.listen"
    encoder: EncoderConfig = section(EncoderConfig)  # Whisper
    adapter: AdapterConfig = section(AdapterConfig)  # encoder -> LLM
    # 'learned': softmax mix of all encoder layers | 'last': published behaviour
    layer_mix: str = one_of("learned", LAYER_MIXES)
    clip_seconds: float = number(30.0, above=0)  # window per clip; 30 is exact Whisper, less saves work
    # 'heard': the encoder sees the silence that fills the window, as Whisper and GOAT-SLM do | 'masked': it sees the
    # clip alone, so that clips may share a window (data.shapes.frames) | 'auto': heard by 'goat', masked for the others
    padding: str = one_of("auto", PADDINGS)

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = self.encoder.max_positions / 50
        _require(
            self.clip_seconds <= limit,
            "listen.clip_seconds",
            f"must be at most {limit:g} (listen.encoder.max_positions / 50), not {self.clip_seconds:g}",
        )

    @property
    def masked(self) -> bool:
        """Whether the encoder sees a clip alone."""
        return self.padding == "masked" or (self.padding == "auto" and self.adapter.kind != "goat")

    @property
    def behind(self) -> int | None:
        """Frames behind a clip that the encoder's convolutions read as they are; None: silence, as Whisper has it.

        Where it is a number, a clip has as many frames as the public processors count, ceil(samples / 160), and not all
        that hold some of its sound. GOAT-SLM, AudioFlamingo3 and Qwen2-Audio read two more, which do, Ultravox's
        windows end with the clip.
        """
        if self.masked == (self.adapter.kind == "goat"):  # as no public processor has it
            return None
        return 0 if self.adapter.kind == "stack" else 2


@dataclasses.dataclass(frozen=True)
class LLMConfig(Section):
    """One decoder that is Llama, Mistral, Qwen2, Qwen3 or OLMo 2 by its fields. Defaults: small, for training anew."""

    AT: ClassVar[str] = "config.model.llm"
    vocab_size: int = number(2048, least=1)  # V
    width: int = number(256, least=1)  # D
    mlp_width: int = number(768, least=1)  # hidden width of the SwiGLU MLP
    num_layers: int = number(6, least=1)  # N, Think and Write together
    num_heads: int = number(4, least=1)  # H
    num_kv_heads: int = number(2, least=1)  # K
    head_dim: int = number(64, least=1)  # width of one head
    rope_theta: float = number(1e4, above=0)  # RoPE base
    # Llama 3's (factor, low_freq_factor, high_freq_factor, original length), or a name and its numbers: ('linear',
    # factor), ('dynamic', factor, length), ('yarn', factor, length, beta_fast, beta_slow, attention_factor)
    rope_scaling: tuple[float | str, ...] | None = field(None, ROPE_SCALING)
    norm_eps: float = number(1e-6, above=0)  # RMSNorm epsilon
    qkv_bias: bool = flag(False)  # Qwen2
    qk_norm: bool = flag(False)  # Qwen3
    post_norm: bool = flag(False)  # OLMo 2: norms stand behind attention and MLP; with qk_norm, one norm over all heads
    tie_embeddings: bool = flag(True)  # LM head = embedding table
    context_length: int = number(0, least=0)  # positions that an export promises; 0 = those of the rows it trains on

    def __post_init__(self) -> None:
        super().__post_init__()
        _grouped_heads(self, "llm")
        _require(self.head_dim % 2 == 0, "llm.head_dim", f"must be even for RoPE, not {self.head_dim}")
        yarn = self.rope_scaling is not None and self.rope_scaling[0] == "yarn"
        _require(not yarn or self.rope_theta > 1, "llm.rope_theta", f"must be above 1 for yarn, not {self.rope_theta}")


@dataclasses.dataclass(frozen=True)
class SpeakConfig(Section):
    """Speech out, and where Think ends."""

    AT: ClassVar[str] = "config.model.speak"
    enabled: bool = flag(True)  # False: no speech output; the model has no Speak
    freeze_layer: int = number(3, least=0)  # Think = LLM layers 0..freeze_layer; Write and Speak = the layers above
    unit_vocab_size: int = number(4098, least=1)  # U: unit ids and the end ids
    group_size: int = one_of(4, (4,))  # units per group = unit heads


@dataclasses.dataclass(frozen=True)
class LoraConfig(Section):
    """Low-rank adapters on linear layers (Hu et al. 2021): kernel + alpha / rank * a b."""

    AT: ClassVar[str] = "config.model.lora"
    rank: int = number(0, least=0)  # 0 = no LoRA
    alpha: float = number(16.0, above=0)  # scale
    # full match against a linear layer's path, such as think.layers.attention.q
    pattern: str = regex(r"(think|write)\.layers\..*")


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """The unified model."""

    AT: ClassVar[str] = "config.model"
    listen: ListenConfig = section(ListenConfig)  # speech in
    llm: LLMConfig = section(LLMConfig)  # Think and Write
    speak: SpeakConfig = section(SpeakConfig)  # speech out
    lora: LoraConfig = section(LoraConfig)  # low-rank adapters
    num_emotions: int = number(7, least=1)  # classes of the user's emotion: HumDial's 7, or 8 with boredom
    dtype: str = one_of("float32", DTYPES)  # of the computation; parameters are float32
    # What a layer recomputes in the backward pass: 'none' | 'dots' all but matmuls | 'attention' all but attention and
    # its projections | 'full' all, its input is kept | 'offload' all, its input waits in host memory
    remat: str = one_of("none", REMAT_POLICIES)
    # 'splash' (TPU) | 'cudnn' (GPU, bfloat16) | 'xla' (anywhere, the reference) | 'auto' the platform's own
    attention: str = one_of("auto", ATTENTIONS)

    def __post_init__(self) -> None:
        super().__post_init__()
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
