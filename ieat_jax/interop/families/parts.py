"""A config.json that holds those of an encoder and an LLM: which kind of model it is of, and theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ieat_jax.interop.families.configs import Reader

GOAT = "goat_slm"
KINDS = ("ultravox", "qwen2_audio", "audioflamingo3")  # by their model_type; GOAT-SLM's differs with its size
# What transformers takes where an inner config does not say it, and public files leave out.
_LAYERS = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_QWEN = _LAYERS | {"vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768}
_LLAMA = _LAYERS | {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048}
_MISTRAL = _LAYERS | {"vocab_size": 32000, "intermediate_size": 14336, "max_position_embeddings": 131072}
_OLMO = _LAYERS | {"vocab_size": 50304, "intermediate_size": 11008, "max_position_embeddings": 2048}
_LLMS = {"llama": _LLAMA, "mistral": _MISTRAL, "qwen2": _QWEN, "qwen3": _QWEN, "olmo2": _OLMO}
_TINY = {"encoder_layers": 4, "d_model": 384, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
_LARGE = {"encoder_layers": 32, "d_model": 1280, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
_ENCODERS = {
    "ultravox": _TINY,
    GOAT: _TINY,
    "qwen2_audio": _LARGE | {"num_mel_bins": 128},
    "audioflamingo3": {
        "num_hidden_layers": 32, "hidden_size": 1280, "num_attention_heads": 20, "intermediate_size": 5120,
        "num_mel_bins": 128,
    },
}  # fmt: skip
_USUAL_LLM = {"ultravox": "llama", "qwen2_audio": "qwen2", "audioflamingo3": "qwen2"}
LLM_KEYS = {GOAT: "llm_config"}  # of the others 'text_config'
ENCODER_KEYS = {GOAT: "whisper_config"}  # of the others 'audio_config'


def kind_of(config: Mapping[str, Any]) -> str | None:
    """'goat_slm', or one of KINDS; None: a model of another kind, perhaps of one part."""
    found = config.get("model_type")
    if isinstance(found, str) and found in KINDS:
        return found
    goat = "llm_config" in config or "whisper_config" in config or str(found).lower().startswith("goat")
    return GOAT if goat else None


def inner_llm(config: Mapping[str, Any], kind: str, *, where: str) -> tuple[dict[str, Any], str, str]:
    """(config of the LLM, where it stands, note on what it leaves to transformers' defaults).

    Raises:
        ConfigFileError: it is missing, or is no object.
    """
    key = LLM_KEYS.get(kind, "text_config")
    found = {"model_type": _USUAL_LLM.get(kind)} | Reader(config, where).get(key, dict)
    family = found["model_type"]
    return _filled(found, _LLMS.get(family, {}) if isinstance(family, str) else {}, f"{where}: {key}")


def inner_encoder(config: Mapping[str, Any], kind: str, *, where: str) -> tuple[dict[str, Any], str, str]:
    """(config of the encoder, where it stands, note on what it leaves to transformers' defaults).

    Raises:
        ConfigFileError: it is missing, or is no object.
    """
    key = ENCODER_KEYS.get(kind, "audio_config")
    return _filled(Reader(config, where).get(key, dict), _ENCODERS[kind], f"{where}: {key}")


def _filled(found: Mapping[str, Any], usual: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str, str]:
    absent = [f"{name} = {value}" for name, value in usual.items() if name not in found]
    note = f" ({where} leaves to transformers' defaults: {', '.join(absent)})" if absent else ""
    return {**usual, **found}, where, note
