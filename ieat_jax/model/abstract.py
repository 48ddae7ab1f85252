"""The shapes and layouts of a model whose parameters do not exist."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from ieat_jax.model.config import ModelConfig
from ieat_jax.model.sharding import placed
from ieat_jax.model.unified import UnifiedModel, build_model


def abstract_model(config: ModelConfig, mesh: Mesh | None) -> UnifiedModel:
    """The model's structure, every leaf with the place where it shall lie; without a mesh, on the first device."""

    def build() -> UnifiedModel:
        return build_model(config, jax.random.key(0))

    if mesh is None:
        device = SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.eval_shape(build)
        return jax.tree.map(lambda leaf: placed(leaf, device), abstract)
    with jax.set_mesh(mesh):
        abstract = jax.eval_shape(build)
    return jax.tree.map(lambda leaf: placed(leaf, NamedSharding(mesh, leaf.sharding.spec)), abstract)


def place(value: Any, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """A loaded array, of the host or of devices, in the layout of the abstract parameter."""
    if isinstance(value, np.ndarray):
        value = np.asarray(value, wanted.dtype)
        return jax.make_array_from_callback(value.shape, wanted.sharding, lambda index: value[index])
    return jax.device_put(value, wanted.sharding)
