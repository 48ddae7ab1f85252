import numpy as np
import pytest

from ieat_jax.errors import UserError
from ieat_jax.evaluation.controls import balanced_sources
from ieat_jax.evaluation.statistics import uar


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
