"""Tiny models and batches for the model's tests."""

import dataclasses

import numpy as np
import pytest
from helpers.host_init import host_init

from ieat_jax.model.config import (
    AdapterConfig,
    EncoderConfig,
    ListenConfig,
    LLMConfig,
    LoraConfig,
    ModelConfig,
    SpeakConfig,
)
from ieat_jax.model.sight import Sight

ENCODER = EncoderConfig(num_layers=2, width=16, num_heads=4, mlp_width=32, num_mels=8, max_positions=50)
ADAPTER = AdapterConfig(num_layers=1, num_heads=4, num_kv_heads=4, head_dim=8, mlp_width=32, conv_width=16)
LLM = LLMConfig(vocab_size=32, width=16, mlp_width=32, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=8)


NO_LORA = LoraConfig()


def _tiny(remat="none", dtype="float32", lora=NO_LORA, freeze_layer=1, speak=True, **llm):
    return ModelConfig(
        listen=ListenConfig(ENCODER, ADAPTER, clip_seconds=1.0),
        llm=dataclasses.replace(LLM, **llm),
        speak=SpeakConfig(enabled=speak, freeze_layer=freeze_layer, unit_vocab_size=11),
        lora=lora,
        remat=remat,
        dtype=dtype,
    )


@pytest.fixture
def tiny():
    """A function: LLM fields by name -> a ModelConfig of four narrow layers."""
    return _tiny


@pytest.fixture
def make_stream():
    """A function: (segment ids, branch ids) [B][T] -> Sight, positions as the layout gives them."""

    def build(segments, branches=None):
        segments = np.asarray(segments, np.int32)
        branches = np.zeros_like(segments) if branches is None else np.asarray(branches, np.int32)
        positions = np.zeros_like(segments)
        for row, token in np.ndindex(segments.shape):
            seen = [
                segments[row, j] == segments[row, token] and branches[row, j] in (0, branches[row, token])
                for j in range(token)
            ]
            positions[row, token] = sum(seen)
        return Sight(positions, segments, branches)

    return build


@pytest.fixture
def init():
    """A function: (module class or function of (config, key), config) -> module."""

    return host_init
