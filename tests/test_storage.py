"""Addresses of object stores are refused by name, everywhere a path is taken."""

import argparse
import importlib
from pathlib import Path

import pytest

import ieat_jax
from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.cli import path_argument
from ieat_jax.codecs.load import load_codec
from ieat_jax.config.recipes import load_config, typed
from ieat_jax.data.records import read_records
from ieat_jax.errors import UserError
from ieat_jax.interop.families.goat_slm import load_speak
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.interop.families.whisper import load_whisper
from ieat_jax.storage import StorageError, local_path
from ieat_jax.text.tokenizer import load_tokenizer
from ieat_jax.training.loop import train

ROOT = Path(__file__).parents[1]
ADDRESS = "gs://bucket/run"
ENTRY_POINTS = ("train", "prepare", "generate", "evaluate", "export", "compile_check", "serve")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Whatever is refused leaves no folder gs: behind."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", [ADDRESS, "s3://a/b", "GS://a", "hdfs://x/y", "hf://a", "abfs://c@d/e", "x+y.z://a"]
)
def test_an_address_is_no_path(address):
    for given in (address, Path(address)) if address.partition(":")[0] != "x+y.z" else (address,):
        with pytest.raises(StorageError, match=r"^--out \S+: files cannot be read from or written to \S+:// addresses"):
            local_path(given, "--out")
    with pytest.raises(StorageError, match=r"give the path alone, without file://"):
        local_path("file:///a/b", "--out")


@pytest.mark.parametrize(
    "path", ["a", "/a/b", "./gs:", "a:b", "runs/lr=[1e-3]", "gs", "a/gs://b", "C:/x", "", "gguf:/a"]
)
def test_a_path_is_one(path):
    assert local_path(path, "") == Path(path)


def actions(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from ((f"{name} {flag}", each) for flag, each in actions(inner))
        elif action.option_strings:
            yield action.option_strings[0], action


def test_every_flag_that_names_a_file_or_folder_reads_a_path():
    """Flags that take a text are listed, so that a new one is looked at."""
    texts = {
        "train": {"--config"}, "compile_check": {"--config", "--topology"}, "generate": {"--audio", "--text", "--play"},
        "evaluate": {"report --runs", "report --title"},
        "prepare": {
            "check --stage", "responses --llm", "responses --system-text", "import --option", "speak --command",
            "shapes --config", "show --config", "tfds --shards", "tfds --name", "tfds --version",
            *(f"{command} {flag}" for command in ("responses", "attribute")
              for flag in ("--llm", "--model", "--key-variable", "--extra")),
        },
        "export": {"--to", "--dtype"},
        "serve": {"--host"},
    }  # fmt: skip
    paths = 0
    for name in ENTRY_POINTS:
        found = dict(actions(importlib.import_module(f"ieat_jax.{name}")._parser()))
        assert Path not in [action.type for action in found.values()]
        paths += [action.type for action in found.values()].count(path_argument)
        plain = {flag for flag, each in found.items() if each.type is None and each.nargs != 0 and not each.choices}
        assert plain - {"--help", "--version"} <= texts[name]
    assert paths > 20


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--config", "x.py", "--workdir", ADDRESS],
        ["train", "--config", f"{ADDRESS}/x.py", "--workdir", "w"],
        ["generate", "--checkpoint", ADDRESS, "--text", "hi"],
        ["serve", "--checkpoint", ADDRESS],
        ["generate", "--checkpoint", "run", "--text", "hi", "--out", f"{ADDRESS}/a.wav"],
        ["generate", "--checkpoint", "run", "--audio", f"{ADDRESS}/a.wav"],
        ["evaluate", "score", "--checkpoint", "run", "--records", ADDRESS, "--out", "o"],
        ["evaluate", "report", "--runs", f"a={ADDRESS}", "--out", "o.html"],
        ["evaluate", "report", "--runs", ADDRESS, "--out", "o.html"],
        ["export", "--checkpoint", "run", "--out", ADDRESS],
        ["prepare", "demo", "--out", ADDRESS],
        ["prepare", "check", "--records", "x.jsonl", "--audio-root", ADDRESS],
        ["prepare", "units", "--records", "x.jsonl", f"{ADDRESS}/y.jsonl", "--codec", "c", "--out", "o"],
        ["prepare", "responses", "--records", "x.jsonl", "--out", "o", "--llm", ADDRESS],
        ["prepare", "import", "emodb", ADDRESS, "--out", "o"],
        ["prepare", "import", "emodb", ".", "--out", ADDRESS],
        ["prepare", "import", "emodb", ".", "--out", "o", "--audio-root", ADDRESS],
        ["prepare", "speak", ADDRESS, "--out", "o"],
        ["prepare", "speak", "x.jsonl", "--out", ADDRESS],
        ["prepare", "export", ADDRESS, "--out", "o"],
        ["prepare", "attribute", ADDRESS, "--out", "o", "--llm", "package:x"],
        ["prepare", "attribute", "x.jsonl", "--out", ADDRESS, "--llm", "package:x"],
        ["prepare", "responses", "--records", "x.jsonl", "--out", "o", "--llm", "x", "--answers", ADDRESS],
    ],
    ids=" ".join,
)
def test_commands_refuse_an_address(command, capsys, monkeypatch):
    monkeypatch.setattr("ieat_jax.data.records.read_records", lambda *_, **__: [])
    try:
        importlib.import_module(f"ieat_jax.{command[0]}").main(command[1:])
        code, told = 0, ""
    except UserError as error:
        code, told = 2, str(error)
    except SystemExit as stopped:
        code, told = stopped.code, capsys.readouterr().err
    assert code == 2
    assert "gs://bucket/run" in told
    assert "mount the bucket" in told


