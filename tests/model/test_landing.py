"""Arrays that land piece by piece are those that land as a whole, wherever they lie."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from ieat_jax.model.landing import Piece, land, whole
from ieat_jax.model.sharding import MESH_AXES

SHAPES = {"layers": (3, 8, 4), "table": (10, 8), "head": (8, 12), "norm": (8,)}


def arrays():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def pieces():
    """A layer, some rows, some columns, and all of it at a time."""
    found = arrays()
    yield from (Piece("layers", (row, 0, 0), layer[None]) for row, layer in enumerate(found["layers"]))
    yield from (Piece("table", (at, 0), found["table"][at : at + 3]) for at in range(0, 10, 3))
    yield from (Piece("head", (0, at), found["head"][:, at : at + 5]) for at in range(0, 12, 5))
    yield Piece("norm", (0,), found["norm"])


def mesh(*sizes):
    return jax.make_mesh(sizes, MESH_AXES, devices=jax.devices()[: int(np.prod(sizes))])


PLACES = {
    "one device": lambda: dict.fromkeys(SHAPES, SingleDeviceSharding(jax.devices()[1])),
    "divided": lambda: {
        "layers": NamedSharding(mesh(1, 2, 1, 2), PartitionSpec(None, "fsdp", "tensor")),
        "table": NamedSharding(mesh(1, 2, 1, 2), PartitionSpec("tensor", "fsdp")),
        "head": NamedSharding(mesh(1, 2, 1, 2), PartitionSpec("fsdp", "tensor")),
        "norm": NamedSharding(mesh(1, 2, 1, 2), PartitionSpec(None)),
    },
    "repeated": lambda: {
        name: NamedSharding(mesh(2, 2, 1, 1), PartitionSpec(*(None,) * (len(shape) - 1), "fsdp"))
        for name, shape in SHAPES.items()
    },
}


@pytest.mark.parametrize("at_once", [1, 1000])
@pytest.mark.parametrize("where", PLACES)
def test_every_number_lands_where_it_is_wanted(where, at_once):
    places = PLACES[where]()
    wanted = {name: jax.ShapeDtypeStruct(shape, np.float32, sharding=places[name]) for name, shape in SHAPES.items()}
    landed = dict(land(pieces(), wanted, at_once=at_once))
    for name, array in arrays().items():
        assert landed[name].sharding == places[name]
        for shard in landed[name].addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), array[shard.index], err_msg=name)


def test_it_lands_within_a_mesh_in_use():
    with jax.set_mesh(mesh(1, 2, 1, 2)):
        test_every_number_lands_where_it_is_wanted("divided", 1)


def test_pieces_put_together_on_the_host():
    found = dict(whole(pieces(), SHAPES))
    assert found.keys() == SHAPES.keys()
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)
