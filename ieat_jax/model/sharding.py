"""The mesh, and the one table from axis names to mesh axes.

The mesh's axes are explicit: an array's type says how it lies on the devices, so a wrong layout is an error at trace
time and `jax.eval_shape` carries shardings. Parameters lie over `fsdp` and `tensor`; a layer gathers its parameters
over `fsdp` when it uses them (`gather`). Without a mesh everything runs on one device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec, Sharding, get_abstract_mesh, reshard

from ieat_jax.errors import UserError

MESH_AXES = ("replica", "fsdp", "context", "tensor")

AXES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("replica", "fsdp"),  # rows of a batch
    "sequence": "context",  # tokens of a row
    "embed": "fsdp",  # a parameter's D
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}


class ShardingError(UserError):
    """A size that does not divide over the mesh, or a mesh that does not fit the devices."""


def spec(*names: str | None) -> PartitionSpec:
    """PartitionSpec of an array whose dimensions have these names; None = not divided."""
    return PartitionSpec(*(None if name is None else AXES[name] for name in names))


def make_mesh(sizes: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh of explicit axes; `sizes` has attributes replica, fsdp, context, tensor, of which one may be -1 = the rest.

    On several TPU slices `replica` goes over them, the other axes stay within one.

    Raises:
        ShardingError: the sizes do not multiply to the number of devices, or slices do not divide `replica`.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = [getattr(sizes, axis) for axis in MESH_AXES]
    described = ", ".join(f"config.mesh.{axis}={size}" for axis, size in zip(MESH_AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise ShardingError(f"{described}: every size must be at least 1; one of them may be -1, meaning what is left")
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    if math.prod(shape) != len(devices):
        raise ShardingError(
            f"{described} does not fit {len(devices)} devices: the sizes must multiply to {len(devices)}"
        )
    explicit = (AxisType.Explicit,) * len(shape)
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if slices == 1:
        # An axis may have to share one of the torus with another: 4 x 64 on 16 x 16.
        placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(placed, MESH_AXES, axis_types=explicit)
    if shape[0] % slices:
        raise ShardingError(
            f"config.mesh.replica={shape[0]} must be a multiple of the {slices} slices: only replicas lie on several, "
            "because what joins slices is slow"
        )
    outer, inner = (slices, 1, 1, 1), (shape[0] // slices, *shape[1:])
    return Mesh(
        mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True),
        MESH_AXES,
        axis_types=explicit,
    )


def current_mesh() -> AbstractMesh | None:
    """The mesh set by `jax.set_mesh`, or None."""
    mesh = get_abstract_mesh()
    return None if mesh.empty else mesh


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': of the mesh in use, which need not be of this machine, else of the default backend."""
    mesh = current_mesh()
    device = None if mesh is None else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def check_divides(size: int, axis: str, parameter: str, field: str) -> None:
    """Raise a ShardingError when dimension `axis` of `parameter`, set by `field`, does not divide over the mesh."""
    mesh, mesh_axes = current_mesh(), AXES[axis]
    if mesh is None or mesh_axes is None:
        return
    mesh_axes = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
    devices = math.prod(mesh.shape[name] for name in mesh_axes)
    if size % devices:
        over = " x ".join(f"config.mesh.{name}={mesh.shape[name]}" for name in mesh_axes)
        raise ShardingError(
            f"{parameter}: dimension {axis!r} = {size} ({field}) does not divide over {over}; "
            f"choose a mesh whose {' and '.join(mesh_axes)} size divides {size}"
        )


def array_spec(x: jax.Array) -> PartitionSpec:
    """How `x` lies on the mesh in use, one entry per dimension."""
    entries = jax.typeof(x).sharding.spec if current_mesh() is not None else ()
    return PartitionSpec(*entries, *(None,) * (x.ndim - len(entries)))


def lay(x: jax.Array, layout: PartitionSpec) -> jax.Array:
    """`x` moved to `layout`; nothing without a mesh."""
    return x if current_mesh() is None else reshard(x, layout)


def out_sharding(layout: PartitionSpec) -> PartitionSpec | None:
    """The value of JAX's `out_sharding` arguments: None without a mesh."""
    return None if current_mesh() is None else layout


def without(layout: PartitionSpec, axis: str) -> PartitionSpec:
    """`layout` gathered over a mesh axis."""

    def drop(entry: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(entry, tuple):
            left = tuple(name for name in entry if name != axis)
            return left if len(left) > 1 else (left[0] if left else None)
        return None if entry == axis else entry

    return PartitionSpec(*map(drop, layout))


def also(entry: str | tuple[str, ...] | None, axis: str) -> tuple[str, ...]:
    """The entry of a dimension that is divided over `axis` as well."""
    return (*((entry,) if isinstance(entry, str) else entry or ()), axis)


def gather(parameter: jax.Array, names: tuple[str | None, ...], dtype: Any) -> jax.Array:
    """A parameter ready for use: cast (so that the gather moves few bytes), then gathered over fsdp.

    Its transpose scatters the gradient back, so that each device keeps its own part.
    """
    return lay(parameter.astype(dtype), without(spec(*names), "fsdp"))


@dataclasses.dataclass(frozen=True)
class Divided:
    """A parameter that a function gathers itself, `names` its dimensions', `dtype` the computation's."""

    parameter: jax.Array
    names: tuple[str | None, ...]
    dtype: Any

    def cast(self) -> jax.Array:
        """In the computation's type, still divided."""
        return self.parameter.astype(self.dtype)

    def gather(self) -> jax.Array:
        """Gathered over fsdp."""
        return gather(self.parameter, self.names, self.dtype)

    def gather_manually(self, part: jax.Array, others: tuple[str, ...]) -> jax.Array:
        """`gather` inside `jax.shard_map`, of this device's part; `others`: axes besides fsdp whose devices differ."""
        part = jax.lax.pcast(part, others, to="varying")
        return jax.lax.all_gather(part, "fsdp", axis=spec(*self.names).index("fsdp"), tiled=True)


def put(tree: Any, *names: str | None) -> Any:
    """Every array of `tree` put on the mesh in use, its leading dimensions named; e.g. a batch with 'batch'."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.tree.map(jnp.asarray, tree)

    def place(x: np.ndarray) -> jax.Array:
        return jax.device_put(x, jax.NamedSharding(mesh, spec(*names[: np.ndim(x)])))

    return jax.tree.map(place, tree)


def whole(x: jax.Array) -> jax.Array:
    """`x` [B, T, ...] gathered over the sequence's mesh axis: every query may see any key."""
    layout = array_spec(x)
    return lay(x, PartitionSpec(layout[0], None, *layout[2:]))


def placed(leaf: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
    """The shape and type of `leaf` (an array or its abstract stand-in), lying as `sharding` says."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
