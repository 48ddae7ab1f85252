"""A measure of a user's that cannot be used, or that fails, costs itself alone, and is named with its file."""

import json
import re
import sys

import pytest
from helpers import tiny_corpus as corpus
from helpers import tiny_run
from helpers.answers import item, reply

from ieat_jax import evaluate
from ieat_jax.errors import UserError
from ieat_jax.evaluation import measures
from ieat_jax.evaluation.items import understand
from ieat_jax.evaluation.measure import Measure, MeasureError, Row
from ieat_jax.evaluation.measures import all_measures
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.report.folder import read_scored
from ieat_jax.evaluation.score import measure_all, write_scores

HEAD = "from ieat_jax.evaluation.measure import Measure, Row\n\n\ndef own(predictions):\n    "
ROW = 'Row("Own", ("own",), "up", "mine")'


def source(body="return {'own': 1}", **fields):
    """The text of a measure's file; `fields` replace those of its MEASURE, as code."""
    given = {"name": "'own'", "order": "99", "measure": "own", "rows": f"({ROW},)", "method": "'M.'"} | fields
    return f"{HEAD}{body}\n\n\nMEASURE = Measure({', '.join(f'{key}={value}' for key, value in given.items())})\n"


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Puts a file beside the measures of the package, as a user does, and forgets it afterwards."""
    folder = tmp_path / "beside"
    folder.mkdir()
    monkeypatch.setattr(measures, "__path__", [str(folder), *measures.__path__])

    def add(text, name="own"):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"{measures.__name__}.{name}", raising=False)
        all_measures.cache_clear()
        return folder / f"{name}.py"

    yield add
    monkeypatch.undo()
    for name in ("own", "other"):
        sys.modules.pop(f"{measures.__name__}.{name}", None)
    all_measures.cache_clear()


BROKEN = {
    "no MEASURE": "x = 1\n",
    "another thing": "MEASURE = 3\n",
    "no Python": "def own(:\n",
    "an import that fails": "import nowhere_at_all\n",
    "it raises": "raise RuntimeError('no')\n",
    "it ends": "1 / 0\n",
    "no rows": source(rows=ROW),
    "a comma forgotten": source(rows=f"({ROW})"),
    "no function": source(measure="3"),
    "needs of a misspelt kind": source(needs="frozenset({'thinkin'})"),
    "needs that are no set": source(needs="'thinking'"),
    "no name": source(name="''"),
    "order of text": source(order="'last'"),
    "no method": source(method="None"),
    "an argument too few": f"{HEAD}return {{}}\n\n\nMEASURE = Measure('own', 99)\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_measure_is_named(name, added, tmp_path):
    file = added(BROKEN[name])
    with pytest.raises(MeasureError, match=rf"^{re.escape(str(file))}(, line \d+)?: .*; mend the file, or take it out"):
        all_measures()
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=re.escape(str(file))):
        evaluate.main(["report", "--runs", str(tmp_path / "scores"), "--out", str(tmp_path / "r.html")])


def test_two_measures_of_a_name_are_refused(added):
    added(source())
    added(source(order="98"), "other")
    with pytest.raises(MeasureError, match="2 measures have the name 'own'; rename one"):
        all_measures()


FAILING = {
    "raises": ("return {'own': 1 / 0}", r"line 5\): ZeroDivisionError"),
    "asserts": ("assert False, 'no'", r"line 5\): AssertionError: no"),
    "reads what is not there": ("return predictions.nothing", r"line 5\): AttributeError"),
    "returns nothing": ("pass", "returned None"),
    "returns a number": ("return 0.5", r"returned 0\.5"),
    "keys of numbers": ("return {1: 2}", "returned {1: 2}"),
    "no JSON": ("return {'own': {1, 2}}", "cannot be written as JSON"),
    "a circle": ("made = {}\n    made['own'] = made\n    return made", "cannot be written as JSON"),
    "another's key": ("return {'style': 1}", "another one has figures"),
    "score's key": ("return {'step': 1}", "another one has figures"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_measure_that_fails_costs_itself_alone(name, added):
    body, told = FAILING[name]
    added(source(body))
    predictions = Predictions([item(0, style="happy")], [understand(reply("The user feels sad."))], {"thinking"})
    failed = {}
    figures = measure_all(predictions, all_measures(), failed, taken=("step",))
    without = measure_all(predictions, [each for each in all_measures() if each.name != "own"])
    assert figures == without
    assert list(failed) == ["own"]
    assert re.search(told, failed["own"])
    assert "measure 'own'" in failed["own"]
    assert "\n" not in failed["own"]


def test_figures_of_numpy_are_written(added):
    added(source("import numpy as np\n    return {'own': np.float32(1), 'owns': [np.arange(2), np.nan, np.bool_(1)]}"))
    predictions = Predictions([item(0)], [understand(reply(""))])
    figures = measure_all(predictions, all_measures())
    assert {"own", "owns"} <= set(figures)


def run_score(tmp_path):
    """`evaluate score` of a tiny run on disk."""
    path = corpus.write(tmp_path, corpus.records()[:2])
    run = tiny_run.save_run(tmp_path / "run")
    small = ["--no-asr", "--speak", "0", "--no-controls", "--max-think", "4", "--max-response", "4"]
    arguments = ["--checkpoint", str(run), "--records", str(path), "--out", str(tmp_path / "scores")]
    return lambda: evaluate.main(["score", *arguments, *small])


def test_score_keeps_predictions_and_all_other_figures(added, tmp_path, capsys):
    file = added(source("return {'own': 1 / 0}"))
    with pytest.raises(UserError, match=rf"score: measure 'own' \({file}, line 5\): Zero.* All else is in .*scores"):
        run_score(tmp_path)()
    read = read_scored("a", tmp_path / "scores")
    assert len(read.predictions) == 2
    assert {"emotion", "style", "think_format"} <= set(read.metrics)
    assert list(read.metrics["failed"]) == ["own"]
    added(source())
    assert evaluate.main(["report", "--runs", str(tmp_path / "scores"), "--out", str(tmp_path / "r.html")]) == 0
    for shown in (capsys.readouterr().out, (tmp_path / "r.html").read_text()):
        assert "ZeroDivisionError" in shown


def test_what_dies_in_measuring_leaves_the_predictions(added, tmp_path):
    """Ctrl+C, or memory that ends: hours of replies are there already."""
    added(source("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        run_score(tmp_path)()
    lines = (tmp_path / "scores" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["dialogue_id"] for line in lines] == ["p1", "p2"]
    assert not (tmp_path / "scores" / "metrics.json").exists()


def test_a_measure_that_is_newer_than_the_scores_is_said_to_be(tmp_path, capsys, added):
    known = {"n": 1, "measures": [each.name for each in all_measures()], "cause": {"value": 0.5}}
    write_scores(tmp_path / "a", tmp_path, known, Predictions([], []), 0)
    write_scores(tmp_path / "old", tmp_path, {"n": 1, "cause": {"value": 0.5}}, Predictions([], []), 0)
    report = ["report", "--runs", str(tmp_path / "a"), str(tmp_path / "old"), "--out", str(tmp_path / "r.html")]
    assert evaluate.main(report) == 0
    assert "not in these scores" not in capsys.readouterr().out
    added(source())
    assert evaluate.main(report) == 0
    for shown in (capsys.readouterr().out, (tmp_path / "r.html").read_text()):
        assert "a: not in these scores: own; run score again" in shown


def test_a_measure_with_nothing_to_count_is_no_failure():
    nothing = Measure("own", 1, lambda _: {}, (Row("Own", ("own",), "up", "x"),))
    failed = {}
    assert measure_all(Predictions([], []), [nothing], failed) == {}
    assert failed == {}
