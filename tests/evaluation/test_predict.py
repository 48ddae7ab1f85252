import dataclasses

import numpy as np
import pytest
from helpers import tiny_corpus as corpus
from helpers import tiny_run
from helpers.answers import item, measured, reply

from ieat_jax.data.labels import EMOTIONS
from ieat_jax.evaluation import predict as module
from ieat_jax.evaluation.items import read_items, understand
from ieat_jax.evaluation.predict import ScoreOptions, answer_controls, predict

HAPPY, SAD, ANGER = (EMOTIONS.index(name) for name in ("happy", "sad", "anger"))
OPTIONS = ScoreOptions(
    speak=2, asr=False, samples=2, batch_size=4, max_think=7, max_response=6, max_speech_seconds=0.64
)


class _Hears:
    """Answers by the clip: its first sample is the emotion; counts what it is asked."""

    def __init__(self):
        self.asked = []

    def reply(self, dialogues, *, max_response, done):
        self.asked.append(len(dialogues))
        names = {HAPPY: "happy", SAD: "sad", ANGER: "angry", 0: "neutral"}
        return [reply(f"The user feels {names[round(float(turns[-1].audio[0]))]}.") for turns in dialogues]


def test_controls_of_a_model_that_listens_fall_to_chance():
    gold = [HAPPY, SAD, ANGER] * 6
    items = [item(label, audio=np.full(2000 + 10 * n, label, np.float32)) for n, label in enumerate(gold)]
    model = _Hears()
    controls = answer_controls(model, items, OPTIONS)
    answers = [reply("")] * len(items)
    found = measured(items, answers, controls=controls)["controls"]
    assert found["shuffled"]["uar"] == pytest.approx(1 / 3)
    assert found["silence"]["uar"] == 0  # it hears silence as neutral
    assert model.asked == [1, 18]  # equal silent dialogues are answered once
    assert answer_controls(model, items[:1], OPTIONS) == {}


def test_a_model_without_speak_is_never_asked_to_speak():
    class Writes:
        model, codec = tiny_run.make_run(speaks=False).model, None

        def reply(self, dialogues, *, think, speech, done):
            assert speech == "none"
            return [reply("", str(len(turns))) for turns in dialogues]

    items = [item(SAD), item(HAPPY)]
    assert module.chosen_to_speak(Writes(), 2, OPTIONS) == []
    assert [each.text for each in module.reply_all(Writes(), items, [], OPTIONS)] == ["1", "1"]


def test_only_what_is_wanted_and_allowed_is_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "answer_controls", lambda *_: pytest.fail("controls are not wanted"))
    run, path = tiny_run.make_run(), corpus.write(tmp_path, corpus.records()[:1])
    items, _ = read_items(path, None, 1.0)
    generator = tiny_run.make_generator(run)
    found = predict(run, generator, path, items, dataclasses.replace(OPTIONS, think=False), frozenset({"transcripts"}))
    assert found.made == {"speech"}
    assert found.spoken == [0]
    assert (found.controls, found.transcripts, len(found.units[0])) == ({}, {}, 0)
    assert found.answers[0].reply.waveform is not None


class Whisper:
    """Hears the same in everything, and notes the languages it was told."""

    asked: list[str] = []  # noqa: RUF012

    def transcribe(self, waveforms, languages, *, done):
        self.asked.extend(languages)
        return ["i am so very sorry"] * len(waveforms)


def test_whisper_is_told_the_language_of_what_was_written(monkeypatch):
    monkeypatch.setattr(module, "WhisperASR", Whisper)
    monkeypatch.setattr(Whisper, "asked", [])
    texts = {"Oh no.": "en", "Ach nein.": "de", "哦，不。": "en", "没关系": "zh"}
    items = [item(SAD, language=language) for language in texts.values()]
    sound = np.ones(8000, np.float32)
    answers = [understand(dataclasses.replace(reply("", text), waveform=sound)) for text in texts]
    assert len(module.transcribe(items, answers, range(4))) == 4
    assert Whisper.asked == ["en", "de", "zh", "zh"]


def test_a_reply_without_sound_is_heard_as_nothing_and_one_without_text_not_at_all(monkeypatch):
    monkeypatch.setattr(module, "WhisperASR", Whisper)
    sound = np.ones(8000, np.float32)
    spoken = [("I am so sorry.", sound), ("Oh no.", np.zeros(0, np.float32)), ("", sound)]
    answers = [understand(dataclasses.replace(reply("", text), waveform=waveform)) for text, waveform in spoken]
    heard = module.transcribe([item(SAD)] * 3, answers, [0, 1, 2])
    assert heard == {0: "i am so very sorry", 1: ""}
