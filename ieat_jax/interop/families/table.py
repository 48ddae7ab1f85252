"""A family's tensors as a table: our name, the names that it has there, and both layouts; used both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ieat_jax.interop.containers.source import ArraySource, TensorSource, check_tensors
from ieat_jax.interop.families.llm import Leaf


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
    """Entries of tensors that are alone: names within a part, and where they begin on both sides."""
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


def read(table: Table, source: TensorSource) -> Iterator[tuple[str, np.ndarray]]:
    """(our name, float32 array), one array at a time; `source` has been checked.

    Raises:
        InteropError: a tensor is not finite.
    """
    for name, entry in table.items():
        if not entry.stacked:
            yield name, entry.leaf.to_ours(source.get(entry.theirs[0]))
            continue
        stacked = np.empty(entry.shape, np.float32)
        for row, theirs in zip(stacked, entry.theirs, strict=True):
            row[...] = entry.leaf.to_ours(source.get(theirs))
        yield name, stacked


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
