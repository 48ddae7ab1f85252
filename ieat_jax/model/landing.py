"""How loaded arrays come to lie on devices: piece by piece, so that the host never holds a large one as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ieat_jax.model.abstract import place

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
    where, there = leaf.sharding.addressable_devices_indices_map(leaf.shape), {}
    bounds = {}
    for device, index in where.items():
        bounds[device] = [each.indices(size)[:2] for each, size in zip(index, leaf.shape, strict=True)]
        there[device] = jnp.zeros([end - begin for begin, end in bounds[device]], leaf.dtype, device=device)
    for _, start, block in parts:
        for device, limits in bounds.items():
            ends = [at + size for at, size in zip(start, block.shape, strict=True)]
            inside = [(max(low, at), min(high, end)) for (low, high), at, end in zip(limits, start, ends, strict=True)]
            if any(begin >= end for begin, end in inside):
                continue
            mine = block[tuple(slice(b - at, e - at) for (b, e), at in zip(inside, start, strict=True))]
            to = [np.int32(begin - low) for (begin, _), (low, _) in zip(inside, limits, strict=True)]
            there[device] = _write(there[device], jax.device_put(np.ascontiguousarray(mine, leaf.dtype), device), to)
        jax.block_until_ready(list(there.values()))  # no more than one piece is under way
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, list(there.values()))


def _update(array: jax.Array, block: jax.Array, start: list[Any]) -> jax.Array:
    return jax.lax.dynamic_update_slice(array, block, start)


_write = jax.jit(_update, donate_argnums=0)
