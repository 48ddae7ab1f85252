"""Which pieces share a row: best fit decreasing, over several budgets at once."""

from __future__ import annotations

import numpy as np


def best_fit_decreasing(sizes: np.ndarray, room: np.ndarray) -> list[list[int]]:
    """Bins of the pieces `sizes` [n, budgets], none above `room` [budgets], as lists of piece numbers.

    The largest piece comes first; each goes where the least is left of the budgets, of which those count most that are
    most asked for (Panigrahy et al.: Heuristics for Vector Bin Packing, 2011, section 3.2).
    """
    room = np.asarray(room, np.float64)
    shares = sizes / np.maximum(room, 1)
    demand = shares.sum(axis=0)
    weights = demand**4 / max((demand**4).sum(), 1e-30)
    order = np.argsort(-(shares @ weights), kind="stable")
    free = np.empty((len(sizes), len(room)))
    bins: list[list[int]] = []
    for piece in order:
        left = free[: len(bins)] - shares[piece]
        fits = np.flatnonzero((left >= -1e-9).all(axis=1))
        if len(fits):
            best = int(fits[np.argmin(left[fits] @ weights)])
        else:
            best = len(bins)
            bins.append([])
            free[best] = 1.0
        bins[best].append(int(piece))
        free[best] -= shares[piece]
    return bins
