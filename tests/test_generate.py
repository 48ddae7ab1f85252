import pytest

from ieat_jax import generate
from ieat_jax.errors import UserError


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
