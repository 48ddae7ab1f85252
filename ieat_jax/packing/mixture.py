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

    `records[s]`: the records of source s that can be used, in order, each as often as an epoch holds it.
    """

    def __init__(self, records: Sequence[np.ndarray], weights: Sequence[float], seed: int):
        parts = []
        for number, indices in enumerate(records):
            keys = np.stack([np.full_like(indices, number), indices], axis=1)
            parts.append(grain.MapDataset.source(keys).seed(seed + number).shuffle().repeat(ENDLESS // len(keys)))
        self._mixed = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights=list(weights))
        self.epoch = sum(map(len, records))  # examples

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
