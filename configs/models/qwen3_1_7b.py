"""Whisper-small and Qwen3-1.7B, the size of GOAT-SLM2-1.8B; `freeze_layer` is our choice."""

from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, SpeakConfig


def get_model():
    """1.7 G parameters in Think and Write, 0.4 G in Speak, 0.2 G in Listen."""
    return ModelConfig(
        listen=ListenConfig(
            EncoderConfig(num_layers=12, width=768, num_heads=12, mlp_width=3072),
            AdapterConfig(num_layers=2, num_heads=8, num_kv_heads=4, head_dim=256, mlp_width=4096, conv_width=768),
        ),
        llm=LLMConfig(
            vocab_size=151936,
            width=2048,
            mlp_width=6144,
            num_layers=28,
            num_heads=16,
            num_kv_heads=8,
            head_dim=128,
            rope_theta=1e6,
            qk_norm=True,
            context_length=40960,
        ),
        speak=SpeakConfig(freeze_layer=20),
    )
