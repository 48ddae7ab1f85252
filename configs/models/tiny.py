"""Whisper-tiny.en and a language model from scratch: what the quick start trains."""

from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, SpeakConfig


def get_model():
    """2.5 M parameters in Think and Write, 1.1 M in Speak, 8 M in the encoder."""
    return ModelConfig(
        listen=ListenConfig(EncoderConfig(), AdapterConfig(mlp_width=512), clip_seconds=3.0),
        llm=LLMConfig(
            vocab_size=1536, width=192, mlp_width=512, num_layers=6, num_heads=4, num_kv_heads=2, head_dim=48
        ),
        speak=SpeakConfig(freeze_layer=3),
    )
