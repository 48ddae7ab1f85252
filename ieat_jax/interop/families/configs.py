"""config.json of Hugging Face's Llama, Mistral, Qwen2, Qwen3, OLMo 2 and Whisper, read as transformers reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ieat_jax.interop.containers.source import InteropError
from ieat_jax.model.config import ROPE_KINDS, EncoderConfig, LLMConfig, ModelConfigError

# Key/value heads where a file does not say it (None: as many as heads), and the norms' epsilon.
FAMILIES = {
    "llama": (None, 1e-6),
    "mistral": (8, 1e-6),
    "qwen2": (32, 1e-6),
    "qwen3": (32, 1e-6),
    "olmo2": (None, 1e-5),
}
REQUIRED = object()
LARGEST = 1e12  # of any number, a RoPE base included
MAX_LAYERS = 10_000
Sizes = TypeVar("Sizes")
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", dict: "an object"}


class ConfigFileError(InteropError, ModelConfigError):
    """A config.json of which no model can be built."""


class Reader:
    """Takes typed values out of a JSON object; messages name the key and `where` it stands."""

    def __init__(self, config: Mapping[str, Any], where: str):
        self.config, self.where = config, where

    def fail(self, problem: str) -> ConfigFileError:
        """The error that says where the problem stands."""
        return ConfigFileError(f"{self.where}: {problem}")

    def need(self, *keys: str) -> None:
        """All of them have to be there.

        Raises:
            ConfigFileError: one of them is not.
        """
        if missing := [key for key in keys if key not in self.config]:
            raise self.fail(f"no {', '.join(missing)} in it; download the file again")

    def layers(self, key: str, *, none: bool = False) -> int:
        """A number of layers, which would be walked through one by one before a tensor is found missing.

        `none`: there may be 0 of them, which is what an absent key says, too.

        Raises:
            ConfigFileError: no number, or more than anybody has.
        """
        count = self.count(key, 0, null=0) if none else self.get(key, int)
        if count > MAX_LAYERS:
            raise self.fail(f"{key} is {count}; at most {MAX_LAYERS} are believed")
        return count

    def count(self, key: str, default: Any = REQUIRED, *, null: Any = REQUIRED) -> int:
        """A whole number that may be 0; otherwise as `get`."""
        zero = key in self.config and type(self.config[key]) is int and self.config[key] == 0
        return 0 if zero else self.get(key, int, default, null=null)

    def build(self, config: Callable[..., Sizes], **sizes: Any) -> Sizes:
        """The configuration of these sizes, whose own checks do not know the file.

        Raises:
            ConfigFileError: they do not fit together.
        """
        try:
            return config(**sizes)
        except ModelConfigError as error:
            raise self.fail(f"sizes that do not fit ({error})") from error

    def get(self, key: str, kind: type, default: Any = REQUIRED, *, null: Any = REQUIRED) -> Any:
        """The value of `key`; `default` where it is absent, `null` where it is null.

        Raises:
            ConfigFileError: it is absent without a default, or of another type.
        """
        if key not in self.config:
            if default is REQUIRED:
                self.need(key)
            return default
        value = self.config[key]
        if value is None and null is not REQUIRED:
            return null
        fits = type(value) in (int, float) if kind is float else type(value) is kind
        if not fits or (kind in (int, float) and not 0 < value <= LARGEST):
            above = f" above 0 and at most {LARGEST:g}" if kind in (int, float) else ""
            raise self.fail(f"{key} is {value!r:.60}, it must be {_KINDS[kind]}{above}")
        return value


def llm_config(config: Mapping[str, Any], *, where: str = "LLM config") -> LLMConfig:
    """Of a causal LM of FAMILIES, with old and new RoPE fields; `where` is for messages.

    Raises:
        ConfigFileError: another architecture, a choice that is not supported, a key that is absent or of a wrong type.
    """
    read = Reader(config, where)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise read.fail(f"model_type {family!r} is not supported, only {', '.join(FAMILIES)}")
    if config.get("hidden_act", "silu") != "silu":
        raise read.fail(f"hidden_act {config['hidden_act']!r} is not supported, only 'silu'")
    if read.get("use_sliding_window", bool, False, null=False):
        raise read.fail("use_sliding_window is not supported; set it to false")
    if family == "mistral":
        _check_window(read)
    layers = config.get("layer_types")
    if layers is not None and (not isinstance(layers, list) or any(layer != "full_attention" for layer in layers)):
        raise read.fail("layer_types other than full_attention are not supported")
    biases = read.get("attention_bias", bool, False, null=False) and family != "qwen2"
    if biases or read.get("mlp_bias", bool, False, null=False):
        raise read.fail("attention_bias and mlp_bias are not supported; only Qwen2's q, k, v biases")
    read.need("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    width, heads = read.get("hidden_size", int), read.get("num_attention_heads", int)
    absent_heads, epsilon = FAMILIES[family]
    kv_heads = read.get("num_key_value_heads", int, absent_heads or heads, null=heads)
    if heads % kv_heads:
        absent = ", which is what transformers takes where it is absent," if "num_key_value_heads" not in config else ""
        raise read.fail(f"num_key_value_heads {kv_heads}{absent} does not divide num_attention_heads {heads}")
    head_dim = read.get("head_dim", int, 128 if family == "qwen3" else width // heads, null=width // heads)
    theta, scaling = _rope(read)
    return read.build(
        LLMConfig,
        vocab_size=read.get("vocab_size", int),
        width=width,
        mlp_width=read.get("intermediate_size", int),
        num_layers=read.layers("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=read.get("rms_norm_eps", float, epsilon),
        qkv_bias=family == "qwen2",
        qk_norm=family in ("qwen3", "olmo2"),
        post_norm=family == "olmo2",
        tie_embeddings=read.get("tie_word_embeddings", bool, False),
        context_length=read.get("max_position_embeddings", int, 0, null=0),
    )


def _check_window(read: Reader) -> None:
    """Refuse Mistral's sliding window, unless no text is longer; without the keys, transformers takes these values."""
    window = read.get("sliding_window", int, 4096, null=None)
    length = read.get("max_position_embeddings", int, 131072)
    if window is not None and window < length:
        raise read.fail(
            f"sliding_window {window} is not supported where max_position_embeddings is {length}; with sliding_window "
            f"null and max_position_embeddings {window} it is the same model for texts of that length"
        )


