import dataclasses

import numpy as np
import pytest
from helpers import tiny_run

import ieat_jax
from ieat_jax.audio.files import AudioError, write_wav
from ieat_jax.errors import UserError
from ieat_jax.inference.generator import GenerationError, Generator, Limits
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.inference.sampling import Sampling, UnitSampling
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


NOT_PATHS = (5, None, 2.5, True, b"run", ["run"], {"run": 1}, np.zeros(3))
NO_NUMBER = ("x", None, [1], True, 1j)


@pytest.mark.parametrize("path", NOT_PATHS, ids=str)
def test_what_is_no_folder_is_named(path):
    with pytest.raises(UserError, match=r"^load: path is .*; give the folder of a training run$"):
        ieat_jax.load(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("step", ("x", 2.5, True, [1])),
        ("seed", ("x", 2.5, None, True, -1, 2**32)),
        ("sampling", (5, None, "greedy", UnitSampling())),
        ("unit_sampling", (5, None, Sampling())),
        ("limits", (5, None, (1, 2, 3))),
    ],
)
def test_options_of_another_type_are_named(model, name, values):
    for value in values:
        with pytest.raises(UserError, match=rf"^load: {name} is .*; (give|it has to be) "):
            ieat_jax.load(model.run.path, **{name: value})


@pytest.mark.parametrize("kind", [Sampling, UnitSampling, Limits])
def test_settings_that_are_no_numbers_are_named(kind):
    for item in dataclasses.fields(kind):
        for value in (*NO_NUMBER, *((0.5,) if isinstance(item.default, int) else ())):
            with pytest.raises(UserError, match=rf"{item.name} is .*; it must be a (whole )?number"):
                kind(**{item.name: value})
        kind(**{item.name: item.default})


@pytest.mark.parametrize(
    "asked",
    [
        *({"audio": audio} for audio in (5, 2.5, b"a.wav", [0.1] * 16000, (1, 2), {"a": 1}, True)),
        *({"audio": np.asarray(audio)} for audio in (["a"], [None], 5, 1.5, [True] * 16000, [1j] * 16000)),
        {"audio": np.zeros(16000, np.int16)},
        {"audio": np.zeros((16000, 2), np.float32)},
        {"audio": np.zeros(3, np.float32)},
        {"audio": np.full(16000, np.nan, np.float32)},
        {"audio": np.full(16000, np.inf, np.float32)},
        *({"text": text} for text in (5, None, b"x", ["x"], " ", "")),
        *({"text": "x", "think": think} for think in ("yes", None, 1, 0.5)),
        *({"text": "x", "speech": speech} for speech in ("yes", 1, 0.5)),
        *({"text": "x", "history": history} for history in ("x", 5, None, ["x"], [None], {"a": 1}, [("a", "b")])),
        {"text": "x", "history": [UserTurn(text="Hm.")]},
        {"text": "x", "history": [UserTurn(audio=5, response="Hm.")]},
        {"text": "x", "history": [UserTurn(response="Hm.")]},
    ],
    ids=lambda asked: str(asked)[:60],
)
def test_whatever_is_asked_wrongly_is_a_sentence(model, asked):
    with pytest.raises(UserError) as told:
        model.reply(**asked)
    assert "\n" not in str(told.value)


def test_a_whole_reply_is_no_history(model):
    reply = model.reply(text="Hm.", speech=False)
    with pytest.raises(UserError, match=r"history is SpokenReply.*; give `history` of the reply before"):
        model.reply(text="And?", history=reply)
