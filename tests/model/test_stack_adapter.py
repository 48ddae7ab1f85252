"""Ultravox's encoder and projectors, put together from transformers' modules, and the `stack` adapter beside them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from helpers.ultravox_reference import Tower, projector_of
from transformers.models.whisper import modeling_whisper as whisper

from ieat_jax.errors import ConfigError
from ieat_jax.interop.families.audio_configs import ultravox_config
from ieat_jax.interop.families.audio_llm import listen_tensors
from ieat_jax.interop.families.whisper import huggingface_config
from ieat_jax.model.adapters import StackAdapter, adapter_length
from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, ModelConfigError
from ieat_jax.model.listen import Listen
from ieat_jax.model.names import map_named, named_leaves
from ieat_jax.model.places import Places

ENCODER = EncoderConfig(num_layers=2, width=16, num_heads=4, mlp_width=32, num_mels=8, max_positions=50)
FORMS = {
    "0.5": {},
    "0.4": {"norm_mid": False},
    "gelu": {"activation": "gelu"},
    "silu, 0.4": {"activation": "silu", "norm_mid": False},
    "relu, 5 states": {"activation": "relu", "stack_factor": 5},
    "transformer": {"stack_layers": 2},
}


def configure(form, **fields):
    adapter = AdapterConfig(kind="stack", hidden_width=40, **FORMS[form])
    return ModelConfig(
        listen=ListenConfig(ENCODER, adapter, layer_mix="last", clip_seconds=1.0), llm=LLMConfig(width=24)
    )


def random_model(config):
    rng = np.random.default_rng(0)
    abstract = jax.eval_shape(functools.partial(Listen, config), jax.random.key(0))
    return map_named(lambda _, leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), abstract)


@pytest.mark.parametrize("form", FORMS)
def test_a_clip_is_what_it_is_in_ultravox(form):
    config = configure(form)
    model = random_model(config)
    named = {f"listen.{name}": np.asarray(leaf) for name, leaf in named_leaves(model).items()}
    theirs = {name: torch.from_numpy(array) for name, array in listen_tensors(named, config)}
    settings = ultravox_config(config, audio=huggingface_config(ENCODER), text={"hidden_size": 24}, audio_token=3)
    tower = Tower(transformers.WhisperConfig(**settings["audio_config"], attn_implementation="eager"))
    projector = projector_of(settings)
    for prefix, module in (("audio_tower.", tower), ("multi_modal_projector.", projector)):
        part = {name.removeprefix(prefix): array for name, array in theirs.items() if name.startswith(prefix)}
        module.load_state_dict(part, strict=True)
    mel = np.random.default_rng(1).normal(size=(3, 2, 100, 8)).astype(np.float32)
    frames = np.array([[100, 57], [16, 0], [17, 33]], np.int32)
    audio, lengths = model(mel, frames)
    for place in zip(*np.nonzero(frames), strict=True):
        count = int(frames[place])
        features = torch.from_numpy(mel[place][:count].T.copy())[None]
        with torch.no_grad():
            expected = projector.eval()(tower.eval()(features, torch.tensor([count])), None)[0].numpy()
        assert len(expected) == lengths[place] == adapter_length(config.listen.adapter, count)
        np.testing.assert_allclose(audio[place][: len(expected)], expected, atol=1e-5, rtol=1e-5)
        assert not np.any(audio[place][len(expected) :])


def test_the_second_half_gates_the_first():
    config = configure("0.5")
    adapter = StackAdapter(config, jax.random.key(0))
    kernel = np.asarray(adapter.linear1.kernel.get_value()).copy()
    kernel[:, 20:] = 0  # silu(0) = 0: nothing passes
    closed = map_named(lambda name, leaf: kernel if name == "linear1.kernel" else leaf, adapter)
    states = np.random.default_rng(0).normal(size=(1, 8, 16)).astype(np.float32)
    assert not np.any(closed(states, Places(np.array([8]))))
    assert np.any(adapter(states, Places(np.array([8]))))


def test_mistakes_are_told():
    with pytest.raises(ModelConfigError, match=r"hidden_width: must be even for activation 'swiglu'"):
        AdapterConfig(kind="stack", hidden_width=7)
    with pytest.raises(ConfigError, match="activation: must be one of swiglu, silu, gelu, relu, not 'tanh'"):
        dataclasses.replace(AdapterConfig(), activation="tanh")


def test_the_reference_masks_what_is_behind_a_clip():
    tower = Tower(
        transformers.WhisperConfig(
            d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, num_mel_bins=8,
            max_source_positions=50, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    assert isinstance(tower, whisper.WhisperEncoder)
    features = torch.randn(1, 8, 60)
    with torch.no_grad():
        alone = tower(features, torch.tensor([60]))
        window = tower(F.pad(features, (0, 40)), torch.tensor([60]))
    torch.testing.assert_close(window[:, :29], alone[:, :29], atol=1e-5, rtol=1e-5)
