"""From records to batches, without state: the global batch of step k is a pure function of (config, k).

    mixture of shuffled sources -> planned rows (sizes alone) -> this host's rows (audio, thinking) -> batch

Every example draws its random choices from (seed, global example index), rows are planned before anything is decoded,
and hosts take their rows last, so the same global batches come out for any number of hosts and readers, and going on
needs nothing but the position of the plan.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import grain
import jax
import numpy as np

from ieat_jax.data.batch import Batch, stack
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.source import Source
from ieat_jax.data.sources.store import DataError
from ieat_jax.packing.mixture import Mixture, balanced
from ieat_jax.packing.plan import Plan, Position
from ieat_jax.packing.rows import Bad, Row, RowMaker
from ieat_jax.packing.signs import Signs
from ieat_jax.packing.spec import RowSpec
from ieat_jax.packing.tables import make_tables


@functools.partial(jax.tree_util.register_dataclass, data_fields=["batch"], meta_fields=["bad", "account"])
@dataclasses.dataclass(frozen=True)
class Step:
    """What a host reads for a step."""

    batch: Batch  # this host's rows
    bad: tuple[Bad, ...]  # records that are not whole in them
    account: tuple[tuple[int, np.ndarray], ...]  # of the rows of all hosts, see `account.Account.add`


class HostRows(grain.MapDataset):
    """The rows of one host of every global batch, in order."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, host: int, hosts: int):
        super().__init__(parent)
        self._batch, self._local, self._host = batch_size, batch_size // hosts, host

    def __len__(self) -> int:
        return len(self._parent) // self._batch * self._local

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        step, row = divmod(index, self._local)
        return self._parent[step * self._batch + self._host * self._local + row]


def make_plan(
    sources: Sequence[Source], spec: RowSpec, quarantine: Quarantine, position: Position | None = None
) -> Plan:
    """Measure all records, set the bad ones aside, and plan the rows.

    Raises:
        DataError: a source without a usable record.
        QuarantineError: too many records are bad.
    """
    tables, usable = [], []
    for source in sources:
        if not len(source):
            raise DataError(f"{source.name}: holds no usable record")
        table = make_tables(source, spec, quarantine)
        tables.append(table)
        if spec.balance:
            repeats = balanced(source.index["emotion"][table.usable], spec.balance)
            usable.append(np.repeat(table.usable, repeats))
        else:
            usable.append(table.usable)
    mixture = Mixture(usable, [source.weight for source in sources], spec.seed)
    return Plan(mixture, tables, spec, position)


def make_batches(
    sources: Sequence[Source],
    spec: RowSpec,
    plan: Plan,
    *,
    batch_size: int,
    steps: int,
    host: int = 0,
    hosts: int = 1,
    signs: Signs | None = None,
) -> grain.MapDataset:
    """A dataset whose element k is the `Step` k of this host, for `steps` steps; from the plan's position on.

    Those who read tell `signs` what they are at.

    Raises:
        DataError: a batch that does not divide over the hosts.
    """
    if batch_size % hosts:
        raise DataError(
            f"config.data.batch_size = {batch_size} does not divide over {hosts} processes; choose a multiple of them"
        )
    offset = plan.position.row - plan.position.step * batch_size  # another batch size before shifts the rows
    maker = RowMaker(sources, spec, plan, signs)
    rows = grain.MapDataset.range(steps * batch_size).map(lambda row: maker(int(row) + offset))
    local = HostRows(rows, batch_size, host, hosts).batch(batch_size // hosts, batch_fn=list)

    def step(number: int, rows: list[Row]) -> Step:
        first = number * batch_size + offset
        bad = tuple(bad for row in rows for bad in row.bad)
        return Step(stack([row.batch for row in rows]), bad, tuple(plan.account(first, first + batch_size)))

    return local.map_with_index(step).slice(slice(steps))
