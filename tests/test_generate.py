import io
import sys

import numpy as np
import pytest
import soundfile
from helpers import tiny_run

import ieat_jax
from ieat_jax import generate
from ieat_jax.audio.files import write_wav
from ieat_jax.errors import UserError
from ieat_jax.serving import terminal
from ieat_jax.serving.terminal import Conversation


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "at least one user turn"),
        (["--audio", "missing.wav"], "--audio missing.wav: there is no such file"),
        (["--text", "  "], "--text is empty"),
        (["--text", "hi", "--out", "reply.mp3"], "speech is written as .wav"),
        (["--text", "hi", "--out", "."], "is a folder"),
        (["--chat", "--play", "no-such-program -x"], "there is no program of this name"),
        (["--chat", "--play", "aplay 'x"], "no closing quotation"),
        (["--text", "hi", "--temperature", "-1"], "temperature is -1"),
        (["--text", "hi", "--max-think", "0"], "limit think is 0"),
    ],
)
def test_mistakes_are_named_before_a_model_is_loaded(arguments, text, tmp_path):
    with pytest.raises(UserError, match=text):
        generate.main(["--checkpoint", str(tmp_path), *arguments])


def test_missing_checkpoint_is_an_error_for_people(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        generate.main(["--checkpoint", str(tmp_path / "nowhere"), "--text", "hi"])


def test_turns_keep_the_order_in_which_they_were_given():
    arguments = generate._parser().parse_args(["--checkpoint", "x", "--text", "a", "--audio", "b.wav", "--text", "c"])
    assert arguments.turns == [("text", "a"), ("audio", "b.wav"), ("text", "c")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on disk, and two sound files beside it: one that the model hears, and one that is too long."""
    folder = tmp_path_factory.mktemp("generate")
    write_wav(folder / "hello.wav", tiny_run.voice(0))
    write_wav(folder / "long.wav", tiny_run.voice(1, 1.3))
    return tiny_run.save_run(folder / "run")


LIMITS = ["--max-think", "7", "--max-response", "6", "--max-speech-seconds", "0.64"]
SAD = "The user feels sad. " * 3


def talk(run, *arguments):
    return generate.main(["--checkpoint", str(run), *arguments, *LIMITS])


def chat(run, monkeypatch, lines, *arguments):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
    return talk(run, "--chat", *arguments)


def test_two_spoken_turns_are_answered_in_writing_and_sound(run, tmp_path, capsys):
    turns = ["--text", SAD, "--audio", str(run.parent / "hello.wav")]
    out = tmp_path / "new" / "reply.wav"
    assert talk(run, *turns, "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert printed.out.count("think> ") == printed.out.count("reply> ") == 2
    assert "closed at the limit" in printed.err
    for number in (1, 2):
        path = out.with_name(f"reply_{number}.wav")
        waveform, rate = soundfile.read(path)
        assert rate == 16000
        assert len(waveform) % 320 == 0 < len(waveform)
        assert f"wrote {path}: {len(waveform) / 16000:.2f} s of speech" in printed.out


def test_a_single_turn_is_written_to_the_name_that_was_given(run, tmp_path):
    assert talk(run, "--text", SAD, "--no-think", "--out", str(tmp_path / "reply.wav")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["reply.wav"]


def test_a_clip_that_is_too_long_is_refused_before_the_model_is_loaded(run, monkeypatch, capsys):
    long = str(run.parent / "long.wav")
    loaded = []
    monkeypatch.setattr(generate, "load_generator", loaded.append)
    with pytest.raises(UserError, match=r"1\.3 s .* at most 1 s .*config\.model\.listen\.clip_seconds.*--trim"):
        talk(run, "--text", SAD, "--audio", long)
    assert loaded == []


def test_trim_takes_the_beginning(run, monkeypatch, capsys):
    said = []
    say = Conversation.say
    monkeypatch.setattr(Conversation, "say", lambda self, turn: said.append(turn) or say(self, turn))
    assert talk(run, "--audio", str(run.parent / "long.wav"), "--trim", "--no-think") == 0
    whole, _ = soundfile.read(run.parent / "long.wav", dtype="float32")
    np.testing.assert_array_equal(said[0].audio, whole[:16000])


def test_a_chat_goes_on_over_mistakes_and_ends_with_its_input(run, tmp_path, monkeypatch, capsys):
    hello, long = run.parent / "hello.wav", run.parent / "long.wav"
    lines = f"{SAD}\n\n@nowhere.wav\n@{long}\n@\n/what now\n@ '{hello}'\n@{tmp_path}\n".encode()
    lines += b"\xff\xfe\n" + f"/new\n@{hello}\n/quit\nnot read\n".encode()
    assert chat(run, monkeypatch, lines, "--out", str(tmp_path / "r.wav")) == 0
    printed = capsys.readouterr()
    assert printed.out.count("reply> ") == printed.out.count("think> ") == 3
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    told = ("nowhere.wav: no such file", "at most 1 s of a clip (config.model.listen.clip_seconds", "write @FILE",
            "/what: there is no such command", "is a folder", "is not UTF-8")  # fmt: skip
    assert len(errors) == len(told)
    assert all(sentence in error for sentence, error in zip(told, errors, strict=True))
    model = ieat_jax.load(run, limits=tiny_run.LIMITS)
    first = model.reply(text=SAD.strip())
    second = model.reply(hello, history=first.history)
    third = model.reply(hello)
    assert second.text != third.text or second.thinking != third.thinking  # else nothing is shown by what follows
    for number, reply in enumerate((first, second, third), 1):
        assert f"think> {reply.thinking}" in printed.out
        assert f"reply> {reply.text}" in printed.out
        waveform, _ = soundfile.read(tmp_path / f"r_{number}.wav")
        assert len(waveform) == len(reply.sound)


def test_a_chat_plays_what_it_says_and_ends_with_the_input(run, tmp_path, monkeypatch, capsys):
    player = tmp_path / "play.sh"
    player.write_text(f"echo $1 > {tmp_path}/rate\ncat > {tmp_path}/raw\n")
    assert chat(run, monkeypatch, SAD.encode(), "--play", f"bash {player} RATE", "--out", str(tmp_path / "r.wav")) == 0
    assert (tmp_path / "rate").read_text() == "16000\n"
    written, _ = soundfile.read(tmp_path / "r_1.wav", dtype="int16")
    np.testing.assert_array_equal(np.frombuffer((tmp_path / "raw").read_bytes(), "<i2"), written)
    assert np.abs(written).max() > 0


def test_a_turn_that_is_stopped_is_forgotten(run, monkeypatch, capsys):
    def stop(self, turns, sinks):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "_print", stop)
    lines = iter([SAD, "/quit"])
    conversation = Conversation(ieat_jax.load(run, limits=tiny_run.LIMITS).generator, think=True)
    terminal.chat(conversation, lines)
    assert conversation.turns == []
    assert "this turn is forgotten" in capsys.readouterr().err
