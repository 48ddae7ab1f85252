import numpy as np
import pytest

from ieat_jax.errors import UserError
from ieat_jax.evaluation.measures.controls import balanced_sources
from ieat_jax.evaluation.statistics import confusion, content_recall, content_words, proportion, uar


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


def test_content_words_leave_function_words_out():
    assert content_words("This is because I lost my keys this morning.") == {"lost", "keys", "morning"}
    assert content_words("我丢了钥匙") == {"我丢", "丢了", "了钥", "钥匙"}


def test_content_recall():
    assert content_recall("I lost my keys", "They lost the wallet.") == pytest.approx(0.5)
    assert content_recall("it is", "anything") is None


@pytest.mark.parametrize("per_class", [6, 12, 40])
def test_shuffle_gives_every_true_class_clips_of_all_classes_evenly(per_class):
    labels = [label for label in range(6) for _ in range(per_class)]
    sources = balanced_sources(labels, seed=3)
    assert all(source != index for index, source in enumerate(sources))
    counts = np.zeros((6, 6), int)
    for index, source in enumerate(sources):
        counts[labels[index], labels[source]] += 1
    assert counts.max() - counts.min() <= 1
    if per_class % 6 == 0:
        assert sorted(sources) == list(range(len(labels)))


def test_shuffle_of_a_model_that_hears_only_the_clip_scores_chance():
    labels = [label for label in range(6) for _ in range(36)]
    sources = balanced_sources(labels)
    assert uar(labels, [labels[source] for source in sources], 6).value == pytest.approx(1 / 6)


def test_shuffle_unbalanced_and_single_clip_classes():
    labels = [0] * 7 + [1] + [2] * 3
    sources = balanced_sources(labels)
    assert all(source != index and source >= 0 for index, source in enumerate(sources))
    with pytest.raises(UserError, match="at least 2 clips"):
        balanced_sources([0])
