"""The name of a run's folder is a name, and a step is set aside for nothing that lies outside of it."""

import pytest
from helpers.saved_arrays import arrays, assert_same_bits, shapes, three_steps

from ieat_jax.errors import UserError
from ieat_jax.runs import arrays as stored
from ieat_jax.runs.checkpoints import (
    CheckpointError,
    Checkpoints,
    load_frozen,
    save_frozen,
)

# Orbax leaves coroutines of failed loads behind.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


NAMES = (
    "lr=[1e-3]",
    "[!a]",
    "st*ar",
    "wh?at",
    "a{b,c}",
    "per%20cent",
    "ha#sh",
    "$HOME",
    "quo'te\"",
    "spa ce",
    "ünï",
    "~",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_folder_is_not_a_pattern(tmp_path, name):
    items = arrays()
    for other in ("star", "what", "l", "a"):  # what such patterns would find
        save_frozen(tmp_path / other / "frozen", arrays(seed=1)["trainable"])
    with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
        checkpoints.save(1, items, {})
    with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
        assert_same_bits(checkpoints.restore(None, shapes(items)).items, items)
    save_frozen(tmp_path / name / "frozen", items["trainable"])
    assert_same_bits(load_frozen(tmp_path / name / "frozen", shapes(items["trainable"])), items["trainable"])


def test_a_name_that_can_not_be_held_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="takes the backslash in this path for a slash"):
        Checkpoints(tmp_path / "a\\b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "cause", [KeyError("param_name"), TypeError("of a newer Orbax"), OSError(24, "too many files")]
)
def test_a_step_whose_files_are_intact_is_never_set_aside(tmp_path, monkeypatch, cause):
    items = three_steps(tmp_path / "c")[2]

    def fail(*arguments, **options):
        raise cause

    with Checkpoints(tmp_path / "c") as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(stored.ocp, "load_checkpointables", fail)
            with pytest.raises(
                CheckpointError, match=r"c/3: cannot be read now .*nothing says that its files are damaged"
            ):
                checkpoints.restore(None, shapes(items))
        assert checkpoints.restore(None, shapes(items)).step == 3
