"""`prepare check`: what is wrong with a whole file or folder is said once, with a record by its name."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from helpers import tiny_corpus as corpus
from helpers import tiny_run

from ieat_jax import prepare
from ieat_jax.audio.files import write_wav
from ieat_jax.cli import exit_with
from ieat_jax.data.records import RecordError, read_records
from ieat_jax.errors import UserError


@pytest.fixture
def check(capsys):
    """A function: (file, arguments) -> exit code, the lines of JSON, and stderr, as a user sees them."""

    def run(path, *more):
        with pytest.raises(SystemExit) as ended:
            exit_with(lambda: prepare.main(["check", "--records", str(path), *map(str, more)]))
        out, told = capsys.readouterr()
        return ended.value.code, [json.loads(line) for line in out.splitlines()], told

    return run


BYTES = {
    "sound": None,
    "zeros": bytes(4096),
    "UTF-16": '{"dialogue_id": "a"}\n'.encode("utf-16"),
    "archive": b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(range(256)) * 4,
}


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_is_no_text_is_said_once(name, tmp_path, check):
    path = tmp_path / "test.jsonl"
    if BYTES[name] is None:
        write_wav(path, tiny_run.voice(1))
    else:
        path.write_bytes(BYTES[name])
    with pytest.raises(RecordError, match=r"test\.jsonl: is no text; .* UTF-8 \[not_text\]"):
        read_records(path)
    code, lines, told = check(path)
    said = [line for line in told.splitlines() if not line.startswith("lines checked")]
    assert (code, lines, len(said)) == (2, [], 1)


@pytest.mark.parametrize("line", ['{"a": 1}', "", "no JSON", '{"x": "\0\0\0"}', "\ufeff{}", "käse" * 9])
def test_a_file_of_text_is_read_line_by_line(line, tmp_path, check):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(corpus.records()[0]) + f"\n{line}\n", encoding="utf-8")
    assert not any("not_text" in each["code"] for each in check(path)[1])


@pytest.mark.parametrize("command", ["check", "codec", "units"])
def test_an_audio_root_that_is_not_there_is_said_once(command, tmp_path):
    path = corpus.write(tmp_path, corpus.records())
    more = {"codec": ["--out", "o"], "units": ["--out", "o", "--codec", "c"], "check": []}[command]
    for root in (tmp_path / "nowhere", path):
        with pytest.raises(UserError, match=rf"^--audio-root {root}: there is no such folder"):
            prepare.main([command, "--records", str(path), "--audio-root", str(root), *more])


def test_a_bad_record_is_named_by_the_id_that_could_be_read(tmp_path, check):
    good = corpus.records()[0]
    bad = [
        good, {"dialogue_id": "no-turns"}, {"dialogue_id": "odd", "turns": 3}, {"dialogue_id": 7, "turns": []},
        {"turns": []}, corpus.record("out", [corpus.turn(1, "sad", "../x.wav")]),
    ]  # fmt: skip
    code, lines, told = check(corpus.write(tmp_path, [good, *bad]))
    assert code == 1
    assert [line["dialogue_id"] for line in lines] == ["p1", "no-turns", "odd", None, None, "out"]
    assert told.splitlines()[-1] == "error: duplicate_id, outside_root are never accepted, however few they are"
    assert check(corpus.write(tmp_path, [good, good]))[2].splitlines()[-1].startswith("error: duplicate_id is never")


def not_finite(path):
    soundfile.write(path, np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")


def test_sound_of_no_numbers_names_the_line_that_has_it(tmp_path, check):
    """Wherever records are used: in scoring, in units, in the codec; `check` has the line of each as JSON."""
    turn = corpus.turn(1, "sad", "audio/1.wav", response_audio="audio/nan.wav")
    path = corpus.write(tmp_path, [corpus.records()[0], corpus.record("bad", [turn])])
    not_finite(tmp_path / "audio" / "nan.wav")
    ((line),) = check(path)[1]
    assert (line["line"], line["dialogue_id"], line["code"]) == (2, "bad", "not_finite")
    tiny_run.mel_codec().save(tmp_path / "codec")
    for command in (["units", "--codec", str(tmp_path / "codec")], ["codec", "--codes", "8"]):
        done = subprocess.run(
            [sys.executable, "-m", "ieat_jax.prepare", *command, "--records", path, "--out", tmp_path / "out"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert f"{path}:2" in done.stdout + done.stderr, command
        assert "nan.wav" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
