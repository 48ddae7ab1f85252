"""Which record is example i: shuffled sources, mixed by weights, as pure functions of (seed, i)."""

from __future__ import annotations

from collections.abc import Sequence

import grain
import numpy as np

ENDLESS = 1 << 46  # examples, more than any run asks for
MOST_TIMES = 20  # that a record comes up in an epoch


class Mixture:
    """The endless sequence of (source, record) pairs of a run.

    `records[s]`: the records of source s that can be used, in order, each as often as an epoch holds it.
    """

    def __init__(self, records: Sequence[np.ndarray], weights: Sequence[float], seed: int):
        self._records = list(records)
        parts = [_endless(number, len(indices), seed + number) for number, indices in enumerate(records)]
        self._mixed = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights=list(weights))
        self.epoch = sum(map(len, records))  # examples

    def keys(self, first: int, last: int) -> np.ndarray:
        """(source, record) of the examples `first` to `last` - 1: [n, 2]."""
        drawn = (self._mixed[index] for index in range(first, last))
        return np.array([(source, self._records[source][place]) for source, place in drawn], np.int64)


def _endless(source: int, count: int, seed: int) -> grain.MapDataset:
    """(source, place) of its records, shuffled anew in every epoch; nothing is held in memory."""
    shuffled = grain.MapDataset.range(count).seed(seed).shuffle()
    return shuffled.map(lambda place: (source, place)).repeat(ENDLESS // count)


def balanced(emotions: np.ndarray, balance: float) -> np.ndarray:
    """How often each record comes up in an epoch: (records of the most frequent emotion / of its own) ** balance.

    `emotions` [n]: of the last turn of each, as numbers of at least -1 (unknown). Rounded, and at most 20.
    """
    counts = np.bincount(emotions.astype(np.int64) + 1)
    most = int(counts.max())
    times = [min(round((most / int(count)) ** balance), MOST_TIMES) if count else 0 for count in counts]
    return np.array(times, np.int64)[emotions.astype(np.int64) + 1]
