"""A 32-bit fingerprint of an array, computed on its devices: Orbax has no checksum for array data.

Equal for equal bits on every mesh; any change of a single element changes it. Every element is mixed with its place,
and the results are added modulo 2^32, which no order of addition can change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

UINTS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


@jax.jit
def fingerprint(x: jax.Array) -> jax.Array:
    """Array of any shape and type -> uint32."""
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    # Eight-byte elements become two of four bytes, in a new last dimension.
    bits = jax.lax.bitcast_convert_type(x, UINTS[x.dtype.itemsize]).astype(jnp.uint32)
    stride = 1
    for dimension in reversed(range(bits.ndim)):
        size = bits.shape[dimension]
        place = jnp.arange(size, dtype=jnp.uint32) * np.uint32(stride * 0x9E3779B1 & 0xFFFFFFFF)
        bits = bits ^ place.reshape((size,) + (1,) * (bits.ndim - 1 - dimension))
        stride *= size
    # Steps that can be undone (murmur3's finaliser): two different elements at one place stay different.
    bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
    return jnp.sum(bits ^ (bits >> 16), dtype=jnp.uint32)


def fingerprints(arrays: Mapping[str, Any]) -> dict[str, int]:
    """{name: fingerprint} on the host; every process gets the same numbers."""
    # Moments have the shapes and layouts of their parameters, so that one function per array compiles less than one
    # for all. With many of them in flight, collectives of fake CPU devices wait for each other for ever.
    one_by_one = jax.default_backend() == "cpu"
    found = {}
    with jax.set_mesh(None):  # an array may be on one device although training uses a mesh
        for name, array in arrays.items():
            found[name] = fingerprint(array)
            if one_by_one:
                found[name].block_until_ready()
        return {name: int(np.asarray(value)) for name, value in found.items()}
