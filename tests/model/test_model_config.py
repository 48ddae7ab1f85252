import dataclasses

import pytest

from ieat_jax.errors import UserError
from ieat_jax.interop.families.configs import llm_config
from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, SpeakConfig


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ModelConfig(dtype="float16"), "config.model.dtype: must be one of float32, bfloat16, not 'float16'"),
        (
            lambda: ModelConfig(remat="some"),
            "config.model.remat: must be one of none, dots, attention, full, offload, not 'some'",
        ),
        (
            lambda: AdapterConfig(kind="gaot"),
            "listen.adapter.kind: must be one of goat, mlp, linear, stack, not 'gaot'",
        ),
        (lambda: LLMConfig(num_heads=4, num_kv_heads=3), "config.model.llm.num_kv_heads: 3 does not divide"),
        (lambda: LLMConfig(head_dim=7), "config.model.llm.head_dim: must be even"),
        (lambda: LLMConfig(num_layers=0), "config.model.llm.num_layers: must be at least 1"),
        (lambda: EncoderConfig(width=10, num_heads=4), "config.model.listen.encoder.num_heads: 4 does not divide"),
        (lambda: ListenConfig(clip_seconds=31.0), "config.model.listen.clip_seconds: must be at most 30"),
        (lambda: ModelConfig(speak=SpeakConfig(freeze_layer=5)), "config.model.speak.freeze_layer: 5 leaves no layer"),
    ],
)
def test_impossible_sizes_name_their_field(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_huggingface_fields_old_and_new():
    old = {
        "model_type": "llama", "vocab_size": 9, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 4, "rope_theta": 5e5, "rms_norm_eps": 1e-5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192},
    }  # fmt: skip
    config = llm_config(old)
    assert (config.rope_theta, config.rope_scaling, config.head_dim) == (5e5, (8.0, 1.0, 4.0, 8192.0), 8)
    new = {k: v for k, v in old.items() if k not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = old["rope_scaling"] | {"rope_theta": 5e5}
    assert llm_config(new) == config
    qwen = llm_config(old | {"model_type": "qwen2", "tie_word_embeddings": True})
    assert qwen == dataclasses.replace(config, qkv_bias=True, tie_embeddings=True)
