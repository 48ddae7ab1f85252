"""Parameters for tests, drawn on the host: compiling a model's random numbers takes longer than most tests."""

import functools

import jax
import numpy as np
from jax.sharding import NamedSharding

from ieat_jax.model.names import map_named


def host_init(make, config, seed=0):
    """`make(config, key)` with the values of `draw`, laid over the mesh in use; the same on every mesh."""
    abstract = jax.eval_shape(functools.partial(make, config), jax.random.key(0))
    mesh, rng = jax.sharding.get_mesh(), np.random.default_rng(seed)

    def place(name, leaf):
        value = draw(rng, name, leaf.shape)
        return jax.device_put(value, None if mesh.empty else NamedSharding(mesh, leaf.sharding.spec))

    return map_named(place, abstract)


def draw(rng, name, shape):
    """Values that are like those of an initialisation: norms, biases, mixes and LoRA begin as nothing."""
    last = name.split(".")[-1]
    if last == "scale":
        return np.ones(shape, np.float32)
    if last in ("bias", "lora_b", "mix"):
        return np.zeros(shape, np.float32)
    spread = 0.02 if last in ("embed", "positions", "head") else 0.2
    return rng.normal(scale=spread, size=shape).astype(np.float32)
