import io
import itertools
import json
import re
import sys

import numpy as np
import pytest
from helpers.fake_endpoint import endpoint
from helpers.tiny_stages import write_corpus

from ieat_jax import prepare
from ieat_jax.audio.files import write_wav
from ieat_jax.progress import Progress, counted, in_words


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


def test_patience_says_nothing_of_what_is_quick():
    quick = [(1, 10)] * 4
    for total in (40, None):
        assert run(quick, io.StringIO(), total, patient=True) == ""
    lines = run([(2, 10)] * 5, io.StringIO(), patient=True).splitlines()
    assert lines == ["replies: 30 of 100, about 14 s left", "replies: 50 in 10 s"]


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


def test_work_of_several_parts_says_which_this_is():
    lines = run([(6, 1)] * 2, io.StringIO(), total=2, part=(2, 3)).splitlines()
    assert lines == ["[2/3] replies: 2 to do", "[2/3] replies: 1 of 2, about 6 s left", "[2/3] replies: 2 in 12 s"]


def test_a_part_that_is_not_counted_and_nothing_to_do():
    assert run([(6, 1)], io.StringIO(), total=1).splitlines() == ["replies", "replies: done in 6 s"]
    assert run([], io.StringIO(), total=0) == ""


def test_what_nobody_knows_the_end_of_says_how_far_it_is():
    lines = run([(6, 40)] * 2, io.StringIO(), total=None).splitlines()
    assert lines == ["replies", "replies: 40 in 6 s so far", "replies: 80 in 12 s so far", "replies: 80 in 12 s"]


def test_items_are_handed_on_while_they_are_counted(capsys):
    assert list(counted(iter("abc"), "letters", 3, part=(1, 2))) == ["a", "b", "c"]
    assert capsys.readouterr().err == "[1/2] letters: 3 to do\n"


@pytest.fixture
def impatient(monkeypatch):
    """Every count is said, as if it had taken long."""
    seconds = itertools.count(0, 6)
    monkeypatch.setitem(Progress.__init__.__kwdefaults__, "clock", lambda: next(seconds))


def test_every_part_of_a_preparation_says_how_far_it_is(impatient, tmp_path, capsys):
    write_corpus(tmp_path, records=20)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        for turn in line["turns"]:
            turn["response_audio"] = f"{number}_0.wav"
    records = tmp_path / "spoken.jsonl"
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    common = ["--records", str(records), "--out"]
    parts = {
        "check": (["check", "--records", str(records)], [("lines checked", 20)]),
        "codec": (
            ["codec", *common, str(tmp_path / "c"), "--codes", "16"],
            [
                ("[1/4] codec: speech analysed, in per cent", 100),
                ("[2/4] codec: rounds of choosing units", 12),
                ("[3/4] codec: units to speech", 1),
                ("[4/4] codec: replies compared", 1),
            ],
        ),
        "units": (
            ["units", *common, str(tmp_path / "u"), "--codec", str(tmp_path / "c"), "--workers", "1"],
            [("replies encoded", 20)],
        ),
        "tokenizer": (
            ["tokenizer", *common, str(tmp_path / "t"), "--vocab-size", "300"],
            [("[1/2] dialogues written out", 20), ("[2/2] pieces of words chosen", 1)],
        ),
    }
    for arguments, expected in parts.values():
        assert prepare.main(arguments) == 0
        said = capsys.readouterr().err
        for what, total in expected:
            assert (f"{what}: {total} to do\n" if total > 1 else f"{what}\n") in said
            assert re.search(rf"^{re.escape(what)}: ({total}|done) in \d+ ", said, re.M)
            if total > 1:
                assert len(re.findall(rf"^{re.escape(what)}: \d+ of {total}, about \d+ \w+ left$", said, re.M)) > 5


def test_what_is_imported_spoken_and_asked_says_how_far_it_is(impatient, tmp_path, capsys):
    def answer(body, number):
        return "Oh." if "Be kind." in str(body) else json.dumps({"emotion": "sad"} if number % 2 else {})

    rows = [{"id": f"{number}", "text": f"It rains {number} times."} for number in range(9)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    say = f"{sys.executable} -c 'import shutil, sys; shutil.copy(*sys.argv[1:3])' {tmp_path / 'a.wav'} {{out}} {{text}}"
    write_wav(tmp_path / "a.wav", 0.1 * np.sin(np.arange(4000)))
    records, out = str(tmp_path / "r.jsonl"), str(tmp_path / "out")
    with endpoint(answer) as served:
        llm = ["--llm", served.address, "--model", "m", "--out", out]
        parts = {
            "inputs of manifest": ["import", "manifest", str(tmp_path / "list.jsonl"), "--out", records],
            "utterances spoken": ["speak", records, "--out", out, "--command", say, "--workers", "2"],
            "[1/1] questions asked": ["responses", "--records", records, *llm, "--system-text", "Be kind."],
            "[1/2] questions asked": ["attribute", records, *llm, "--what", "emotion", "--max-bad-share", "1"],
        }
        for what, arguments in parts.items():
            assert prepare.main(arguments) == 0
            said = capsys.readouterr().err
            start, each, end = (r"", r"\d in \d+ s so far", r"9 in \d+ s") if "inputs" in what else (
                r": 9 to do", r"\d of 9, about \d+ s left", r"9 in \d+ s"
            )  # fmt: skip
            whole = rf"^{re.escape(what)}{start}\n({re.escape(what)}: {each}\n){{8,9}}{re.escape(what)}: {end}$"
            assert re.search(whole, said, re.M), said
        assert re.search(r"^\[2/2\] questions asked: \d to do$", said, re.M)


def test_speaking_a_corpus_says_how_far_it_is(impatient, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "ieat_jax.preparation.demo.corpus._speak_all", lambda folder, jobs, _: ((j.path, 1.0) for j in jobs)
    )
    assert prepare.main(["demo", "--out", str(tmp_path / "demo"), "--hours", "0.01", "--text-dialogues", "4"]) == 0
    assert re.search(
        r"^sentences spoken: (\d+) to do\n(sentences spoken: \d+ of \1, about .* left\n)+", capsys.readouterr().err
    )
