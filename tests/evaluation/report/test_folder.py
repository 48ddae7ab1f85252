import json

import pytest

from ieat_jax.errors import UserError
from ieat_jax.evaluation.report.folder import read_scored

GOOD = {"dialogue_id": "d", "turn_id": 1, "text": "Oh no.", "sample": {"heard": "samples/a.wav"}}


def scored(folder, *lines, metrics="{}", training=None):
    (folder / "metrics.json").write_text(metrics)
    (folder / "predictions.jsonl").write_bytes(b"".join(lines))
    if training is not None:
        (folder / "training.jsonl").write_bytes(training)
    return read_scored("a", folder)


def line(**changes):
    return json.dumps(GOOD | changes).encode() + b"\n"


def test_a_good_folder(tmp_path):
    read = scored(tmp_path, line(), b"\n", line(turn_id=2), training=b'{"step": 1}\n{"step": 2, "lo')
    assert [each["turn_id"] for each in read.predictions] == [1, 2]
    assert read.training == [{"step": 1}]  # copied while the run was writing


@pytest.mark.parametrize("path", ["/etc/hostname", "../other/a.wav", "samples/../../a.wav", "C:\\a.wav", "a\0.wav"])
def test_a_sample_outside_of_the_folder_is_not_read(tmp_path, path):
    with pytest.raises(UserError, match=r"predictions.jsonl:2: sample.said .* is no file of the scored folder"):
        scored(tmp_path, line(), line(sample={"said": path}))


def test_a_sample_behind_a_link_that_leads_out_is_not_read(tmp_path):
    folder = tmp_path / "scored"
    folder.mkdir()
    (folder / "samples").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"sample.heard 'samples/a.wav' is no file"):
        scored(folder, line())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"turn_id": "<script>"}, "turn_id"), ({"turn_id": True}, "turn_id"), ({"turn_id": None}, "turn_id"),
     ({"dialogue_id": ["d"]}, "dialogue_id"), ({"text": 3}, "text"), ({"think": {}}, "think"),
     ({"gold_emotion": []}, "gold_emotion"), ({"transcript": 1.5}, "transcript"), ({"sample": []}, "sample"),
     ({"sample": None}, "sample"), ({"sample": {"heard": 1}}, "sample.heard")],
)  # fmt: skip
def test_a_prediction_of_another_form_names_line_and_field(tmp_path, changes, message):
    with pytest.raises(UserError, match=rf"predictions.jsonl:1: .*{message}"):
        scored(tmp_path, line(**changes))


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]\n", b"\xff\n", b'{"turn_id": ' + b"9" * 5000 + b"}\n", b"[" * 100_000, b'"text"\n', b"\x00\n"],
)
def test_lines_that_are_no_objects_name_file_and_line(tmp_path, content):
    with pytest.raises(UserError, match=r"predictions.jsonl:2: is not"):
        scored(tmp_path, line(), content)
    with pytest.raises(UserError, match=r"training.jsonl:1: is not"):
        scored(tmp_path, line(), training=content.rstrip(b"\n") + b"\n{}\n")


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 100_000])
def test_metrics_that_are_none(tmp_path, content):
    with pytest.raises(UserError, match=r"metrics.json: is not .*; score the run again"):
        scored(tmp_path, metrics=content)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    scored(tmp_path, line())

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(UserError, match=r"metrics.json: cannot be read \(Permission denied\)"):
        read_scored("a", tmp_path)
