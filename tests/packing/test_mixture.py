"""Which record is example i: in an order that no version changes, far on as at the beginning, in little memory."""

import time
import tracemalloc

import numpy as np
import pytest

from ieat_jax.data.labels import EMOTIONS
from ieat_jax.packing.mixture import Mixture, balanced


def test_the_order_is_that_of_the_runs_of_before():
    alone = Mixture([np.arange(40)], [1.0], seed=3)
    assert alone.keys(10**9, 10**9 + 5).tolist() == [[0, 20], [0, 19], [0, 9], [0, 17], [0, 4]]
    two = Mixture([np.arange(40), np.arange(7)], [1.0, 0.3], seed=3)
    assert two.keys(10**9, 10**9 + 5).tolist() == [[0, 27], [0, 11], [0, 3], [1, 5], [0, 35]]


def test_every_record_comes_once_an_epoch_as_often_as_it_is_named():
    records = np.array([3, 5, 5, 9])
    mixture = Mixture([records], [1.0], seed=0)
    for epoch in range(5):
        assert sorted(mixture.keys(epoch * 4, epoch * 4 + 4)[:, 1]) == [3, 5, 5, 9]


def test_a_mixture_of_many_records_takes_no_more_than_their_numbers():
    records = np.arange(10_000_000)
    tracemalloc.start()
    began = time.perf_counter()
    mixture = Mixture([records, records[:1000]], [3.0, 1.0], seed=1)
    keys = mixture.keys(10**11, 10**11 + 100)
    assert time.perf_counter() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert (keys[:, 0] == 1).sum() == 25


@pytest.mark.parametrize(("balance", "repeats"), [(0.0, [1, 1, 1]), (0.5, [1, 1, 2]), (1.0, [1, 2, 6])])
def test_rare_emotions_come_up_more_often(balance, repeats):
    labels = ["sad"] * 6 + ["happy"] * 3 + ["fear"]
    found = balanced(np.array([EMOTIONS.index(label) for label in labels], np.int8), balance)
    assert [found[0], found[6], found[9]] == repeats


def test_the_unknown_emotion_is_one_like_another_and_nothing_comes_up_for_ever():
    found = balanced(np.array([-1] * 100 + [2] * 50 + [3], np.int8), 1.0)
    assert [found[0], found[100], found[150]] == [1, 2, 20]
