"""Tiny LLMs of every family as transformers writes them."""

import functools

import pytest
import torch
import transformers

from ieat_jax.model.config import ModelConfig, SpeakConfig

SIZES = dict(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_theta=1e4)
LLAMA3_OLD = {k: v for k, v in LLAMA3.items() if k != "rope_theta"} | {"original_max_position_embeddings": 16}
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
FAMILIES = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "llama untied": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16}
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 untied": lambda: transformers.Qwen2Config(**SIZES, rope_theta=1e6),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "qwen3 untied": lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=None, tie_word_embeddings=True, head_dim=16),
    "olmo2 untied": lambda: transformers.Olmo2Config(**SIZES),
    # Scaled RoPE, at lengths that show it.
    "qwen2 yarn": lambda: transformers.Qwen2Config(
        **SIZES, tie_word_embeddings=True, rope_parameters=YARN | {"rope_theta": 1e6}
    ),
    "qwen3 linear": lambda: transformers.Qwen3Config(
        **SIZES,
        head_dim=16,
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=1e4),
    ),
    "mistral dynamic": lambda: transformers.MistralConfig(
        **SIZES | {"max_position_embeddings": 16},
        sliding_window=None,
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=1e4),
    ),
}


@functools.cache
def reference(family):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation="eager")
    model = model.float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # biases and norms start at constants: move them
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embed" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A function: family -> the folder that transformers writes."""

    @functools.cache
    def write(family, **options):
        path = tmp_path_factory.mktemp(family.replace(" ", "_"))
        reference(family).save_pretrained(path, **options)
        return path

    return write


def model_config(llm, *, speak=False, freeze_layer=0):
    return ModelConfig(llm=llm, speak=SpeakConfig(enabled=speak, freeze_layer=freeze_layer))
