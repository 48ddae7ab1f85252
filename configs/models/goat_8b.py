"""The paper's base, GOAT-SLM2-8B: Whisper-small and Qwen3-8B.

Sizes of the public weights. `freeze_layer` of the released checkpoint is not known: 27 of 36 layers is our choice.
"""

from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, SpeakConfig


def get_model():
    """8.2 G parameters in Think and Write, 1.8 G in Speak, 0.2 G in Listen."""
    return ModelConfig(
        listen=ListenConfig(
            EncoderConfig(num_layers=12, width=768, num_heads=12, mlp_width=3072),
            AdapterConfig(num_layers=2, num_heads=8, num_kv_heads=4, head_dim=512, mlp_width=4096, conv_width=768),
        ),
        llm=LLMConfig(
            vocab_size=151936,
            width=4096,
            mlp_width=12288,
            num_layers=36,
            num_heads=32,
            num_kv_heads=8,
            head_dim=128,
            rope_theta=1e6,
            qk_norm=True,
            tie_embeddings=False,
            context_length=40960,
        ),
        speak=SpeakConfig(freeze_layer=27),
    )