_ROPE_BLOCKS = ("rope_scaling", "rope_parameters")  # before and since version 5 of transformers


def _rope(read: Reader) -> tuple[float, tuple[float | str, ...] | None]:
    """(theta, scaling): of `rope_scaling`, `rope_parameters`, or both where they agree; empty ones do not count."""
    blocks = {name: block for name in _ROPE_BLOCKS if (block := read.get(name, dict, {}, null={}))}
    found = {name: _rope_block(read, name, block) for name, block in blocks.items()}
    if len(set(found.values())) > 1:
        said = " and ".join(
            f"{name} makes theta {theta:g}, scaling {scaling}" for name, (theta, scaling) in found.items()
        )
        raise read.fail(f"{' and '.join(found)} contradict each other ({said}); delete the one that is wrong")
    return next(iter(found.values()), None) or _rope_block(read, "rope_parameters", {})


def _rope_block(read: Reader, name: str, rope: Any) -> tuple[float, tuple[float | str, ...] | None]:
    """(theta, scaling) of one block."""
    if any(isinstance(value, dict) for value in rope.values()):  # one for each kind of layer
        rope = rope.get("full_attention")
    if not isinstance(rope, dict):
        raise read.fail("RoPE parameters for other layers than full_attention are not supported")
    inner = Reader(rope, f"{read.where}: {name}")
    theta = float(inner.get("rope_theta", float, read.get("rope_theta", float, 1e4)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    factors = [inner.get("partial_rotary_factor", float, 1.0, null=1.0)]
    factors.append(read.get("partial_rotary_factor", float, 1.0, null=1.0))
    if set(factors) != {1.0}:
        raise read.fail("partial_rotary_factor is not supported, only 1 or none")
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, ("linear", float(inner.get("factor", float)))
    if kind == "dynamic":
        return theta, ("dynamic", float(inner.get("factor", float)), float(read.get("max_position_embeddings", float)))
    if kind == "llama3":
        numbers = (float(inner.get(key, float)) for key in ("factor", "low_freq_factor", "high_freq_factor"))
        return theta, (*numbers, _original_length(read, inner))
    if kind == "yarn":
        return theta, _yarn(read, inner)
    known = ", ".join(("llama3", *ROPE_KINDS))
    raise read.fail(f"RoPE scaling {kind!r} is not supported, only {known} or none")


def _original_length(read: Reader, inner: Reader) -> float:
    """The length that a model was trained on before its RoPE was scaled."""
    original = "original_max_position_embeddings"
    length = inner.get(original, float, None)
    if length is None or original in read.config:  # the outer one counts, as in transformers
        length = read.get(original, float, None)
    return float(read.get("max_position_embeddings", float) if length is None else length)


def _yarn(read: Reader, inner: Reader) -> tuple[float | str, ...]:
    """YaRN's numbers, those that a file leaves out as transformers fills them in."""
    if not inner.get("truncate", bool, True):
        raise inner.fail("truncate false is not supported")
    length = _original_length(read, inner)
    factor = inner.get("factor", float, null=None)
    if factor is None:
        factor = read.get("max_position_embeddings", float) / length
    attention = inner.get("attention_factor", float, None, null=None)
    if attention is None:
        scales = [inner.get(key, float, None, null=None) for key in ("mscale", "mscale_all_dim")]
        above, below = scales if all(scales) else (1.0, 0.0)
        growth = 0.1 * math.log(factor) if factor > 1 else 0.0
        attention = (above * growth + 1) / (below * growth + 1)
    betas = (float(inner.get(key, float, beta, null=beta)) for key, beta in (("beta_fast", 32.0), ("beta_slow", 1.0)))
    return ("yarn", float(factor), length, *betas, float(attention))


def encoder_config(config: Mapping[str, Any], *, where: str = "Whisper config") -> EncoderConfig:
    """Of a Whisper's encoder; `where` is for messages.

    Raises:
        ConfigFileError: not a Whisper, another activation, a key that is absent or of a wrong type.
    """
    read = Reader(config, where)
    if config.get("model_type") != "whisper":
        raise read.fail(f"model_type is {config.get('model_type')!r}, not 'whisper'")
    if (activation := config.get("activation_function", "gelu")) != "gelu":
        raise read.fail(f"activation_function {activation!r} is not supported, only 'gelu'")
    read.need("encoder_layers", "d_model", "encoder_attention_heads", "encoder_ffn_dim")
    return read.build(
        EncoderConfig,
        num_layers=read.layers("encoder_layers"),
        width=read.get("d_model", int),
        num_heads=read.get("encoder_attention_heads", int),
        mlp_width=read.get("encoder_ffn_dim", int),
        num_mels=read.get("num_mel_bins", int, 80),
        max_positions=read.get("max_source_positions", int, 1500),
    )
