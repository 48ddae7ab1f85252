"""config.json of Ultravox, Qwen2-Audio and AudioFlamingo3, written and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ieat_jax.interop.families.configs import Reader, encoder_config
from ieat_jax.model.config import ACTIVATIONS, AdapterConfig, ListenConfig, ModelConfig

_FLAMINGO = {  # AudioFlamingo3's names of an encoder's sizes, and Whisper's
    "num_hidden_layers": "encoder_layers",
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
}
MODEL_TYPES = {"ultravox": "stack", "qwen2_audio": "linear", "audioflamingo3": "mlp"}  # the adapter of each


def ultravox_config(
    config: ModelConfig, *, audio: Mapping[str, Any], text: Mapping[str, Any], audio_token: int
) -> dict[str, Any]:
    """config.json of an Ultravox; `audio` = that of its Whisper, `text` = that of its LLM."""
    adapter = config.listen.adapter
    return {
        "architectures": ["UltravoxModel"],
        "model_type": "ultravox",
        "audio_config": dict(audio),
        "text_config": dict(text),
        "audio_model_id": None,
        "text_model_id": None,
        "audio_token_index": audio_token,
        "hidden_size": adapter.hidden_width,
        "stack_factor": adapter.stack_factor,
        "projector_act": adapter.activation,
        "projector_ln_mid": adapter.norm_mid,
        "num_projector_layers": adapter.stack_layers,
        "norm_init": 1.0,
        "vocab_size": config.llm.vocab_size,
    }


def qwen2_audio_config(
    config: ModelConfig, *, audio: Mapping[str, Any], text: Mapping[str, Any], audio_token: int
) -> dict[str, Any]:
    """config.json of a Qwen2-Audio; `audio` = that of its Whisper, `text` = that of its LLM."""
    return {
        "architectures": ["Qwen2AudioForConditionalGeneration"],
        "model_type": "qwen2_audio",
        "audio_config": {**audio, "model_type": "qwen2_audio_encoder"},
        "text_config": dict(text),
        "audio_token_index": audio_token,
        "vocab_size": config.llm.vocab_size,
        "ignore_index": -100,
    }


def audio_flamingo3_config(
    config: ModelConfig, *, audio: Mapping[str, Any], text: Mapping[str, Any], audio_token: int
) -> dict[str, Any]:
    """config.json of an AudioFlamingo3; `audio` = that of its Whisper, `text` = that of its LLM."""
    names = {theirs: name for name, theirs in _FLAMINGO.items()}
    return {
        "architectures": ["AudioFlamingo3ForConditionalGeneration"],
        "model_type": "audioflamingo3",
        "audio_config": {names.get(name, name): value for name, value in audio.items()}
        | {"model_type": "audioflamingo3_encoder"},
        "text_config": dict(text),
        "audio_token_id": audio_token,
        "projector_hidden_act": "gelu",
        "projector_bias": True,
    }


def listen_config(config: Mapping[str, Any], *, where: str) -> ListenConfig:
    """Listen of a container, the inverse of the functions above; a clip may be as long as the encoder's window.

    Raises:
        ConfigFileError: another kind of model, a choice that is not supported, a key that is absent or of a wrong type.
    """
    read = Reader(config, where)
    kind = MODEL_TYPES.get(str(config.get("model_type")))
    if kind is None:
        raise read.fail(f"model_type {config.get('model_type')!r} is none of {', '.join(MODEL_TYPES)}")
    audio = read.get("audio_config", dict)
    audio = {_FLAMINGO.get(name, name): value for name, value in audio.items()} if kind == "mlp" else dict(audio)
    encoder = encoder_config(audio | {"model_type": "whisper"}, where=f"{where}: audio_config")
    return read.build(
        ListenConfig,
        encoder=encoder,
        adapter=_stack(read) if kind == "stack" else _pooled(read, kind),
        layer_mix="last",
        clip_seconds=encoder.max_positions / 50,
        padding="masked",
    )


def _pooled(read: Reader, kind: str) -> AdapterConfig:
    if (activation := read.get("projector_hidden_act", str, "gelu")) != "gelu":
        raise read.fail(f"projector_hidden_act {activation!r} is not supported, only 'gelu'")
    if not read.get("projector_bias", bool, True):
        raise read.fail("projector_bias false is not supported")
    return AdapterConfig(kind=kind)


def _stack(read: Reader) -> AdapterConfig:
    activation = read.get("projector_act", str, "swiglu")
    if activation not in ACTIVATIONS:
        raise read.fail(f"projector_act {activation!r} is not supported, only {', '.join(ACTIVATIONS)}")
    if read.config.get("audio_latency_block_size") is not None:
        raise read.fail("audio_latency_block_size is not supported; only an encoder that sees the whole clip is")
    for name in ("audio_model_id", "text_model_id"):
        if read.config.get(name) is not None:
            raise read.fail(f"{name} points to weights elsewhere ({read.config[name]!r}), which are not looked for")
    return read.build(
        AdapterConfig,
        kind="stack",
        stack_factor=read.get("stack_factor", int, 8),
        stack_layers=0 if read.config.get("num_projector_layers") in (None, 0) else read.layers("num_projector_layers"),
        hidden_width=read.get("hidden_size", int, 4096),
        activation=activation,
        norm_mid=read.get("projector_ln_mid", bool, False),
    )
