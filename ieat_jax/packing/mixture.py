"""Which record is example i: shuffled sources, mixed by weights, as pure functions of (seed, i)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import grain
import numpy as np

from ieat_jax.data.records import Record

ENDLESS = 1 << 46  # examples, more than any run asks for


class Mixture:
    """The endless sequence of (source, record) pairs of a run.

    `records[s]`: the records of source s that can be used, in order, each as often as `balanced` says. An epoch is as
    many examples as there are in all of them, drawn by weight: each once where one source is alone, or the weights are
    as the sources' sizes; else some sources come up more often than once, and others less.
    """

    def __init__(self, records: Sequence[np.ndarray], weights: Sequence[float], seed: int):
        parts = []
        for number, indices in enumerate(records):
            keys = np.stack([np.full_like(indices, number), indices], axis=1)
            parts.append(grain.MapDataset.source(keys).seed(seed + number).shuffle().repeat(ENDLESS // len(keys)))
        self._mixed = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights=list(weights))
        self.epoch = sum(map(len, records))  # examples
        drawn = [self.epoch * weight / sum(weights) for weight in weights]  # of every source, in an epoch
        # How often an epoch draws each record of a source; within one draw of once is once.
        self.often = [
            1.0 if abs(count - len(indices)) < 1 else count / len(indices)
            for count, indices in zip(drawn, records, strict=True)
        ]

    def keys(self, first: int, last: int) -> np.ndarray:
        """(source, record) of the examples `first` to `last` - 1: [n, 2]."""
        return np.stack([self._mixed[index] for index in range(first, last)])


def balanced(records: Sequence[Record], balance: float) -> np.ndarray:
    """How often each record comes up in an epoch: (records of the most frequent emotion / of its own) ** balance.

    A dialogue counts for the emotion of its last turn; rounded, and at most 20.
    """
    labels = [record.turns[-1].emotion for record in records]
    counts = Counter(labels)
    most = max(counts.values())
    return np.array([min(round((most / counts[label]) ** balance), 20) for label in labels], np.int64)
