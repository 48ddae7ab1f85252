"""What is remembered of arrays, and that it stays within its limit."""

import threading

import numpy as np
import pytest

from ieat_jax.audio.logmel import clip_log_mel
from ieat_jax.data.memory import ArrayMemory

SIZE = 1000  # bytes of an array


def counting(made, **fields):
    def make(number):
        made.append(number)
        return np.full(SIZE // 4, number, np.float32)

    return ArrayMemory(make, **fields)


def test_what_was_asked_for_last_is_not_made_again():
    made = []
    memory = counting(made, max_bytes=3 * SIZE)
    for number in (1, 2, 3, 1, 4, 1, 3):  # 4 takes the place of 2
        assert (memory(number) == number).all()
    assert made == [1, 2, 3, 4]
    assert (memory(2) == 2).all()
    assert made == [1, 2, 3, 4, 2]


@pytest.mark.parametrize("limit", [0, SIZE - 1, SIZE, 10 * SIZE + 5])
def test_no_more_bytes_are_held_than_allowed(limit):
    memory = counting([], max_bytes=limit)
    rng = np.random.default_rng(0)
    for number in rng.integers(0, 40, 300):
        memory(int(number))
        assert sum(array.nbytes for array in memory._kept.values()) == memory._bytes <= limit


def test_a_clip_does_not_keep_its_whole_window():
    clip = clip_log_mel(np.ones(1600, np.float32), num_mels=80, window_seconds=30.0)
    assert clip.base is None
    kept = ArrayMemory(lambda: np.zeros((3000, 80), np.float32)[:10])()
    assert (kept.base, kept.nbytes) == (None, 3200)
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1


def test_errors_are_not_remembered():
    tries = []

    def make():
        tries.append(1)
        if len(tries) == 1:
            raise OSError("for a moment")
        return np.zeros(3)

    memory = ArrayMemory(make)
    with pytest.raises(OSError, match="for a moment"):
        memory()
    assert len(memory()) == 3


def test_threads_share_it():
    memory = counting([], max_bytes=5 * SIZE)
    wrong = []

    def ask(seed):
        for number in np.random.default_rng(seed).integers(0, 12, 2000):
            if not (memory(int(number)) == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(array.nbytes for array in memory._kept.values()) == memory._bytes <= 5 * SIZE
