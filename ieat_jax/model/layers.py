"""Linear, norms, embedding and MLPs. Parameters are float32; a layer computes in the type of its input.

Every parameter knows the names of its dimensions (`sharding.AXES`), and is gathered over fsdp where it is used. The
names leave out the leading layer dimension of stacked layers (`stack`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from ieat_jax.model.sharding import array_spec, gather, lay, out_sharding, spec, without

Names = tuple[str | None, ...]


def normal(key: jax.Array, shape: Sequence[int], names: Names, stddev: float) -> nnx.Param:
    """A float32 parameter drawn from a normal distribution."""
    value = stddev * jax.random.normal(key, tuple(shape), jnp.float32, out_sharding=out_sharding(spec(*names)))
    return nnx.Param(value)


def constant(value: float, shape: Sequence[int], names: Names) -> nnx.Param:
    """A float32 parameter filled with one value."""
    return nnx.Param(jnp.full(tuple(shape), value, jnp.float32, out_sharding=out_sharding(spec(*names))))


class Linear(nnx.Module):
    """Dense layer over the last `len(inputs)` dimensions of its input.

    Kernel [*inputs, *outputs], optional bias [*outputs]. LoRA (`lora.py`) adds lora_scale * lora_a [*inputs, rank]
    lora_b [rank, *outputs] to the kernel.
    """

    def __init__(
        self,
        inputs: int | Sequence[int],
        outputs: int | Sequence[int],
        key: jax.Array,
        *,
        bias: bool = False,
        names: tuple[Names, Names] = (("embed",), (None,)),
        gain: float = 1.0,
    ):
        """Kernel: standard deviation gain / sqrt(inputs); bias: zero; `names`: of input and of output dimensions."""
        inputs, outputs = _shape(inputs), _shape(outputs)
        self.in_names, self.out_names = names
        self.kernel = normal(key, inputs + outputs, self.in_names + self.out_names, gain / math.sqrt(math.prod(inputs)))
        self.bias = constant(0.0, outputs, self.out_names) if bias else None
        self.lora_a = nnx.data(None)  # a pytree node, so that `add_lora` can fill it
        self.lora_b = nnx.data(None)
        self.lora_scale = 0.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., *inputs] -> [..., *outputs]."""
        y = _contract(x, self.kernel.get_value(), self.in_names, self.out_names)
        if self.lora_a is not None:
            low = _contract(x, self.lora_a.get_value(), self.in_names, (None,))
            y = y + self.lora_scale * _contract(low, self.lora_b.get_value(), (None,), self.out_names)
        if self.bias is not None:
            y = y + gather(self.bias.get_value(), self.out_names, x.dtype)
        return y


def _shape(sizes: int | Sequence[int]) -> tuple[int, ...]:
    return (sizes,) if isinstance(sizes, int) else tuple(sizes)


def _contract(x: jax.Array, kernel: jax.Array, in_names: Names, out_names: Names) -> jax.Array:
    """Contract the last dimensions of `x` with the first of `kernel`; the leading ones of `x` keep their layout."""
    n = len(in_names)
    kernel = gather(kernel, in_names + out_names, x.dtype)
    lead = array_spec(x)[: x.ndim - n]
    dims = (tuple(range(x.ndim - n, x.ndim)), tuple(range(n)))
    layout = PartitionSpec(*lead, *array_spec(kernel)[n:])
    return jax.lax.dot_general(x, kernel, (dims, ((), ())), out_sharding=out_sharding(layout))


Layer = TypeVar("Layer", bound=nnx.Module)


def stack(make: Callable[[jax.Array], Layer], count: int, key: jax.Array) -> Layer:
    """`count` layers `make(key)` as one: every parameter has a leading layer dimension, ready for `jax.lax.scan`."""
    # A loop, not vmap: XLA compiles batched random numbers more than twice as long, and this is most of start-up.
    return jax.lax.map(make, jax.random.split(key, count))


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last dimension, or the last two as one, computed in float32."""

    def __init__(self, width: int | tuple[int, int], eps: float = 1e-6, first: str | None = None):
        """`width` (heads, head_dim): over both; `first`: name of the first of two dimensions."""
        shape = _shape(width)
        self.eps, self.axes = eps, tuple(range(-len(shape), 0))
        self.scale = constant(1.0, shape, (None,) if len(shape) == 1 else (first, None))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., *width] -> the same shape and type."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=self.axes, keepdims=True) + self.eps)
        return (y.astype(x.dtype)) * self.scale.get_value().astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm over the last dimension with scale and bias, computed in float32."""

    def __init__(self, width: int, eps: float = 1e-5):
        self.eps = eps
        self.scale = constant(1.0, (width,), (None,))
        self.bias = constant(0.0, (width,), (None,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] -> the same shape and type."""
        y = standardise(x.astype(jnp.float32), self.eps)
        return (y * self.scale.get_value() + self.bias.get_value()).astype(x.dtype)


def standardise(x: jax.Array, eps: float) -> jax.Array:
    """Zero mean and unit variance over the last dimension: layer norm without parameters."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)


def embed(table: jax.Array, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows of `table` [V, D] for `ids` [...] -> [..., D] in `dtype`; ids must be in range (clip them first)."""
    # Every device looks up its part of D for all rows of its fsdp group, then they exchange: moving the rows that are
    # used is far less than gathering the table. Gradients are added up in the table's own type.
    layout = array_spec(ids)
    together = without(layout, "fsdp")
    rows = table.at[lay(ids, together)].get(mode="clip", out_sharding=out_sharding(PartitionSpec(*together, "fsdp")))
    return lay(rows.astype(dtype), PartitionSpec(*layout, None))


class GatedMLP(nnx.Module):
    """SwiGLU MLP without bias: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int, key: jax.Array, *, gain: float = 1.0):
        gate, up, down = jax.random.split(key, 3)
        into, out = (("embed",), ("mlp",)), (("mlp",), ("embed",))
        self.gate = Linear(width, hidden, gate, names=into)
        self.up = Linear(width, hidden, up, names=into)
        self.down = Linear(hidden, width, down, names=out, gain=gain)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class MLP(nnx.Module):
    """Whisper's MLP: down(gelu(up(x))), exact GELU, with biases."""

    def __init__(self, width: int, hidden: int, key: jax.Array):
        up, down = jax.random.split(key)
        self.up = Linear(width, hidden, up, bias=True, names=(("embed",), ("mlp",)))
        self.down = Linear(hidden, width, down, bias=True, names=(("mlp",), ("embed",)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        return self.down(jax.nn.gelu(self.up(x), approximate=False))
