"""Arrays as training saves them, and folders with steps of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ieat_jax.runs.checkpoints import Checkpoints

SPECS = {"think.embed": ("tensor", "fsdp"), "think.layers.up.kernel": (None, "fsdp", "tensor"), "write.norm": ()}


def arrays(mesh=None, seed=0):
    """Parameters and an optimiser state as they come in training."""
    rng = np.random.default_rng(seed)

    def put(value, *spec):
        place = jax.devices()[0] if mesh is None else jax.NamedSharding(mesh, PartitionSpec(*spec))
        return jax.device_put(value, place)

    parameters = {
        "think.embed": put(rng.normal(size=(64, 16)).astype(np.float32), *SPECS["think.embed"]),
        "think.layers.up.kernel": put(rng.normal(size=(2, 16, 64)).astype(jnp.bfloat16), None, "fsdp", "tensor"),
        "write.norm": put(np.array([0.0, -0.0, np.nan, np.inf], np.float32)),
    }
    moments = {name: x * 2 for name, x in parameters.items()}
    return {"trainable": parameters, "optimizer": ({"mu": moments}, put(np.int32(7)))}


def shapes(items):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items)


def assert_same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def three_steps(folder):
    items = [arrays(seed=step) for step in range(3)]
    with Checkpoints(folder) as checkpoints:
        for step, item in enumerate(items, 1):
            checkpoints.save(step, item, {})
    return items
