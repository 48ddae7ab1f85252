import numpy as np
import pytest

from ieat_jax.evaluation.statistics import confusion, proportion, uar


def test_confusion_counts_invalid_answers_in_their_own_column():
    counts = confusion([0, 0, 1, 1], [0, -1, 1, 0], 3)
    assert counts.tolist() == [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_uar_averages_recall_over_present_classes_and_not_over_items():
    score = uar([0] * 9 + [1], [0] * 10, 3)
    assert score.value == pytest.approx(0.5)
    assert score.chance == pytest.approx(0.5)
    assert score.n == 10


def test_uar_counts_invalid_as_wrong():
    assert uar([0, 1], [-1, -1], 2).value == 0


def test_bootstrap_interval_covers_value_and_narrows_with_n():
    rng = np.random.default_rng(0)

    def score(n):
        gold = np.arange(n) % 6
        return uar(gold, np.where(rng.random(n) < 0.7, gold, (gold + 1) % 6), 6)

    small, large = score(60), score(2400)
    assert small.low <= small.value <= small.high
    assert large.high - large.low < (small.high - small.low) / 3
    assert 0.03 < large.high - large.low < 0.06  # 2 * 1.96 * sqrt(.7 * .3 / 2400) = .037


def test_proportion_of_nothing_is_nan_with_n_zero():
    assert proportion([])["n"] == 0
    assert np.isnan(proportion([])["value"])
