import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import tiny_corpus as corpus
from helpers import tiny_run

from ieat_jax.audio.codec import CodecError
from ieat_jax.data.labels import EMOTIONS
from ieat_jax.errors import UserError
from ieat_jax.evaluation import predict as module
from ieat_jax.evaluation.items import Item
from ieat_jax.evaluation.measures.units import trimmed, true_units, unit_accuracy
from ieat_jax.evaluation.predict import ScoreOptions, control_metrics, score, text_metrics, understand
from ieat_jax.evaluation.report.page import read_scored
from ieat_jax.inference.generator import Reply
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.runs import folder as run_module
from ieat_jax.training.rows import evaluation_batches

HAPPY, SAD, ANGER = (EMOTIONS.index(name) for name in ("happy", "sad", "anger"))
OPTIONS = ScoreOptions(
    speak=2, asr=False, samples=2, batch_size=4, max_think=7, max_response=6, max_speech_seconds=0.64
)


def reply(think, text="I'm so sorry. Take your time.", *, closed=True, ended=True):
    return Reply(think, text, None, None, closed, ended, False, ())


def item(emotion, *, words=-1, cause="", style=None, scores=True, audio=None):
    turn = UserTurn(np.ones(2000, np.float32) if audio is None else audio)
    return Item("d", 1, (turn,), emotion, words, scores, cause, style, "I lost my keys.", "Oh no.")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    records = corpus.write(folder, corpus.records())
    run = folder / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_run", lambda path, step=None: tiny_run.make_run(path=path))
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


def test_unit_accuracy_is_that_of_the_model(tmp_path, monkeypatch):
    run, generator = tiny_run.make_run(), tiny_run.make_generator()
    records = corpus.write(tmp_path, corpus.records())
    batches = list(evaluation_batches(run, records, None, batch_size=4))
    monkeypatch.setattr(
        "ieat_jax.evaluation.measures.units.best_units",
        lambda model, batch, audio: np.broadcast_to([0, 5, 99, 99], (*batch.unit_at.shape, 4)),  # units are 0, 1, 2, ..
    )
    found = unit_accuracy(run.model, generator.listener, batches, 20)
    assert found == {"accuracy": pytest.approx(2 / 11), "unigram": pytest.approx(1 / 11), "n": 11}


