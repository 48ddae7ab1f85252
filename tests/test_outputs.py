"""What a command writes: refused before the work where that could not be done, made with its folders elsewhere."""

import argparse
import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_run

from ieat_jax.audio.files import AudioError, write_wav
from ieat_jax.cli import REFUSED, exit_with
from ieat_jax.storage import StorageError, check_writable

ENTRY_POINTS = ("train", "prepare", "generate", "evaluate", "export")
# Command, its other arguments, the flag; whether it is a file.
OUTPUTS = [
    ("train", ["--config", "x.py"], "--workdir", False),
    ("generate", ["--checkpoint", "run", "--text", "hi"], "--out", True),
    ("export", ["--checkpoint", "run"], "--out", False),
    ("evaluate", ["score", "--checkpoint", "run", "--records", "r.jsonl"], "--out", False),
    ("evaluate", ["report", "--runs", "a=b"], "--out", True),
    ("prepare", ["demo"], "--out", False),
    ("prepare", ["import", "emodb", "wavs"], "--out", False),
    ("prepare", ["export", "r.jsonl"], "--out", False),
    ("prepare", ["responses", "--records", "r.jsonl", "--llm", "x"], "--out", False),
    ("prepare", ["attribute", "r.jsonl", "--llm", "x"], "--out", False),
    ("prepare", ["speak", "r.jsonl"], "--out", False),
    ("prepare", ["codec", "--records", "r.jsonl"], "--out", False),
    ("prepare", ["units", "--records", "r.jsonl", "--codec", "c"], "--out", False),
    ("prepare", ["tokenizer", "--records", "r.jsonl"], "--out", False),
    ("prepare", ["describe", "--records", "r.jsonl"], "--out", True),
    ("prepare", ["show", "--config", "x.py"], "--html", True),
    ("prepare", ["shards", "--records", "r.jsonl"], "--out", False),
    ("prepare", ["tfds", "--shards", "s", "--name", "n"], "--out", False),
]


def outputs(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from outputs(inner)
        elif set(action.option_strings) & {"--out", "--html", "--workdir"}:
            yield action


def test_every_output_is_here():
    found = [each for name in ENTRY_POINTS for each in outputs(importlib.import_module(f"ieat_jax.{name}")._parser())]
    assert len(found) == len(OUTPUTS)
    assert all("missing folders are made" in each.help for each in found)


@pytest.mark.parametrize(("name", "others", "flag", "is_file"), OUTPUTS, ids=lambda each: str(each)[:40])
def test_a_place_that_cannot_be_written_is_one_sentence_before_the_work(name, others, flag, is_file, tmp_path):
    file = tmp_path / "file.wav"
    file.write_text("mine")
    wrong = tmp_path if is_file else file
    for out in (file / "x.wav", file / "a" / "b.wav", wrong, tmp_path / ("n" * 300)):
        with pytest.raises(StorageError, match=r"(is a file; |is a folder; |cannot be written )") as told:
            importlib.import_module(f"ieat_jax.{name}").main([*others, flag, str(out)])
        assert f"{flag} {out}" in str(told.value)
    assert (file.read_text(), list(tmp_path.iterdir())) == ("mine", [file])


def test_an_import_goes_to_a_file_or_a_folder(tmp_path):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.jsonl").mkdir()
    parser = importlib.import_module("ieat_jax.prepare")._parser()
    for good in ("a.jsonl", "c.jsonl", "c", "v.2"):
        parser.parse_args(["import", "emodb", "wavs", "--out", str(tmp_path / good)])
    with pytest.raises(StorageError, match=r"b\.jsonl: is a folder; --out \S+ has to be a file"):
        parser.parse_args(["import", "emodb", "wavs", "--out", str(tmp_path / "b.jsonl")])


def test_folders_that_are_missing_may_be_made(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b" / "c.wav", "--out")
    check_writable(tmp_path / "a" / "b", "--out", folder=True)
    monkeypatch.chdir(tmp_path)
    check_writable(Path("reply.wav"), "--out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StorageError, match="cannot be written by this user"):
        check_writable(tmp_path / "a", "--out")


@pytest.mark.parametrize("number", REFUSED, ids=errno.errorcode.get)
@pytest.mark.parametrize("place", [None, "runs/x"])
def test_what_a_disk_refuses_in_the_midst_of_work_is_a_sentence(number, place, capsys):
    def main():
        raise OSError(number, os.strerror(number), place)

    with pytest.raises(SystemExit) as stopped:
        exit_with(main)
    told = capsys.readouterr().err
    assert (stopped.value.code, told.count("\n")) == (2, 1)
    assert told.startswith(f"error: {place + ': ' if place else ''}{os.strerror(number)}; ")


def test_other_errors_of_the_system_stay_bugs(capsys):
    def main():
        raise OSError(errno.EBADF, "bad")

    with pytest.raises(SystemExit) as stopped:
        exit_with(main)
    told = capsys.readouterr().err
    assert (stopped.value.code, told.splitlines()[0]) == (1, "Traceback (most recent call last):")
    assert "error: " not in told


def test_sound_that_cannot_be_written_is_a_sentence(tmp_path):
    for path in ("/dev/full", tmp_path, tmp_path / "nowhere" / "x.wav"):
        with pytest.raises(AudioError, match=r"cannot be written .* \[unwritable\]"):
            write_wav(path, np.zeros(16000, np.float32))


def test_a_reply_goes_to_a_folder_that_is_made(tmp_path):
    """As a user does it: a run on disk, two processes' worth of folders that are not there."""
    run = tiny_run.save_run(tmp_path / "run")
    limits = ["--max-think", "4", "--max-response", "4", "--max-speech-seconds", "0.6"]
    command = [sys.executable, "-m", "ieat_jax.generate", "--checkpoint", str(run), "--text", "hi", *limits]
    done = subprocess.run([*command, "--out", str(tmp_path / "a" / "b.wav")], capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "a" / "b.wav").is_file()) == (0, True), done.stderr
    done = subprocess.run([*command, "--out", "/dev/full"], capture_output=True, text=True)
    assert (done.returncode, "argument --out: /dev/full: is a device, which" in done.stderr) == (2, True), done.stderr
