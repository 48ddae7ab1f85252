import dataclasses
import json
from pathlib import Path

import pytest
import soundfile
from helpers import tiny_corpus as corpus
from helpers import tiny_run
from helpers.answers import item, reply

from ieat_jax.audio.codec import CodecError
from ieat_jax.data.labels import EMOTIONS
from ieat_jax.errors import UserError
from ieat_jax.evaluation import score as score_module
from ieat_jax.evaluation.items import understand
from ieat_jax.evaluation.measure import Measure
from ieat_jax.evaluation.predict import Predictions, ScoreOptions
from ieat_jax.evaluation.report.folder import read_scored
from ieat_jax.evaluation.score import measure_all, needed, score, write_scores

HAPPY = EMOTIONS.index("happy")
OPTIONS = ScoreOptions(
    speak=2, asr=False, samples=2, batch_size=4, max_think=7, max_response=6, max_speech_seconds=0.64
)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    records = corpus.write(folder, corpus.records())
    run = folder / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_module, "open_run", lambda path, step=None: tiny_run.make_run(path=path))
        metrics = score(run, records, folder / "out", OPTIONS)
    return metrics, folder / "out"


def test_score_writes_metrics_predictions_training_and_samples(scored):
    metrics, out = scored
    read = read_scored("run", out)
    assert (read.metrics["n"], read.metrics["skipped"], read.metrics["step"], read.metrics["stage"]) == (
        4,
        0,
        5,
        "joint",
    )
    assert read.metrics["emotion"]["n"] == 2
    assert set(read.metrics["controls"]) == {"silence", "shuffled"}
    assert read.metrics["controls"]["silence"]["n"] == 2
    assert read.metrics["style"]["n"] == 4
    assert read.metrics["cause"]["n"] == 1
    assert read.training == [{"step": 1, "loss": 2.0}]
    assert [line["dialogue_id"] for line in read.predictions] == ["p1", "p2", "d1", "d1"]
    assert read.predictions[3]["gold_emotion"] == "sad"
    kept = [line["sample"] for line in read.predictions if "sample" in line]
    assert len(kept) == 2
    heard, rate = soundfile.read(out / kept[0]["heard"])
    assert (len(heard), rate) == (len(tiny_run.voice(0)), 16000)
    assert all((out / sample["said"]).is_file() for sample in kept)
    assert metrics["seconds"] > 0


def test_unit_accuracy_counts_sound_of_the_annotated_turn_only(scored):
    units = scored[0]["units"]
    assert units["n"] == 11
    assert units["unigram"] == pytest.approx(1 / 11)
    assert 0 <= units["accuracy"] <= 1


