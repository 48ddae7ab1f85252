"""Pipes and devices in the place of files: refused with a sentence, or seen as absent; nothing waits for them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.llm_folders import reference
from helpers.tiny_run import save_run
from helpers.tiny_stages import recipe, write_corpus

from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.cli import path_argument
from ieat_jax.codecs.load import load_codec
from ieat_jax.config.recipes import load_config, load_function, typed
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import read_records
from ieat_jax.data.sources.jsonl import fingerprint, open_sources
from ieat_jax.errors import UserError
from ieat_jax.evaluation.items import build_items
from ieat_jax.evaluation.report.folder import read_scored
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.interop.families.whisper import load_whisper
from ieat_jax.runs.folder import load_run, load_run_codec
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
    return [fingerprint(source) for source in sources]


def write_recipe(folder):
    folder.mkdir()
    (folder / "recipe.py").write_text("from ieat_jax.config.defaults import get_defaults as get_config\n")


def corpus(folder):
    folder.mkdir()
    write_corpus(folder, records=2)


# What is made, and what reads it: after each of its files is replaced, in turn.
DOORS = {
    "corpus": (corpus, read_corpus),
    "tokenizer": (lambda folder: shutil.copytree(folder.parent / "corpus/tokenizer", folder), load_tokenizer),
    "codec": (lambda folder: shutil.copytree(folder.parent / "corpus/codec", folder), load_codec),
    "recipe": (write_recipe, lambda folder: load_config(str(folder / "recipe.py"))),
    "own loss": (write_recipe, lambda folder: load_function(folder / "recipe.py", "get_config")),
    "llm": (llm, read_llm),
    "llm file": (llm, lambda folder: load_llm(f"gguf:{folder / 'model.safetensors'}")),
    "whisper": (llm, lambda folder: load_whisper(f"ctranslate2:{folder / 'model.safetensors'}")),
    "run": (save_run, load_run),
    "run's codec": (lambda folder: save_run(folder.parent / "run"), lambda folder: load_run_codec(folder.parent / "run/codec")),
    "checkpoints": (save_run, lambda folder: resume_point(folder / "checkpoints")),
    "scored": (scored, lambda folder: read_scored("a", folder)),
}


@pytest.mark.parametrize("door", DOORS)
def test_probe(tmp_path_factory, door):
    import time
    folder = tmp_path_factory.mktemp("made")
    corpus(folder / "corpus")
    make, read = DOORS[door]
    make(folder / "made") if door != "run's codec" else make(folder/"made")
    base = folder / ("made" if (folder/"made").exists() else "run")
    files = [path for path in base.rglob("*") if path.is_file()]
    for path in files:
        for kind in KINDS:
            began = time.time()
            kept = path.read_bytes(); 
            place(kind, path)
            try:
                with in_time(4):
                    read(folder / "made")
                told = "read"
            except (Exception, Waited) as error:
                told = f"{type(error).__mro__[-4:-1]} {error}"
            path.unlink(); path.write_bytes(kept)
            print(door, path.relative_to(base), kind, f"{time.time()-began:.1f}", told)
