import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from ieat_jax.errors import UserError
from ieat_jax.evaluation.report.page import print_table, read_scored, write_report


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
    write_report(runs, out)
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
    print_table([_scored(tmp_path / "write", 0.4)])
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
