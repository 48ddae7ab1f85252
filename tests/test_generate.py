import pytest
import soundfile
from helpers import tiny_run

from ieat_jax import generate
from ieat_jax.audio.files import write_wav
from ieat_jax.errors import UserError
from ieat_jax.runs import folder as run_module


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "at least one user turn"),
        (["--audio", "missing.wav"], "--audio missing.wav: there is no such file"),
        (["--text", "  "], "--text is empty"),
        (["--text", "hi", "--out", "reply.mp3"], "speech is written as .wav"),
        (["--text", "hi", "--out", "."], "is a folder"),
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
    assert generate._speech_path(generate.Path("o/r.wav"), 2, 3).name == "r_2.wav"
    assert generate._speech_path(generate.Path("o/r.wav"), 1, 1).name == "r.wav"


def test_two_spoken_turns_are_answered_in_writing_and_sound(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "load_run", lambda path, step=None: tiny_run.make_run())
    write_wav(tmp_path / "hello.wav", tiny_run.voice(0))
    limits = ["--max-think", "7", "--max-response", "6", "--max-speech-seconds", "0.64"]
    turns = ["--text", "The user feels sad. " * 3, "--audio", str(tmp_path / "hello.wav")]
    out = tmp_path / "new" / "reply.wav"
    assert generate.main(["--checkpoint", str(tmp_path), *turns, *limits, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("think> ") == printed.out.count("reply> ") == 2
    assert "closed at the limit" in printed.err
    for number in (1, 2):
        path = out.with_name(f"reply_{number}.wav")
        waveform, rate = soundfile.read(path)
        assert rate == 16000
        assert len(waveform) % 320 == 0 < len(waveform)
        assert f"wrote {path}: {len(waveform) / 16000:.2f} s of speech" in printed.out
