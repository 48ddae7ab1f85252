import pytest

from ieat_jax import evaluate
from ieat_jax.errors import UserError


def test_run_names():
    assert [name for name, _ in evaluate._named(["a=x/one", "x/two"])] == ["a", "two"]
    with pytest.raises(UserError, match="'a' is empty or given twice"):
        evaluate._named(["a=x", "a=y"])


def test_report_of_a_folder_that_was_not_scored(tmp_path):
    with pytest.raises(UserError, match=r"has no metrics.json"):
        evaluate.main(["report", "--runs", f"a={tmp_path}", "--out", str(tmp_path / "r.html")])


def test_score_of_a_missing_checkpoint_is_an_error_for_people(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        evaluate.main(
            ["score", "--checkpoint", str(tmp_path / "nowhere"), "--records", "r.jsonl", "--out", str(tmp_path)]
        )
