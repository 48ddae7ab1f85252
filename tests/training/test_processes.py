"""Several processes are one run: the same code path as a pod, started by launch/local.sh over loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny_stages import start, use_mesh, write_corpus
from helpers.xla_flags import FAST_COMPILATION

from ieat_jax.config.recipes import load_config

ROOT = Path(__file__).parents[2]
RECIPE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.tiny_stages import recipe

def get_config():
    fields = dict(train__steps=3, train__log_every=1, data__batch_size=4, mesh__fsdp=2, mesh__tensor=2)
    return recipe(Path({folder!r}), "write", **fields)
"""


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_of_two_devices_are_one_of_four(tmp_path):
    write_corpus(tmp_path)
    file = tmp_path / "recipe.py"
    file.write_text(RECIPE.format(tests=str(ROOT / "tests"), folder=str(tmp_path)))
    command = ["bash", str(ROOT / "launch/local.sh"), "2", sys.executable, "-m", "ieat_jax.train"]
    environment = os.environ | {"DEVICES": "2", "XLA_FLAGS": FAST_COMPILATION}
    done = subprocess.run(
        [*command, "--config", str(file), "--workdir", str(tmp_path / "two")],
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    use_mesh(1, 2, 1, 2)  # of this process's eight devices
    try:
        start(load_config(str(file)), tmp_path / "one")
    finally:
        use_mesh()
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["step"] for line in two] == [1, 2, 3]
    for alone, together in zip(one, two, strict=True):
        for name in ("loss", "grad_norm", "ce_response"):
            assert together[name] == pytest.approx(alone[name], rel=1e-5), name