def test_units_of_another_codec_are_an_error(tmp_path, monkeypatch):
    records = corpus.records()
    records[2]["ieat_meta"]["codec"]["hash"] = "other"
    path = corpus.write(tmp_path, records)
    monkeypatch.setattr(score_module, "open_run", lambda path, step=None: tiny_run.make_run())
    with pytest.raises(CodecError, match="units of another codec"):
        score(tmp_path, path, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_records_without_a_usable_turn_are_an_error_that_names_them(tmp_path, monkeypatch, capsys):
    path = corpus.write(tmp_path, [corpus.record("a", [corpus.turn(1, "sad", "audio/gone.wav")])])
    monkeypatch.setattr(score_module, "open_run", lambda path, step=None: tiny_run.make_run())
    with pytest.raises(UserError, match="no turn can be scored"):
        score(Path("run"), path, tmp_path / "out", OPTIONS)
    assert "skipped a turn 1" in capsys.readouterr().err


def test_what_another_score_left_does_not_stay(tmp_path):
    predictions = Predictions([item(HAPPY)], [understand(reply(""))])
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    write_scores(tmp_path / "out", run, {"n": 1}, predictions, 0)
    assert read_scored("a", tmp_path / "out").training
    (run / "metrics.jsonl").unlink()
    write_scores(tmp_path / "out", run, {"n": 2}, predictions, 0)
    read = read_scored("a", tmp_path / "out")
    assert (read.training, read.metrics["n"]) == ([], 2)


# Python's splitlines() ends a line at each of these; JSON leaves them as they are.
SEPARATORS = ("\u2028", "\u2029", "\x85", "\x1c", "\x0b", "\x0c", "\r")


@pytest.mark.parametrize("separator", SEPARATORS)
def test_any_character_in_texts_and_ids_is_read_again(tmp_path, separator):
    text = f"one{separator}two"
    odd = dataclasses.replace(item(HAPPY), dialogue_id=text, transcript=text, response=text)
    predictions = Predictions([odd, item(HAPPY)], [understand(reply(text, text)), understand(reply("", "\0"))])
    write_scores(tmp_path, tmp_path, {"n": 2}, predictions, 1)
    first, second = read_scored("a", tmp_path).predictions
    assert {first[key] for key in ("dialogue_id", "transcript", "reference_text", "think", "text")} == {text}
    assert second["text"] == "\0"


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(score_module, "open_run", lambda path, step=None: pytest.fail("began the work"))
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "below" / "it"):
        with pytest.raises(UserError, match=r"file: is a file; --out .* has to be a folder"):
            score(tmp_path, tmp_path / "r.jsonl", out, OPTIONS)


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = corpus.write(tmp_path, corpus.records()[:1])
    monkeypatch.setattr(score_module, "open_run", lambda path, step=None: tiny_run.make_run(path=path))
    monkeypatch.setattr(score_module, "predict", lambda *_: Predictions([item(HAPPY)], [understand(reply(""))]))
    monkeypatch.setattr(score_module, "write_scores", full)
    with pytest.raises(UserError, match=r"out: cannot be written \(No space left on device\)"):
        score(tmp_path / "run", path, tmp_path / "out", OPTIONS)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("limit", -1, "--limit is -1"), ("speak", -1, "--speak"), ("samples", -2, "--samples"), ("seed", -1, "--seed"),
     ("seed", 2**32, "at most"), ("batch_size", 0, "--batch-size"), ("max_think", 0, "--max-think"),
     ("max_response", 0, "--max-response"), ("max_speech_seconds", float("inf"), "finite"),
     ("max_speech_seconds", float("nan"), "above 0"), ("max_speech_seconds", 0.0, "above 0")],
)  # fmt: skip
def test_options_out_of_range_are_named(field, value, message):
    with pytest.raises(UserError, match=message):
        ScoreOptions(**{field: value})


def test_a_measure_runs_where_all_that_it_needs_was_predicted():
    def measure(name, needs, uses=()):
        return Measure(name, 1, lambda _: {name: 1}, (), frozenset(needs), frozenset(uses))

    measures = [measure("a", ()), measure("b", {"thinking"}), measure("c", {"thinking", "units"}, {"controls"})]
    assert needed(measures) == {"thinking", "units", "controls"}
    predictions = Predictions([], [], frozenset({"thinking", "speech"}))
    assert measure_all(predictions, measures) == {"a": 1, "b": 1}
    with pytest.raises(ValueError, match="measure 'a': another one has figures"):
        measure_all(predictions, measures[:1] * 2)


def test_no_number_that_json_lacks_is_written(tmp_path):
    nan = float("nan")
    write_scores(tmp_path, tmp_path, {"a": nan, "b": {"c": [nan, 1.0]}}, Predictions([], []), 0)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": None, "b": {"c": [None, 1.0]}}


def test_score_tells_how_far_it_is(tmp_path, monkeypatch, capsys):
    path = corpus.write(tmp_path, corpus.records())
    monkeypatch.setattr(score_module, "open_run", lambda path, step=None: tiny_run.make_run(path=path))
    score(tmp_path / "run", path, tmp_path / "out", dataclasses.replace(OPTIONS, controls=False, speak=1))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [f"loading {tmp_path / 'run'}", "reading turns: 4 to do"]
    assert {"units, teacher-forced: dialogues: 3 to do", "replies: 3 to do", "spoken replies"} <= set(lines)


TURN = corpus.turn(1, "sad", None)
NOTHING = {
    "no file": None,
    "no lines": [],
    "blank lines": ["", "  "],
    "bad lines": ["{", '{"dialogue_id": "a"}'],
    "no sound": [json.dumps(corpus.record("a", [TURN])), json.dumps(corpus.record("b", [TURN, TURN | {"turn_id": 2}]))],
}


@pytest.mark.parametrize("name", NOTHING)
def test_records_that_hold_nothing_to_score_are_refused_before_a_model_is_loaded(name, tmp_path, monkeypatch):
    monkeypatch.setattr(score_module, "open_run", lambda path, step=None: pytest.fail("loaded a model"))
    path = tmp_path / "test.jsonl"
    if NOTHING[name] is not None:
        path.write_text("".join(f"{line}\n" for line in NOTHING[name]))
    with pytest.raises(UserError, match=r"test\.jsonl: (there is no such file|holds no records|no turn can be scored)"):
        score(tmp_path / "run", path, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()
