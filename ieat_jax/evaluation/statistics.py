"""Scores from labels and predictions: confusion, UAR and proportions with bootstrap intervals.

A prediction of -1 (no valid answer) is an answer of its own: it counts as wrong and has its own column in the
confusion matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Uar:
    """Unweighted average recall over the classes that occur, with a bootstrap 95 % interval."""

    value: float
    low: float
    high: float
    chance: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """JSON form."""
        return {"uar": self.value, "low": self.low, "high": self.high, "chance": self.chance, "n": self.n}


def confusion(gold: Sequence[int], predicted: Sequence[int], classes: int) -> np.ndarray:
    """Counts [classes, classes + 1], rows gold, columns predicted, the last column 'no valid answer' (-1)."""
    gold, predicted = np.asarray(gold, int), np.asarray(predicted, int)
    counts = np.zeros((classes, classes + 1), int)
    np.add.at(counts, (gold, np.where((predicted < 0) | (predicted >= classes), classes, predicted)), 1)
    return counts


def _average_recall(counts: np.ndarray) -> np.ndarray:
    """Confusion [..., K, K+1] -> mean recall over the rows that hold anything [...]."""
    totals = counts.sum(axis=-1)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    recall = np.where(totals > 0, hits / np.maximum(totals, 1), 0.0)
    return recall.sum(axis=-1) / np.maximum((totals > 0).sum(axis=-1), 1)


def uar(gold: Sequence[int], predicted: Sequence[int], classes: int, *, seed: int = 0, draws: int = 2000) -> Uar:
    """UAR with a percentile bootstrap over items, drawn within each class so that no class is lost from a draw."""
    counts = confusion(gold, predicted, classes)
    n = int(counts.sum())
    present = int((counts.sum(axis=1) > 0).sum())
    if n == 0:
        return Uar(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    recalls = []
    for label, row in enumerate(counts):
        if row.sum():
            recalls.append(rng.binomial(row.sum(), row[label] / row.sum(), size=draws) / row.sum())
    low, high = np.percentile(np.mean(recalls, axis=0), [2.5, 97.5])
    return Uar(float(_average_recall(counts)), float(low), float(high), 1.0 / present, n)


def proportion(hits: Sequence[bool], *, seed: int = 0, draws: int = 2000) -> dict[str, float]:
    """Share of true values with a bootstrap 95 % interval: {'value', 'low', 'high', 'n'}."""
    n = len(hits)
    if n == 0:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    share = float(np.mean(np.asarray(hits, bool)))
    low, high = np.percentile(np.random.default_rng(seed).binomial(n, share, size=draws) / n, [2.5, 97.5])
    return {"value": share, "low": float(low), "high": float(high), "n": n}
