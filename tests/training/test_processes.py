"""Several processes are one run: the same code path as a pod, started by launch/local.sh over loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training.tiny_stages import write_corpus

ROOT = Path(__file__).parents[2]
RECIPE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from training.tiny_stages import recipe

def get_config():
    return recipe(Path({folder!r}), "align", train__steps=3, train__log_every=1, mesh__fsdp=4, mesh__tensor=2)
"""


def start(processes, devices, folder):
    command = ["bash", ROOT / "launch/local.sh", processes, sys.executable, "-m", "ieat_jax.train"]
    arguments = ["--config", folder / "recipe.py", "--workdir", folder / f"run_{processes}x{devices}"]
    environment = os.environ | {"DEVICES": str(devices), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.Popen(
        [*map(str, command), *map(str, arguments)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def metrics(folder, name):
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_of_four_devices_are_one_of_eight(tmp_path):
    write_corpus(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE.format(tests=str(ROOT / "tests"), folder=str(tmp_path)))
    for processes, devices in ((1, 8), (2, 4)):
        running = start(processes, devices, tmp_path)
        output, _ = running.communicate(timeout=300)
        assert running.returncode == 0, output[-3000:]
    one, two = metrics(tmp_path, "run_1x8"), metrics(tmp_path, "run_2x4")
    assert [line["step"] for line in two] == [1, 2, 3]
    for alone, together in zip(one, two, strict=True):
        for name in ("loss", "grad_norm", "kl", "ce", "attribute"):
            assert together[name] == pytest.approx(alone[name], rel=1e-5), name
