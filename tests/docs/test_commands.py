"""Every command that the quick start and the texts of entry points, recipes and scripts name can be given."""

import json
import os
import re
import shlex
import subprocess

import pytest
from helpers.commands import ROOT, parse

from ieat_jax.config.recipes import load_config
from ieat_jax.errors import UserError


def quickstart_commands(**environment):
    command = ["bash", ROOT / "launch/quickstart.sh", "--dry-run", "--config.train.steps=2"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not line.startswith("#")]


def documented_commands():
    """From the texts of entry points, recipes and launch scripts."""
    found = []
    for path in [*ROOT.glob("ieat_jax/*.py"), *ROOT.glob("configs/*.py"), *ROOT.glob("launch/*.sh")]:
        text = re.sub(r"\\\n[# ]*", " ", path.read_text(encoding="utf-8"))
        found += re.findall(r"^(?:#   |    )((?:[A-Z]+=\S+ )?(?:python -m ieat_jax\.|bash launch/).*)$", text, re.M)
    return found


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands_exist(line):
    parse(line)


def test_commands_are_found():
    assert len(documented_commands()) > 12


@pytest.mark.parametrize(
    "line",
    [
        "python -m ieat_jax.generate --checkpoint runs/demo/joint --sound hello.wav",
        "python -m ieat_jax.train --config configs/demo.py:align --config.train.stpes=2",
        "bash launch/slurm.sh --name align --gpus 8 --config configs/nowhere.py --workdir /shared/runs/align",
        "bash launch/nowhere.sh",
        "SPEED=4 bash launch/local.sh 2 python -m ieat_jax.train --config configs/demo.py:align",
        "pip install -e '.[abacus]'",
        "source venv/bin/activate",
        "python tests/benchmarks/nowhere.py",
        "bash launch/test.sh tests/nowhere",
        "curl example.org | bash",
    ],
)
def test_a_command_that_cannot_be_given_is_noticed(line, capsys):
    with pytest.raises((AssertionError, OSError, SystemExit, UserError)):
        parse(line)


def test_the_quick_start_gives_arguments_that_exist(tmp_path):
    for runs in (str(ROOT / "runs" / "demo"), str(tmp_path / "my runs")):
        commands = quickstart_commands(RUNS=runs)
        assert len(commands) == 13
        for command in commands:
            parse(command)


def test_another_folder_reaches_every_path_of_the_recipe(tmp_path):
    runs = str(tmp_path / "my runs")
    for command in quickstart_commands(RUNS=runs):
        words = shlex.split(command)
        if words[2] == "ieat_jax.train":
            config = load_config(str(ROOT / words[6]), words[7:])
            assert '"runs/' not in json.dumps(config.to_dict(), default=str)
        else:
            assert "runs/demo" not in command