def test_units_of_another_codec_are_an_error(tmp_path, monkeypatch):
    records = corpus.records()
    records[2]["ieat_meta"]["codec"]["hash"] = "other"
    path = corpus.write(tmp_path, records)
    monkeypatch.setattr(run_module, "load_run", lambda path, step=None: tiny_run.make_run())
    with pytest.raises(CodecError, match="units of another codec"):
        score(tmp_path, path, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_thinking_is_read_and_counts_when_the_model_closed_it():
    think = 'The user says "I am here". The user feels sad (slight). This is because of "my lost keys".'
    answer = understand(reply(think))
    assert (answer.emotion, answer.readable, answer.cause) == (SAD, True, "my lost keys")
    assert understand(reply(think, closed=False)).emotion == -1
    assert not understand(reply(think, closed=False)).readable
    assert understand(reply("Nonsense.")).emotion == -1
    half = understand(reply("The user feels sad. Nonsense follows."))
    assert (half.emotion, half.readable) == (SAD, False)


def test_text_metrics_of_known_replies():
    sad, happy = "The user feels sad.", "The user feels happy."
    items = [
        item(SAD, cause="lost my keys", style="comfort"),
        item(SAD, words=HAPPY, style="happy"),
        item(HAPPY, words=HAPPY),
        item(HAPPY, scores=False),
    ]
    replies = [
        reply(sad + " This is because I lost a bag."),
        reply(happy),
        reply(sad, closed=False),
        reply("", ended=False),
    ]
    metrics = text_metrics(items, [understand(each) for each in replies], OPTIONS)
    assert metrics["emotion"]["uar"] == pytest.approx((1 / 2 + 0) / 2)
    assert metrics["emotion"]["accuracy"] == pytest.approx(1 / 3)
    assert metrics["emotion"]["chance"] == pytest.approx(1 / 2)
    assert metrics["emotion"]["classes"] == list(EMOTIONS)
    counts = metrics["emotion"]["confusion"]
    assert (counts[SAD][SAD], counts[SAD][HAPPY], counts[HAPPY][len(EMOTIONS)]) == (1, 1, 1)
    assert metrics["style"]["value"] == pytest.approx(1 / 2)
    assert metrics["cause"] == {"value": pytest.approx(1 / 2), "n": 1}
    assert (metrics["text_dominance"]["value"], metrics["text_dominance"]["n"]) == (1.0, 1)
    assert metrics["think_format"]["value"] == pytest.approx(1 / 2)
    assert metrics["response_ended"]["value"] == pytest.approx(3 / 4)
    without = text_metrics(items, [understand(each) for each in replies], dataclasses.replace(OPTIONS, think=False))
    assert set(without) == {"response_ended", "style"}
    unstyled = text_metrics([item(SAD)], [understand(reply(sad))], OPTIONS)
    assert not {"style", "cause", "text_dominance"} & set(unstyled)


class _Hears:
    """Answers by the clip: its first sample is the emotion; counts what it is asked."""

    def __init__(self):
        self.asked = []

    def reply(self, dialogues, *, max_response):
        self.asked.append(len(dialogues))
        names = {HAPPY: "happy", SAD: "sad", ANGER: "angry", 0: "neutral"}
        return [reply(f"The user feels {names[round(float(turns[-1].audio[0]))]}.") for turns in dialogues]


def test_controls_of_a_model_that_listens_fall_to_chance():
    gold = [HAPPY, SAD, ANGER] * 6
    items = [item(label, audio=np.full(2000 + 10 * n, label, np.float32)) for n, label in enumerate(gold)]
    model = _Hears()
    found = control_metrics(model, items, OPTIONS)
    assert found["shuffled"]["uar"] == pytest.approx(1 / 3)
    assert found["silence"]["uar"] == 0  # it hears silence as neutral
    assert model.asked == [1, 18]  # equal silent dialogues are answered once
    assert control_metrics(model, items[:1], OPTIONS) == {}


def test_a_model_without_speak_is_never_asked_to_speak():
    class Writes:
        model, codec = tiny_run.make_run(speaks=False).model, None

        def reply(self, dialogues, *, think, speech):
            assert speech == "none"
            return [reply("", str(len(turns))) for turns in dialogues]

    items = [item(SAD), item(HAPPY)]
    assert module.chosen_to_speak(Writes(), 2, OPTIONS) == []
    assert [each.text for each in module.reply_all(Writes(), items, [], OPTIONS)] == ["1", "1"]


def test_records_without_a_usable_turn_are_an_error_that_names_them(tmp_path, monkeypatch, capsys):
    path = corpus.write(tmp_path, [corpus.record("a", [corpus.turn(1, "sad", "audio/gone.wav")])])
    monkeypatch.setattr(run_module, "load_run", lambda path, step=None: tiny_run.make_run())
    with pytest.raises(UserError, match="no turn can be scored"):
        score(Path("run"), path, tmp_path / "out", OPTIONS)
    assert "skipped a turn 1" in capsys.readouterr().err


def test_spoken_replies_are_measured_against_what_was_written(monkeypatch):
    class Whisper:
        def transcribe(self, waveforms):
            return ["i am so very sorry"] * len(waveforms)

    monkeypatch.setattr("ieat_jax.evaluation.measures.asr.WhisperASR", Whisper)
    sound = np.ones(8000, np.float32)
    spoken = [
        dataclasses.replace(reply("", "I am so sorry."), waveform=sound, speech_ended=True),
        dataclasses.replace(reply("", "Oh no."), waveform=np.zeros(0, np.float32)),
        dataclasses.replace(reply("", ""), waveform=sound),
    ]
    found, transcripts = module.speech_metrics([understand(each) for each in spoken], [0, 1, 2])
    assert found["wer"] == pytest.approx((1 + 2) / (4 + 2))  # an insertion; two words that were not said
    assert (found["n"], found["silent"], found["ended"]["value"]) == (2, 1, pytest.approx(1 / 3))
    assert transcripts == {0: "i am so very sorry", 1: ""}


def test_trimming_leaves_out_padding_only(tmp_path):
    spoken = corpus.turn(1, "sad", "audio/1.wav", units=list(range(11)))
    records = corpus.write(tmp_path, [corpus.record("d", [spoken], codec=tiny_run.StubCodec().identity())])
    batch = next(iter(evaluation_batches(tiny_run.make_run(), records, None, batch_size=4)))
    cut = trimmed(batch)
    for name, used in (("segment_ids", batch.segment_ids > 0), ("speak_ids", batch.speak_ids > 0)):
        size = getattr(cut, name).shape[1]
        assert size < used.shape[1]
        assert not used[:, size:].any()
    assert (true_units(cut) >= 0).sum() == (true_units(batch) >= 0).sum() == 12  # 11 units and the end
    assert cut.speak_units.shape[:2] == cut.speak_state.shape
