import io

import pytest

from ieat_jax.evaluation.progress import Progress, in_words


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run(steps, stream, total=100, **options):
    """`steps`: (seconds that pass, how many are done)."""
    clock = Clock()
    with Progress("replies", total, stream=stream, clock=clock, **options) as progress:
        for seconds, count in steps:
            clock.now += seconds
            progress.done(count)
    return stream.getvalue()


def test_a_log_gets_a_line_now_and_then_with_an_estimate():
    lines = run([(1, 10)] * 10, io.StringIO()).splitlines()
    assert lines == ["replies: 100 to do", "replies: 50 of 100, about 5 s left", "replies: 100 in 10 s"]


def test_a_log_of_something_quick_is_one_line():
    assert run([(0.1, 50)] * 2, io.StringIO()).splitlines() == ["replies: 100 to do"]


def test_a_terminal_shows_one_line_that_is_written_over():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    text = run([(1, 25)] * 4, Terminal())
    assert text.count("\n") == 1
    assert [line.strip() for line in text.split("\r")[1:]] == [
        "replies: 100 to do",
        "replies: 25 of 100, about 3 s left",
        "replies: 50 of 100, about 2 s left",
        "replies: 75 of 100, about 1 s left",
        "replies: 100 in 4 s",
    ]


def test_what_fails_is_not_said_to_be_done():
    stream = io.StringIO()
    clock = Clock()

    def fail():
        with Progress("replies", 2, stream=stream, clock=clock):
            clock.now = 60.0
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert stream.getvalue() == "replies: 2 to do\n"


def test_durations_in_words():
    assert [in_words(seconds) for seconds in (0.4, 59, 99, 130, 3900)] == ["0 s", "59 s", "99 s", "2 min", "1 h 5 min"]
