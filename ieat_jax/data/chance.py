"""Random numbers that are a function of what they are for: no generator, no order, whole arrays at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Pick = Callable[[str, int], int]  # (what is chosen, number of choices) -> choice

# SplitMix64 (Steele, Lea and Flood: Fast Splittable Pseudorandom Number Generators, 2014).
_STEP, _FIRST, _SECOND = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniform(*keys: Any) -> np.ndarray:
    """Numbers in [0, 1), one for every combination of whole `keys` of at least 0, which broadcast: float64."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2 ** 64 is meant
        state = np.zeros((), np.uint64)
        for key in keys:
            state = _mixed((state ^ np.asarray(key).astype(np.uint64)) + _STEP)
    return (state >> np.uint64(11)) * 2.0**-53


def _mixed(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def chooser(rng: np.random.Generator) -> Pick:
    """The choices of a generator, in the order in which they are asked for."""
    return lambda _, count: int(rng.integers(count))
