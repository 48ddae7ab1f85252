import dataclasses

import numpy as np
import pytest
from helpers import tiny_run

import ieat_jax
from ieat_jax.audio.files import AudioError, write_wav
from ieat_jax.errors import UserError
from ieat_jax.inference.generator import GenerationError, Generator, Limits
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.runs.folder import Run, RunError
from ieat_jax.talk import Talker


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_run.save_run(tmp_path_factory.mktemp("talk") / "run")


@pytest.fixture(scope="module")
def model(folder):
    return ieat_jax.load(str(folder), limits=tiny_run.LIMITS)


def test_a_run_is_loaded_and_answers_a_sound_file(folder, model, tmp_path):
    assert isinstance(model.run, Run)
    assert isinstance(model.generator, Generator)
    assert (model.run.path, model.run.step, model.speaks) == (folder, 5, True)
    write_wav(tmp_path / "hello.wav", tiny_run.voice(0))
    reply = model.reply(str(tmp_path / "hello.wav"))
    (whole,) = model.generator.reply([[UserTurn(tmp_path / "hello.wav")]], think=True, speech="waveform")
    assert (reply.text, reply.thinking) == (whole.text, whole.think_text)
    assert reply.text or reply.thinking
    np.testing.assert_array_equal(reply.sound, whole.waveform)
    assert reply.rate == 16_000
    assert reply.sound.dtype == np.float32
    assert {"thinking": whole.think_closed, "text": whole.response_ended, "sound": whole.speech_ended} == {
        part: part not in reply.cut for part in ("thinking", "text", "sound")
    }


def test_a_dialogue_goes_on_from_its_history(model):
    first = model.reply(tiny_run.voice(0), speech=False)
    assert first.sound is None
    second = model.reply(text="The user feels sad.", history=first.history, think=False)
    turns = [UserTurn(tiny_run.voice(0)).answered(first.text), UserTurn(text="The user feels sad.")]
    (whole,) = model.generator.reply([turns], think=False, speech="waveform")
    assert (second.text, second.thinking, second.emotion) == (whole.text, "", None)
    assert [turn.response for turn in second.history] == [first.text, second.text]
    assert "thinking" not in second.cut
    alone = model.reply(text="The user feels sad.", think=False)
    assert len(alone.history) == 1
    assert not np.array_equal(alone.sound, second.sound) or alone.text != second.text


def test_the_emotion_is_the_label_that_the_thinking_names(model, monkeypatch):
    made = model.generator.reply([[UserTurn(text="Hm.")]])[0]
    for thinking, label in (
        ('The user says "Hm." in a soft voice. The user is sad (strong).', "sad"),
        ("用户感到愤怒。", "anger"),
        ("It may rain.", None),
    ):
        answers = [dataclasses.replace(made, think_text=thinking)]
        monkeypatch.setattr(model.generator, "reply", lambda *_, answers=answers, **__: answers)
        reply = model.reply(text="Hm.", speech=False)
        assert (reply.thinking, reply.emotion) == (thinking, label)


def test_a_run_that_cannot_speak_writes():
    run = tiny_run.make_run(speaks=False)
    model = Talker(run, Generator.from_run(run, limits=tiny_run.LIMITS, batch_size=1))
    assert not model.speaks
    reply = model.reply(text="The user feels sad.")
    assert reply.sound is None
    assert "sound" not in reply.cut
    with pytest.raises(GenerationError, match="cannot speak"):
        model.reply(text="The user feels sad.", speech=True)


def test_what_cannot_be_answered_is_named(model, tmp_path):
    with pytest.raises(UserError, match="give what the user said"):
        model.reply()
    with pytest.raises(AudioError, match=r"none\.wav"):
        model.reply(tmp_path / "none.wav")
    with pytest.raises(RunError, match="nowhere: there is no such folder"):
        ieat_jax.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no checkpoint of step 7"):
        ieat_jax.load(model.run.path, step=7)
    with pytest.raises(UserError, match="limit think is 0"):
        ieat_jax.load(model.run.path, limits=Limits(think=0))
