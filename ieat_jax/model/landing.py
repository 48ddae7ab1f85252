"""How loaded arrays come to lie on devices: piece by piece, so that the host never holds a large one as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ieat_jax.model.abstract import place

NO_MESH = jax.sharding.Mesh(np.empty((), object), ())
AT_ONCE = 1 << 26  # numbers of an array that is put together on the host: 256 MiB of float32


class Piece(NamedTuple):
    """A block of a parameter. All pieces of one follow each other, and together they are all of it."""

    name: str
    start: tuple[int, ...]  # of the block in the parameter
    array: np.ndarray  # as many dimensions as the parameter has


def whole(pieces: Iterable[Piece], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every parameter, put together on the host; one at a time is in memory."""
    for name, parts in itertools.groupby(pieces, key=lambda piece: piece.name):
        yield name, _filled(shapes[name], parts)


def land(
    pieces: Iterable[Piece], wanted: Mapping[str, jax.ShapeDtypeStruct], *, at_once: int = AT_ONCE
) -> Iterator[tuple[str, jax.Array]]:
    """(name, array on its devices) of every parameter; the host holds `at_once` numbers, or one piece, at a time.

    Args:
        pieces: of parameters of `wanted`.
        wanted: shapes, and the places where the parameters shall lie.
        at_once: numbers of an array that goes to its devices in one piece.
    """
    for name, parts in itertools.groupby(pieces, key=lambda piece: piece.name):
        leaf = wanted[name]
        if leaf.size > at_once:
            yield name, _landed(leaf, parts)
        else:
            yield name, place(_filled(leaf.shape, parts), leaf)


def _filled(shape: tuple[int, ...], parts: Iterable[Piece]) -> np.ndarray:
    array = None
    for _, start, block in parts:
        if block.shape == tuple(shape):
            return block
        if array is None:
            array = np.empty(shape, np.float32)
        array[tuple(slice(at, at + size) for at, size in zip(start, block.shape, strict=True))] = block
    return array


def _landed(leaf: jax.ShapeDtypeStruct, parts: Iterable[Piece]) -> jax.Array:
    """Every device has its own block of the array, and of each piece what lies in that block is written into it."""
    blocks = [_Block(leaf, *item) for item in leaf.sharding.addressable_devices_indices_map(leaf.shape).items()]
    for _, start, piece in parts:
        for block in blocks:
            block.write(start, piece)
        jax.block_until_ready([block.array for block in blocks])  # no more than one piece is under way
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, [block.array for block in blocks])


class _Block:
    """What one device has of an array."""

    def __init__(self, leaf: jax.ShapeDtypeStruct, device: jax.Device, index: tuple[slice, ...]):
        self.device = device
        self.limits = [each.indices(size)[:2] for each, size in zip(index, leaf.shape, strict=True)]
        self.array = jnp.zeros([high - low for low, high in self.limits], leaf.dtype, device=device)

    def write(self, start: tuple[int, ...], piece: np.ndarray) -> None:
        """Write what of a piece, which stands at `start` in the array, lies in this block."""
        inside = [
            (max(low, at), min(high, at + size))
            for (low, high), at, size in zip(self.limits, start, piece.shape, strict=True)
        ]
        if any(begin >= end for begin, end in inside):
            return
        mine = piece[tuple(slice(begin - at, end - at) for (begin, end), at in zip(inside, start, strict=True))]
        to = [np.int32(begin - low) for (begin, _), (low, _) in zip(inside, self.limits, strict=True)]
        with jax.set_mesh(NO_MESH):  # one device at a time, whatever mesh is in use
            self.array = _write(
                self.array, jax.device_put(np.ascontiguousarray(mine, self.array.dtype), self.device), to
            )


def _update(array: jax.Array, piece: jax.Array, start: list[Any]) -> jax.Array:
    return jax.lax.dynamic_update_slice(array, piece, start)


_write = jax.jit(_update, donate_argnums=0)