FIELDS = {
    "data.sources.dialogues.records": "config.data.sources.dialogues.records",
    "data.sources.dialogues.audio_root": "config.data.sources.dialogues.audio_root",
    "tokenizer.path": "config.tokenizer.path",
    "codec": "config.codec",
    "init.checkpoint": "config.init.checkpoint",
}


@pytest.mark.parametrize("field", FIELDS)
def test_fields_of_the_configuration_refuse_an_address(field, tmp_path, tmp_path_factory):
    from helpers.tiny_stages import recipe, write_corpus

    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, records=2)
    config = recipe(folder, "joint")
    name = "train" if "sources" in field else None
    with config.unlocked():
        *path, last = (name if part == "dialogues" else part for part in field.split("."))
        section = config
        for part in path:
            section = section[part]
        section[last] = ADDRESS
    told = FIELDS[field].replace("dialogues", "train")
    with pytest.raises(StorageError, match=f"^{told} {ADDRESS}: "):
        train(typed(config), tmp_path_factory.mktemp("run") / "run")


def test_python_refuses_an_address():
    config = load_config(str(ROOT / "configs/demo.py") + ":write")
    for call in (
        lambda: train(typed(config), ADDRESS),
        lambda: ieat_jax.load(ADDRESS),
        lambda: load_tokenizer(ADDRESS),
        lambda: load_codec(ADDRESS),
        lambda: load_llm(ADDRESS),
        lambda: load_llm(f"gguf:{ADDRESS}"),
        lambda: load_whisper(ADDRESS),
        lambda: load_speak(ADDRESS),
        lambda: load_whisper(f"ctranslate2:{ADDRESS}"),
        lambda: read_records(ADDRESS),
    ):
        with pytest.raises(StorageError, match="gs://bucket/run: files cannot be read"):
            call()
    for arguments in ({"path": ADDRESS}, {"path": "a.wav", "root": ADDRESS}, {"path": ADDRESS, "root": "."}):
        with pytest.raises(AudioError, match="gs://bucket/run: files cannot be read") as told:
            read_audio(**arguments, max_seconds=1)
        assert told.value.code == "object_store"
