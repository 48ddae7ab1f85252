"""A family's tensors as a table: our name, the names that it has there, and both layouts; used both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ieat_jax.interop.containers.source import ArraySource, TensorSource, check_tensors
from ieat_jax.model.landing import Piece


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One tensor on both sides. A kernel is [*inputs, *outputs] here and [outputs, inputs] there."""

    theirs: str  # name; a layer's without `model.layers.N.`
    shape: tuple[int, ...]  # ours; a layer's without the leading layer dimension
    their_shape: tuple[int, ...]
    transposed: bool

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Their array in our layout."""
        return (array.T if self.transposed else array).reshape(self.shape)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Our array in their layout, contiguous (safetensors writes bytes as they lie)."""
        array = array.reshape(self.their_shape[::-1]).T if self.transposed else array.reshape(self.their_shape)
        return np.ascontiguousarray(array)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of ours: a tensor there, or a stack of as many as there are names."""

    leaf: Leaf  # of one tensor
    theirs: tuple[str, ...]
    stacked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Ours, with the dimension of the stack."""
        return (len(self.theirs), *self.leaf.shape) if self.stacked else self.leaf.shape


Table = Mapping[str, Entry]


def single(leaves: Mapping[str, Leaf], ours: str, theirs: str) -> dict[str, Entry]:
    """Entries of tensors that are alone: names within a part, and where they begin on both sides.

    Both shapes of each are the same, or each other's reverse.
    """
    return {ours + name: Entry(leaf, (theirs + leaf.theirs,), False) for name, leaf in leaves.items()}


def stack(leaves: Mapping[str, Leaf], ours: str, theirs: str, numbers: range) -> dict[str, Entry]:
    """Entries of layers, or what else is numbered: `{}` in `theirs` is a layer's number, one of `numbers`."""
    return {
        ours + name: Entry(leaf, tuple(theirs.format(number) + leaf.theirs for number in numbers), True)
        for name, leaf in leaves.items()
    }


def our_shapes(table: Table) -> dict[str, tuple[int, ...]]:
    """{our name: shape}."""
    return {name: entry.shape for name, entry in table.items()}


def their_shapes(table: Table) -> dict[str, tuple[int, ...]]:
    """{their name: shape}."""
    return {name: entry.leaf.their_shape for entry in table.values() for name in entry.theirs}


def pieces(table: Table, source: TensorSource) -> Iterator[Piece]:
    """Our float32 arrays, a layer or a block of rows of theirs at a time; `source` has been checked.

    Raises:
        InteropError: tensors are not finite.
    """
    for name, entry in table.items():
        if not entry.stacked:
            yield from (_piece(name, entry.leaf, *block) for block in source.blocks(entry.theirs[0]))
            continue
        for row, theirs in enumerate(entry.theirs):
            yield Piece(name, (row, *(0,) * len(entry.leaf.shape)), entry.leaf.to_ours(source.get(theirs))[None])


def _piece(name: str, leaf: Leaf, first: int, rows: np.ndarray) -> Piece:
    """Rows of theirs from `first` on: the last dimension of ours where it is transposed, else the first."""
    others = (0,) * (rows.ndim - 1)
    return Piece(name, (*others, first), rows.T) if leaf.transposed else Piece(name, (first, *others), rows)


def write(table: Table, named: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, float32 array), one at a time.

    Args:
        table: what is written.
        named: arrays by our names; checked with `check_ours`.
    """
    for name, entry in table.items():
        array = np.asarray(named[name], np.float32)
        for row, theirs in zip(array if entry.stacked else array[None], entry.theirs, strict=True):
            yield theirs, entry.leaf.to_theirs(row)


def check_ours(table: Table, named: Mapping[str, Any], prefix: str) -> None:
    """Check that the parameters whose names begin with `prefix` are those of the table.

    Raises:
        InteropError: some are missing, mis-shaped or unexpected, such as LoRA's that were not merged; lists them.
    """
    mine = {name: value for name, value in named.items() if name.startswith(prefix)}
    expected = {name: shape for name, shape in our_shapes(table).items() if name.startswith(prefix)}
    check_tensors(ArraySource(mine), expected, where=prefix.rstrip("."))
