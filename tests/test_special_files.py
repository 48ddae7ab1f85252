"""Pipes and devices in the place of files: refused with a sentence, or seen as absent; nothing waits for them."""

import argparse
import contextlib
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.corpus_trees import tree
from helpers.llm_folders import reference
from helpers.tiny_run import save_run
from helpers.tiny_stages import recipe, write_corpus

from ieat_jax import prepare
from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.cli import path_argument
from ieat_jax.codecs.load import load_codec
from ieat_jax.config.recipes import load_config, load_function, typed
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import read_records
from ieat_jax.data.sources.open import open_sources
from ieat_jax.errors import UserError
from ieat_jax.evaluation.items import read_items
from ieat_jax.evaluation.report.folder import read_scored
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.interop.families.whisper import load_whisper
from ieat_jax.preparation.asking.recorded import Recorded
from ieat_jax.preparation.attribution import question as attribution
from ieat_jax.runs.folder import load_run
from ieat_jax.runs.steps import resume_point
from ieat_jax.storage import StorageError, local_path, special
from ieat_jax.text.tokenizer import load_tokenizer
from ieat_jax.training.metric_files import Board, JsonLines

KINDS = {"a pipe": os.mkfifo, "a device": lambda path: path.symlink_to("/dev/zero")}


def place(kind, path):
    """Put a special file where a file was, or nothing."""
    path.unlink(missing_ok=True)
    KINDS[kind](path)


class Waited(BaseException):
    """Of what is called: it does not end."""


@contextlib.contextmanager
def in_time(seconds=10):
    def stop(*_):
        raise Waited

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_what_is_special(tmp_path):
    (tmp_path / "file").touch()
    for kind in KINDS:
        place(kind, tmp_path / kind)
        assert special(tmp_path / kind) == kind
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert special(tmp_path / "s") == "a socket"
    for ordinary in (tmp_path, tmp_path / "file", tmp_path / "absent", tmp_path / "file/below", "a\0b"):
        assert special(ordinary) is None


def scored(folder):
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"step": 1, "n": 0}))
    for name in ("predictions.jsonl", "training.jsonl"):
        (folder / name).write_text("")


def llm(folder):
    reference("llama").save_pretrained(folder)
    shutil.copy(folder.parent / "corpus/tokenizer/tokenizer.json", folder)


def read_llm(folder):
    found = load_llm(str(folder))
    found.tokenizer()
    return found


def read_corpus(folder):
    sources = open_sources(typed(recipe(folder, "write")).data.sources, Quarantine(0.0))
    return [source.identity() for source in sources]


def write_recipe(folder):
    folder.mkdir()
    (folder / "recipe.py").write_text("from ieat_jax.config.defaults import get_defaults as get_config\n")


def corpus(folder):
    folder.mkdir()
    write_corpus(folder, records=2)


def lists(folder):
    rows = json.dumps({"id": "a", "text": "Hm.", "audio": "a.wav"}) + "\n" + json.dumps({"id": "b", "text": "Hm."})
    table = "id\ttext\taudio\na\tHm.\ta.wav\nb\tHm.\t\n"
    content = {"a.jsonl": rows, "b.jsonl.gz": gzip.compress(rows.encode()), "c.tsv": table, "a.wav": None}
    return tree(folder, content)


def read_lists(folder):
    """Read all; a list that is named is read alone, so that the others hide nothing."""
    for given in (folder, *(path for path in folder.iterdir() if path.suffix != ".wav")):
        prepare.main(["import", "manifest", str(given), "--out", f"{folder}.jsonl", "--max-bad-share", "1"])


def asking(folder):
    shutil.copytree(Path(attribution.__file__).parent / "prompts", folder)
    (folder / "answers.jsonl").touch()


def ask(folder):
    attribution.read_prompts(folder)
    for asked in (None, object()):
        Recorded(asked, folder / "answers.jsonl", "m", "", {"max_tokens": 1}).close()


