"""Whisper-base and SmolLM2-135M-Instruct: real weights that `pip` brings, small enough for a CPU."""

from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, SpeakConfig


def get_model():
    """135 M parameters in Think and Write, 35 M in Speak, 20 M in the encoder."""
    return ModelConfig(
        listen=ListenConfig(
            EncoderConfig(num_layers=6, width=512, num_heads=8, mlp_width=2048),
            AdapterConfig(num_layers=2, num_heads=8, num_kv_heads=4, head_dim=64, mlp_width=1536, conv_width=512),
        ),
        llm=LLMConfig(
            vocab_size=49152,
            width=576,
            mlp_width=1536,
            num_layers=30,
            num_heads=9,
            num_kv_heads=3,
            head_dim=64,
            rope_theta=1e5,
            norm_eps=1e-5,
            context_length=8192,
        ),
        speak=SpeakConfig(freeze_layer=19),
    )
