"""From records to batches, without state: the global batch of step k is a pure function of (config, k).

    shuffle -> mixture by weights -> dialogues (audio, thinking) -> packed rows -> this host's rows -> batch

Every example draws its random choices from (seed, global example index), and hosts take their rows last, so the same
global batches come out for any number of hosts, and resuming needs nothing but the step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from ieat_jax.data.batch import Batch, stack
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record
from ieat_jax.data.rows import RowMaker, RowSpec
from ieat_jax.data.sources.jsonl import DataError, Source


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


def make_batches(
    sources: Sequence[Source],
    spec: RowSpec,
    quarantine: Quarantine,
    *,
    batch_size: int,
    steps: int,
    host: int = 0,
    hosts: int = 1,
) -> grain.MapDataset:
    """A dataset whose element k is this host's part of the global batch of step k, for `steps` steps.

    Raises:
        DataError: no records, or a batch that does not divide over the hosts.
    """
    if spec.pack < 1:
        raise DataError(f"config.data.pack = {spec.pack}: a row holds at least 1 dialogue")
    if batch_size % hosts:
        raise DataError(
            f"config.data.batch_size = {batch_size} does not divide over {hosts} processes; choose a multiple of them"
        )
    needed = steps * batch_size * spec.pack
    parts = []
    for number, source in enumerate(sources):
        if not source.records:
            raise DataError(f"{source.name}: holds no usable record")
        repeats = balanced(source.records, spec.balance)
        keys = [(number, index) for index, count in enumerate(repeats) for _ in range(count)]
        epochs = needed // len(keys) + 1  # of each alone as many as the whole run could ask for
        parts.append(grain.MapDataset.source(keys).seed(spec.seed + number).shuffle().repeat(epochs))
    mixed = parts[0]
    if len(parts) > 1:
        mixed = grain.MapDataset.mix(parts, weights=[source.weight for source in sources])
    rows = mixed.batch(spec.pack, batch_fn=np.asarray).map_with_index(RowMaker(sources, spec, quarantine))
    return HostRows(rows, batch_size, host, hosts).batch(batch_size // hosts, batch_fn=stack).slice(slice(steps))


def balanced(records: Sequence[Record], balance: float) -> list[int]:
    """How often each record comes up in an epoch: (records of the most frequent emotion / of its own) ** balance.

    A dialogue counts for the emotion of its last turn; rounded, and at most 20.
    """
    labels = [record.turns[-1].emotion for record in records]
    counts = Counter(labels)
    most = max(counts.values())
    return [min(round((most / counts[label]) ** balance), 20) for label in labels]


def prefetched(batches: grain.MapDataset, first: int, *, threads: int = 2, buffer: int = 4) -> Iterator[Batch]:
    """The batches from step `first` on, read ahead by threads."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
    return iter(batches.slice(slice(first, len(batches))).to_iter_dataset(options))
