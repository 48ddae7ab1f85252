import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from ieat_jax.errors import UserError
from ieat_jax.evaluation.measure import Measure, Row
from ieat_jax.evaluation.measures import all_measures
from ieat_jax.evaluation.report.folder import read_scored
from ieat_jax.evaluation.report.page import write_report
from ieat_jax.evaluation.report.table import print_table


def _scored(folder, uar, words="I lost my keys <b>& more</b>"):
    samples = folder / "samples"
    samples.mkdir(parents=True)
    time = np.arange(8000) / 16000
    for name in ("heard", "said"):
        soundfile.write(samples / f"d1_1_{name}.wav", 0.3 * np.sin(2 * np.pi * 440 * time), 16000)
    metrics = {
        "step": 10,
        "n": 6,
        "emotion": {
            "uar": uar, "low": uar - 0.1, "high": uar + 0.1, "chance": 1 / 3, "n": 6,
            "classes": ["neutral", "happy", "sad"], "confusion": [[2, 0, 0, 0], [0, 1, 0, 1], [0, 2, 0, 0]],
        },
        "controls": {"silence": {"uar": 0.33, "low": 0.3, "high": 0.4, "chance": 1 / 3, "n": 6}},
        "units": {"accuracy": 0.2, "unigram": 0.05, "n": 100},
        "speech": {"wer": None, "n": 0},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    prediction = {
        "dialogue_id": "d1", "turn_id": 1, "gold_emotion": "happy", "predicted_emotion": "sad", "transcript": words,
        "think": "The user feels sad.", "text": "Oh no.", "think_closed": True, "reference_text": "Great!",
        "sample": {"heard": "samples/d1_1_heard.wav", "said": "samples/d1_1_said.wav"},
    }  # fmt: skip
    (folder / "predictions.jsonl").write_text(json.dumps(prediction) + "\n")
    lines = [{"step": step, "loss": 3.0 / (step + 1), "learning_rate": 0.1} for step in range(5)]
    (folder / "training.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return read_scored(folder.name, folder)


class _Checker(HTMLParser):
    VOID = {"meta", "img", "br", "line", "circle", "polyline"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_is_one_well_formed_self_contained_accessible_page(tmp_path):
    runs = [_scored(tmp_path / "write", 0.4), _scored(tmp_path / "align", 0.8)]
    out = tmp_path / "new" / "report.html"
    write_report(runs, out, all_measures())
    text = out.read_text()
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.tags.count("audio") == 3  # heard once, said by each run
    assert not re.search(r"(src|href)=[\"'](https?:|//|\w+/)", text), "the page must not load anything"
    for tag, attributes in checker.attributes:
        if tag == "img":
            assert attributes["alt"]
        if tag in ("audio", "svg"):
            assert attributes["aria-label"]
    assert "+0.400" in text  # the change from the run before
    assert "<b>& more" not in text
    assert "&lt;b&gt;&amp; more" in text
    assert "prefers-color-scheme: dark" in text


def test_table_names_runs_and_measures(tmp_path, capsys):
    print_table([_scored(tmp_path / "write", 0.4)], all_measures())
    printed = capsys.readouterr().out
    assert "write" in printed
    assert "0.400" in printed
    assert "Word error" not in printed  # not measured: no row


def test_folder_without_metrics_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no metrics.json; write it with `python -m ieat_jax.evaluate score"):
        read_scored("a", tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_scored("a", tmp_path)


def _page(runs, folder):
    write_report(runs, folder / "report.html", all_measures())
    return (folder / "report.html").read_text()


def test_a_measure_brings_its_own_row_and_the_report_knows_no_name(tmp_path, capsys):
    run = _scored(tmp_path / "write", 0.4)
    run.metrics["asks_back"] = {"value": 0.25, "low": 0.125, "high": 0.375}
    row = Row("Replies that ask <back>", ("asks_back", "value"), "up", "n = {n}", ".1%")
    measures = [Measure("asks_back", 1, lambda _: {}, (row,), method="A reply asks back by a question mark.")]
    print_table([run], measures)
    printed = capsys.readouterr().out
    assert "Replies that ask <back>" in printed
    assert "25.0%  [0.12 to 0.38]" in printed
    assert "Emotion" not in printed
    write_report([run], tmp_path / "report.html", measures)
    text = (tmp_path / "report.html").read_text()
    assert "Replies that ask &lt;back&gt;" in text
    assert "A reply asks back by a question mark." in text
    assert "Emotion in the thinking" not in text


def test_names_with_markup_are_shown_as_they_are(tmp_path, capsys):
    run = dataclasses.replace(_scored(tmp_path / "write", 0.4), name="[/x][red]<i>")
    print_table([run], all_measures())
    assert "[/x][red]<i>" in capsys.readouterr().out
    assert "<i>" not in _page([run], tmp_path)


def test_an_interval_that_begins_at_zero_is_drawn_from_zero(tmp_path):
    run = _scored(tmp_path / "write", 0.4)
    run.metrics["emotion"]["low"] = 0.0
    assert re.search(r'<line class="range s0" x1="210.0"', _page([run], tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"confusion": [["<script>", 0, 0, 0]] * 3},
        {"confusion": [[1, 2]]},
        {"confusion": "many"},
        {"classes": ["a", "b", 3]},
        {"confusion": [[-1, 0, 0, 0]] * 3},
    ],
)
def test_a_confusion_matrix_that_is_none_is_a_sentence(tmp_path, change):
    run = _scored(tmp_path / "write", 0.4)
    run.metrics["emotion"] |= change
    with pytest.raises(UserError, match=r"'write'\): emotion of metrics.json holds no confusion matrix"):
        _page([run], tmp_path)


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, "x", None, True, [1], {"a": 1}])
def test_numbers_that_no_axis_holds_are_left_out(tmp_path, value):
    run = _scored(tmp_path / "write", 0.4)
    run.training[:] = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": value}, {"step": value, "loss": 2.0}]
    run.metrics["emotion"]["uar"] = value
    assert "losses" in _page([run], tmp_path)


def test_a_sample_that_is_no_sound_is_said_to_be_none(tmp_path):
    run = _scored(tmp_path / "write", 0.4)
    (run.folder / "samples/d1_1_heard.wav").write_bytes(b"RIFF and then nothing")
    soundfile.write(run.folder / "samples/d1_1_said.wav", np.zeros((800, 2)), 20)
    text = _page([run], tmp_path)
    assert "d1_1_heard.wav cannot be read" in text
    assert "d1_1_said.wav is no sound of at most" in text
    (run.folder / "samples/d1_1_said.wav").unlink()
    assert "d1_1_said.wav is missing" in _page([run], tmp_path)


def test_stereo_is_played_as_one_channel(tmp_path):
    run = _scored(tmp_path / "write", 0.4)
    soundfile.write(run.folder / "samples/d1_1_said.wav", np.ones((8000, 2)) / 2, 16000)
    assert _page([run], tmp_path).count("<audio") == 2


def test_halves_of_character_pairs_do_not_stop_the_page(tmp_path):
    run = _scored(tmp_path / "write", 0.4, words="a \ud83d b")
    assert "a ? b" in _page([run], tmp_path)


def test_the_page_goes_to_a_file(tmp_path):
    run = _scored(tmp_path / "write", 0.4)
    with pytest.raises(UserError, match=r"is a folder; give --out the HTML file to write, .*report.html say"):
        write_report([run], tmp_path, all_measures())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/r.html cannot be written"):
        write_report([run], tmp_path / "file" / "r.html", all_measures())
