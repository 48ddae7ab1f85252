"""Processes that do not run the same thing end before the first step, with the field and the process by name."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.several import Several
from helpers.tiny_stages import TEXTS, buzz, write_corpus
from helpers.xla_flags import FAST_COMPILATION

from ieat_jax.codecs.mel import train_mel_codec
from ieat_jax.text.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
# Relative paths: a process finds its own files under the same configuration, as hosts with disks of their own do.
RECIPE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.several import Several
from helpers.tiny_stages import recipe

def get_config():
    return recipe(Path("."), {stage!r}, train__steps=3, train__log_every=1, mesh__fsdp=2)
"""
# What process 1 does otherwise: a shell command before it starts in a folder of its own, and arguments.
ONE = 'if ((IEAT_PROCESS_ID)); then cd "$OTHER"; set -- "$@" $ARGUMENTS; else cd "$SHARED"; fi; exec "$@"'


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    for stage in ("write", "align", "joint"):
        (folder / f"{stage}.py").write_text(RECIPE.format(tests=str(ROOT / "tests"), stage=stage))
    return folder


def two(corpus, workdir, *, other=None, stage="write", arguments=""):
    """(exit code, output) of a run of two processes, of which process 1 has other files or more arguments."""
    train = [sys.executable, "-m", "ieat_jax.train", "--config", f"{stage}.py", "--workdir", str(workdir)]
    done = subprocess.run(
        ["bash", str(ROOT / "launch/local.sh"), "2", "bash", "-c", ONE, "-", *train],
        env=os.environ
        | {"XLA_FLAGS": FAST_COMPILATION, "SHARED": str(corpus), "OTHER": str(other or corpus), "ARGUMENTS": arguments},
        text=True,
        capture_output=True,
        timeout=240,
    )
    return done.returncode, done.stdout + done.stderr


def refused(code, output):
    """What the two processes said, once both have ended with code 2 and nothing was trained."""
    assert code == 2, output[-3000:]
    assert "Traceback" not in output
    assert "] stage " not in output  # which is said before the first step
    # The slower one may hear it of the other before it has seen it itself.
    said = dict(re.findall(r"^\[(.)\] (?:error|process . ended): (the processes of .*)$", output, re.MULTILINE))
    assert set(said) == {"0", "1"}, output[-3000:]
    assert said["0"] == said["1"]
    return said["0"]


def test_another_configuration_and_another_version_are_named(corpus, tmp_path):
    theirs = {"optimizer.learning_rate": "0.5", "seed": "7", "train.steps": "5", "mesh.fsdp": "1"}  # other meshes
    ours = {"optimizer.learning_rate": "0.001", "seed": "0", "train.steps": "3", "mesh.fsdp": "2"}
    other = shutil.copytree(corpus, tmp_path / "other")
    shutil.copytree(ROOT / "ieat_jax", other / "ieat_jax", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "ieat_jax/data/layout.py").open("a") as file:
        file.write("\n# edited on one host\n")
    arguments = " ".join(f"--config.{field}={value}" for field, value in theirs.items())
    # `python -m` looks into its folder first.
    told = refused(*two(corpus, tmp_path / "run", other=other, arguments=arguments))
    for field, value in theirs.items():
        assert f"process 1 has config.{field} = {value}, process 0 {ours[field]}" in told
    assert "process 1 has code.ieat_jax/data/layout.py" in told
    assert told.endswith(". Start the same command on all hosts, with the same code and files")
    assert not (tmp_path / "run").exists()


def edited(folder):
    records = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    records[3]["turns"][0]["emotion"] = "neutral"
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def shorter(folder):
    lines = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("".join(f"{line}\n" for line in lines[:-1]))


def rerecorded(folder):
    shutil.copyfile(folder / "1_1.wav", folder / "1_0.wav")


def retokenized(folder):
    shutil.rmtree(folder / "tokenizer")
    train_tokenizer([*TEXTS, "Other words make other pieces, which have the same number."], 320).save(
        folder / "tokenizer"
    )


def recoded(folder):
    codec = train_mel_codec([buzz(number + 9, 1.5) for number in range(4)], codes=32)
    shutil.rmtree(folder / "codec")
    codec.save(folder / "codec")
    records = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    for record in records:
        record["ieat_meta"]["codec"] = codec.identity()
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


# Changes that do not hide each other; a stage that does not listen need not care for recordings.
OTHER_FILES = {
    "align": {edited: "data train.content", rerecorded: "data train.audio", retokenized: "tokenizer"},
    "joint": {shorter: "data train.records = 7, process 0 8", recoded: "codec."},
}


@pytest.mark.parametrize("stage", OTHER_FILES)
def test_other_files_under_the_same_path_are_named(corpus, tmp_path, stage):
    other = shutil.copytree(corpus, tmp_path / "other")
    for change in OTHER_FILES[stage]:
        change(other)
    told = refused(*two(corpus, tmp_path / "run", other=other, stage=stage))
    for field in OTHER_FILES[stage].values():
        assert f"process 1 has {field}" in told


def test_another_folder_under_the_same_path_is_named(corpus, tmp_path):
    code, output = two(corpus, "run", other=shutil.copytree(corpus, tmp_path / "other"))
    assert code == 2, output[-3000:]
    assert "run: process 1 does not see the folder that process 0 writes to" in output
    assert not (corpus / "run").exists()


def test_another_first_step_is_named_and_those_that_differ_are_counted():
    program = """
        from ieat_jax.training.same import check_same
        with joined():
            check_same("first step", lambda: {"first step": 4})
            check_same("first step", lambda: {"first step": 4 if me == 0 else 2, "a": {"b": [me, "x" * 100]}})
    """
    with Several(program, 3) as several:
        ends = several.ends()
    assert [code for code, _, _ in ends] == [2] * 3, ends
    for _, _, err in ends:
        assert "process 1 has first step = 2, process 0 4; process 1 has a.b = [1, 'xxx" in err, err
        assert "xxx ... (of 2 processes that differ from process 0). Start the same command on all hosts" in err, err
