"""config.json of GOAT-SLM, written and read: Whisper's, a Qwen's with Speak's sizes, and the adapter's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ieat_jax.interop.families.configs import Reader, encoder_config, llm_config
from ieat_jax.interop.families.parts import GOAT, inner_encoder, inner_llm
from ieat_jax.model.config import AdapterConfig, ListenConfig, LLMConfig, ModelConfig, SpeakConfig

KERNELS = "5,5,5"
NORM_EPS = 1e-6  # of the adapter
FAMILIES = ("qwen2", "qwen3")  # whose decoders its code has
INNER_DIM = 512  # adapter_inner_dim: its code reads it nowhere
ADAPTER_POSITIONS = 32768  # max_position_embeddings of the adapter, which limits nothing


def goat_config(config: ModelConfig, *, audio: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a GOAT-SLM; `audio` = that of its Whisper, `text` = that of its LLM."""
    adapter = config.listen.adapter
    speak = {
        "freeze_layer": config.speak.freeze_layer,
        "unit_vocab_size": config.speak.unit_vocab_size - 1,  # its tables have a row more
        "num_tok_per_group": config.speak.group_size,
    }
    return {
        "architectures": ["GOATSLMModel"],
        "model_type": GOAT,
        "whisper_config": dict(audio),
        "llm_config": dict(text) | speak,
        "adapter_config": {
            "model_type": "adapter",
            "hidden_size": config.llm.width,
            "intermediate_size": adapter.mlp_width,
            "num_hidden_layers": adapter.num_layers,
            "num_attention_heads": adapter.num_heads,
            "num_key_value_heads": adapter.num_kv_heads,
            "head_dim": adapter.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": NORM_EPS,
            "rope_theta": adapter.rope_theta,
            "rope_scaling": None,
            "max_position_embeddings": ADAPTER_POSITIONS,
        },
        "conv_kernel_sizes": KERNELS,
        "adapter_inner_dim": INNER_DIM,
    }


def read_goat_config(config: Mapping[str, Any], *, where: str) -> tuple[ListenConfig, LLMConfig, SpeakConfig, str]:
    """(Listen, LLM, Speak, note on what the file leaves to defaults), the inverse of `goat_config`.

    A clip may be as long as the encoder's window.

    Raises:
        ConfigFileError: a choice that is not supported, a key that is absent or of a wrong type.
    """
    read = Reader(config, where)
    audio, place, defaults = inner_encoder(config, GOAT, where=where)
    encoder = encoder_config(audio | {"model_type": "whisper"}, where=place)
    text, place, note = inner_llm(config, GOAT, where=where)
    llm, speak = llm_config(text, where=place), _speak(Reader(text, place))
    if (kernels := read.get("conv_kernel_sizes", str, KERNELS)).replace(" ", "") != KERNELS:
        raise read.fail(f"conv_kernel_sizes {kernels!r:.40} is not supported, only {KERNELS!r}")
    adapter = Reader(read.get("adapter_config", dict, {}, null={}), f"{where}: adapter_config")
    listen = read.build(
        ListenConfig,
        encoder=encoder,
        adapter=_adapter(adapter, llm.width, encoder.width),
        layer_mix="last",
        clip_seconds=encoder.max_positions / 50,
        padding="heard",
    )
    return listen, llm, speak, defaults + note


def _speak(read: Reader) -> SpeakConfig:
    if "freeze_layer" not in read.config:
        read.need("freeze_layer")
    if (group := read.get("num_tok_per_group", int, 4)) != 4:
        raise read.fail(f"num_tok_per_group {group} is not supported, only 4")
    freeze, layers = read.count("freeze_layer"), read.get("num_hidden_layers", int)
    if freeze > layers - 2:
        raise read.fail(f"freeze_layer {freeze} leaves no layer of {layers} for Write; it is {layers - 2} at most")
    return read.build(SpeakConfig, freeze_layer=freeze, unit_vocab_size=read.get("unit_vocab_size", int, 4097) + 1)


def _adapter(read: Reader, width: int, encoder_width: int) -> AdapterConfig:
    only = {"hidden_act": ("silu", str), "rms_norm_eps": (NORM_EPS, float), "use_sliding_window": (False, bool)}
    for key, (value, kind) in only.items():
        if (found := read.get(key, kind, value)) != value:
            raise read.fail(f"{key} {found!r} is not supported, only {value!r}")
    if read.config.get("rope_scaling") is not None:
        raise read.fail("rope_scaling is not supported, only null")
    if (found := read.get("hidden_size", int, 4096)) != width:
        raise read.fail(f"hidden_size {found} is not the LLM's {width}, whose inputs it makes")
    heads = read.get("num_attention_heads", int, 8)
    return read.build(
        AdapterConfig,
        kind="goat",
        num_layers=read.layers("num_hidden_layers", none=True) if "num_hidden_layers" in read.config else 2,
        num_heads=heads,
        num_kv_heads=read.get("num_key_value_heads", int, 4, null=heads),
        head_dim=read.get("head_dim", int, max(width // heads, 1)),
        mlp_width=read.get("intermediate_size", int, 4096),
        conv_width=encoder_width,  # what its code takes
        rope_theta=float(read.get("rope_theta", float, 1e4)),
    )
