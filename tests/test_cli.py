import pytest

from ieat_jax.cli import exit_with
from ieat_jax.errors import UserError


def exit_code(main):
    with pytest.raises(SystemExit) as stopped:
        exit_with(main)
    return stopped.value.code


def raising(error):
    def main():
        raise error

    return main


def test_exit_code_is_that_of_main():
    assert exit_code(lambda: 0) == 0
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 3) == 3


def test_a_user_error_is_a_sentence_and_exit_2(capsys):
    class Special(UserError):
        pass

    assert exit_code(raising(Special("config.model: width is 3; make it even"))) == 2
    printed = capsys.readouterr()
    assert printed.err == "error: config.model: width is 3; make it even\n"
    assert printed.out == ""


def test_interrupt_is_130_without_traceback(capsys):
    assert exit_code(raising(KeyboardInterrupt())) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_with(raising(ZeroDivisionError()))
    with pytest.raises(ValueError, match="plain"):  # the base class of UserError is not enough
        exit_with(raising(ValueError("plain")))
