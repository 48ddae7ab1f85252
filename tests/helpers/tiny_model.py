"""A tiny model, as abstract tree and as arrays on a mesh."""

import functools
import types

import jax
import numpy as np
import pytest

from ieat_jax.model.config import (
    AdapterConfig,
    EncoderConfig,
    ListenConfig,
    LLMConfig,
    ModelConfig,
    SpeakConfig,
)
from ieat_jax.model.names import map_named
from ieat_jax.model.sharding import MESH_AXES, make_mesh
from ieat_jax.model.unified import build_model

CONFIG = ModelConfig(
    listen=ListenConfig(
        EncoderConfig(num_layers=1, width=16, num_heads=4, mlp_width=32, num_mels=8, max_positions=50),
        AdapterConfig(num_layers=1, num_heads=4, num_kv_heads=4, head_dim=8, mlp_width=32, conv_width=16),
        clip_seconds=1.0,
    ),
    llm=LLMConfig(vocab_size=32, width=16, mlp_width=32, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=8),
    speak=SpeakConfig(freeze_layer=0, unit_vocab_size=11),
)


@pytest.fixture
def tiny_config():
    return CONFIG


@pytest.fixture
def mesh_of():
    """A function: sizes (replica, fsdp, context, tensor) -> mesh of that many devices."""
    return _mesh


@functools.cache
def _mesh(*sizes):
    named = types.SimpleNamespace(**dict(zip(MESH_AXES, sizes, strict=True)))
    return make_mesh(named, jax.devices()[: int(np.prod(sizes))])


@pytest.fixture
def abstract():
    """A function: mesh or None -> the tiny model's abstract tree."""
    return _abstract


@functools.cache
def _abstract(mesh=None):
    build = functools.partial(build_model, CONFIG)
    if mesh is None:
        return jax.eval_shape(build, jax.random.key(0))
    with jax.set_mesh(mesh):
        return jax.eval_shape(build, jax.random.key(0))


@pytest.fixture
def make_model():
    """A function: mesh or None -> the tiny model with random arrays (made on the host: nothing is compiled)."""

    def build(mesh=None, seed=0):
        rng = np.random.default_rng(seed)

        def place(name, leaf):
            value = rng.normal(size=leaf.shape).astype(leaf.dtype)
            if mesh is None:
                return jax.device_put(value, jax.devices()[0])
            return jax.device_put(value, jax.NamedSharding(mesh, leaf.sharding.spec))

        return map_named(place, _abstract(mesh))

    return build
