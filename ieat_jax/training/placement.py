"""Batches of host arrays onto the devices."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ieat_jax.data.batch import SEQUENCE_FIELDS, Batch
from ieat_jax.errors import UserError
from ieat_jax.model.sharding import spec


def put_batch(batch: Batch) -> Batch:
    """Global arrays on the mesh in use, of which `batch` holds this process's rows; without a mesh, one device."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.tree.map(jax.numpy.asarray, batch)
    placed = {}
    for name in Batch.__dataclass_fields__:
        value = getattr(batch, name)
        sharding = NamedSharding(mesh, batch_spec(name, np.shape(value)))
        placed[name] = jax.make_array_from_process_local_data(sharding, value)
    return Batch(**placed)


def batch_spec(name: str, shape: tuple[int, ...]) -> PartitionSpec:
    """How a field of a batch lies on the mesh: rows over the batch axes, sequences over `context`."""
    dims = ("batch", "sequence") if name in SEQUENCE_FIELDS else ("batch",)
    return spec(*dims, *(None,) * (len(shape) - len(dims)))


def check_batch(batch_size: int, accumulate: int, shapes: dict[str, int], mesh: jax.sharding.Mesh) -> None:
    """Raise a UserError that names the field when rows or sequences do not divide over the mesh."""
    rows = mesh.shape["replica"] * mesh.shape["fsdp"]
    if batch_size % (rows * accumulate):
        raise UserError(
            f"config.data.batch_size = {batch_size} does not divide by config.mesh.replica x config.mesh.fsdp x "
            f"config.train.accumulate = {mesh.shape['replica']} x {mesh.shape['fsdp']} x {accumulate}; "
            f"choose a multiple of {rows * accumulate}"
        )
    context = mesh.shape["context"]
    for name, size in shapes.items():
        if size % context:
            raise UserError(
                f"config.data.shapes.{name} = {size} does not divide over config.mesh.context = {context}; "
                f"choose a multiple of {context}"
            )