# Door -> (what makes a folder, what reads it, files that it does not read).
STEPS = "checkpoints"
DOORS = {
    "records": (corpus, read_corpus, ("codec/*", "tokenizer/*", "*.wav")),  # sounds are set aside when they are read
    "lists of others": (lists, read_lists, ("*.wav",)),  # sounds are set aside
    "asking": (asking, ask, ()),
    "tokenizer": (lambda folder: shutil.copytree(folder.parent / "corpus/tokenizer", folder), load_tokenizer, ()),
    "codec": (lambda folder: shutil.copytree(folder.parent / "corpus/codec", folder), load_codec, ()),
    "recipe": (write_recipe, lambda folder: load_config(str(folder / "recipe.py")), ()),
    "loss of one's own": (write_recipe, lambda folder: load_function(folder / "recipe.py", "get_config"), ()),
    "LLM": (llm, read_llm, ("generation_config.json",)),
    "run": (save_run, load_run, ()),
    "checkpoints": (
        save_run,
        lambda folder: resume_point(folder / "checkpoints"),
        ("*.json", "codec/*", "tokenizer/*"),
    ),
    "scored": (scored, lambda folder: read_scored("a", folder), ()),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    corpus(folder / "corpus")
    return folder


@pytest.mark.parametrize("door", DOORS)
def test_every_file_that_is_read_may_be_a_pipe_or_a_device(door, shared, capsys):
    make, read, unread = DOORS[door]
    folder = shared / door
    make(folder)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        name, content = str(path.relative_to(folder)), path.read_bytes()
        for kind in KINDS:
            place(kind, path)
            below = "checkpoints/" in name and "checkpoints" in door
            if not below and any(path.relative_to(folder).match(pattern) for pattern in unread):
                with in_time():
                    read(folder)
            else:
                with in_time(), pytest.raises(UserError) as told:
                    read(folder)
                assert path.name in str(told.value) or str(folder) in str(told.value), name
        path.unlink()
        path.write_bytes(content)
    with in_time():
        read(folder)  # as it was


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_that_is_given_is_refused_for_reading_and_writing(kind, tmp_path, shared):
    path = tmp_path / "it"
    place(kind, path)
    refused = f"{path}: is {kind}, which may never end; give a file or folder"
    for call in (
        lambda: local_path(path, "--out"),
        lambda: load_llm(f"gguf:{path}"),
        lambda: load_llm(str(path)),
        lambda: load_whisper(f"ctranslate2:{path}"),
        lambda: load_whisper(str(path)),
        lambda: load_tokenizer(path),
        lambda: load_codec(path),
        lambda: load_run(path),
        lambda: read_items(path, audio_root=None, max_seconds=1),
    ):
        with in_time(), pytest.raises(StorageError) as told:
            call()
        assert refused in str(told.value)
    with in_time(), pytest.raises(argparse.ArgumentTypeError) as told:
        path_argument(str(path))
    assert refused in str(told.value)
    with in_time(), pytest.raises(UserError, match="is no regular file"):
        read_records(path)
    with in_time(), pytest.raises(AudioError, match="not a regular file"):
        read_audio(path, max_seconds=1)


def test_commands_end_with_a_sentence(tmp_path, shared):
    os.mkfifo(tmp_path / "pipe")
    pipe = str(tmp_path / "pipe")
    for command in (
        ["prepare", "check", "--records", pipe],
        ["prepare", "check", "--records", "/dev/zero"],
        ["evaluate", "score", "--checkpoint", "run", "--records", pipe, "--out", "o"],
        ["evaluate", "report", "--runs", str(tmp_path), "--out", pipe],
        ["generate", "--checkpoint", "run", "--audio", pipe],
        ["prepare", "import", "manifest", pipe, "--out", str(tmp_path / "o.jsonl")],
        ["prepare", "attribute", "r.jsonl", "--llm", "x", "--out", "o", "--answers", pipe],
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"ieat_jax.{command[0]}", *command[1:]], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2, done
        assert "is a pipe, which" in done.stderr or "is a device, which" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_watches_a_run_is_dropped(kind, tmp_path, capsys):
    for name in ("metrics.jsonl", "quarantine.jsonl", "events"):
        place(kind, tmp_path / name)
    with in_time():
        lines = JsonLines(tmp_path / "metrics.jsonl", 0)
        lines.write({"step": 1})
        quarantine = Quarantine(1.0)
        quarantine.path = tmp_path / "quarantine.jsonl"
        assert quarantine.note("a", "missing", "no such file")
        board = Board(tmp_path / "events", 0)
        board.write(1, {"loss": 1.0})
        board.close()
    told = capsys.readouterr().err
    for name in ("metrics.jsonl", "quarantine.jsonl", "events"):
        assert told.count(f"{tmp_path / name}: cannot be written") == 1, told


def test_the_readers_of_a_pipe_are_not_written_to(tmp_path, capsys):
    os.mkfifo(tmp_path / "metrics.jsonl")
    reader = os.open(tmp_path / "metrics.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    with in_time():
        JsonLines(tmp_path / "metrics.jsonl", 0).write({"step": 1})
    os.close(reader)
    assert "cannot be written" in capsys.readouterr().err
