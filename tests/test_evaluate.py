import json
import subprocess
import sys

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


def scored(folder, line):
    folder.mkdir()
    (folder / "metrics.json").write_text('{"step": 1, "n": 1, "cause": {"value": 0.5}}')
    (folder / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def ask(*arguments):
    """Exit code and what stands on stderr, as a user sees it."""
    command = [sys.executable, "-m", "ieat_jax.evaluate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def test_what_cannot_be_reported_ends_in_one_sentence(tmp_path):
    good = scored(tmp_path / "good", {"dialogue_id": "d", "turn_id": 1})
    bad = scored(tmp_path / "bad", {"dialogue_id": "d", "turn_id": 1, "sample": {"heard": "/etc/hostname"}})
    code, said = ask("report", "--runs", good, "--out", tmp_path)
    assert (code, said.count("\n")) == (2, 0)
    assert said.startswith(f"error: {tmp_path}: is a folder; --out")
    code, said = ask("report", "--runs", bad, "--out", tmp_path / "r.html")
    assert (code, said.count("\n")) == (2, 0)
    assert "bad/predictions.jsonl:1: sample.heard '/etc/hostname' is no file of the scored folder" in said


def test_a_report_is_written_and_its_table_printed(tmp_path, capsys):
    folder = scored(tmp_path / "a", {"dialogue_id": "one\u2028two\x85", "turn_id": 1, "text": "x", "sample": {}})
    assert evaluate.main(["report", "--runs", f"a={folder}", "--out", str(tmp_path / "r.html")]) == 0
    assert "0.500" in capsys.readouterr().out
    assert "0.500" in (tmp_path / "r.html").read_text()


def test_score_options_out_of_range_are_named(tmp_path):
    arguments = ["score", "--checkpoint", str(tmp_path), "--records", "r.jsonl", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="--seed is -1; it must be at least 0"):
        evaluate.main([*arguments, "--seed", "-1"])
