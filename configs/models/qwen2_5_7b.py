"""Whisper-small and Qwen2.5-7B, the family of GOAT-SLM1-7B; `freeze_layer` is our choice."""

from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, SpeakConfig


def get_model():
    """7.6 G parameters in Think and Write, 1.7 G in Speak, 0.2 G in Listen."""
    return ModelConfig(
        listen=ListenConfig(
            EncoderConfig(num_layers=12, width=768, num_heads=12, mlp_width=3072),
            AdapterConfig(num_layers=2, num_heads=8, num_kv_heads=4, head_dim=448, mlp_width=4096, conv_width=768),
        ),
        llm=LLMConfig(
            vocab_size=152064,
            width=3584,
            mlp_width=18944,
            num_layers=28,
            num_heads=28,
            num_kv_heads=4,
            head_dim=128,
            rope_theta=1e6,
            qkv_bias=True,
            tie_embeddings=False,
            context_length=32768,
        ),
        speak=SpeakConfig(freeze_layer=20),
    )
