"""Arrays that were made before, within a limit of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

MAX_BYTES = 256 << 20  # of a process: 87 minutes of log-mels of 128 bands


class ArrayMemory:
    """A function that returns arrays, which remembers those that were asked for last; for any number of threads."""

    def __init__(self, make: Callable[..., np.ndarray], max_bytes: int = MAX_BYTES):
        """`make`: from hashable arguments to an array; an error that it raises is not remembered."""
        self._make, self._max_bytes = make, max_bytes
        self._kept: OrderedDict[tuple[Hashable, ...], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, *key: Hashable) -> np.ndarray:
        """The array of these arguments; it must not be changed."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        array = self._make(*key)
        if array.base is not None:  # a part of a larger array would keep all of it
            array = array.copy()
        array.flags.writeable = False
        with self._lock:
            if array.nbytes <= self._max_bytes and key not in self._kept:
                self._kept[key] = array
                self._bytes += array.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return array
