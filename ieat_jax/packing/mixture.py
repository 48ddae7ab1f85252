"""Which record is example i: shuffled sources, mixed by weights, as pure functions of (seed, i)."""

from __future__ import annotations

from collections.abc import Sequence

import grain
import numpy as np

ENDLESS = 1 << 46  # examples, more than any run asks for
MOST_TIMES = 20  # that a record comes up in an epoch


class Mixture:
    """The endless sequence of (source, record) pairs of a run.

    `records[s]`: the records of source s that can be used, in order, each as often as `balanced` says. An epoch is as
    many examples as there are in all of them, drawn by weight: each once where one source is alone, or the weights are
    as the sources' sizes; else some sources come up more often than once, and others less.
    """

    def __init__(self, records: Sequence[np.ndarray], weights: Sequence[float], seed: int):
        self._records = list(records)
        parts = [_endless(number, len(indices), seed + number) for number, indices in enumerate(records)]
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
