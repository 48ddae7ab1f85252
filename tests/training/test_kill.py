"""A run that is killed and started again ends with the same bits as one that never was, in both stages."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers.tiny_stages import recipe, write_corpus
from helpers.xla_flags import FAST_COMPILATION

from ieat_jax.config.recipes import to_json
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import load_run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def parameters(path):
    return {name: np.asarray(leaf) for name, leaf in named_leaves(load_run(path).model).items()}


def metrics(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "per_second")
    return [{name: value for name, value in line.items() if not name.endswith(timed)} for line in lines]


def start(file, workdir):
    command = [sys.executable, "-m", "ieat_jax.train", "--config", str(file), "--workdir", str(workdir)]
    environment = os.environ | {"XLA_FLAGS": FAST_COMPILATION, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def write_recipe(file, config):
    file.write_text(
        f"from ieat_jax.config.recipes import from_json\ndef get_config():\n    return from_json({to_json(config)!r})\n"
    )


def wait_for(process, text):
    """The output up to the line that holds `text`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.mark.parametrize("stage", ["align", "joint"])
def test_ten_steps_a_kill_and_ten_more_equal_twenty(corpus, tmp_path, stage):
    config = recipe(corpus, stage, train__steps=20, checkpoint__every=10, train__log_every=1)
    file = tmp_path / "recipe.py"
    write_recipe(file, config)
    straight = start(file, tmp_path / "straight")
    assert straight.wait() == 0, straight.stdout.read()
    process = start(file, tmp_path / "killed")
    for line in process.stdout:
        if line.startswith("step 13/"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    again = start(file, tmp_path / "killed")
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert "resuming from step 10" in output
    one, two = parameters(tmp_path / "straight"), parameters(tmp_path / "killed")
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "killed")


def test_two_starts_on_one_folder_and_one_after_a_kill(corpus, tmp_path):
    config = recipe(corpus, "write", train__steps=100_000, checkpoint__every=2, train__log_every=1)
    write_recipe(tmp_path / "recipe.py", config)
    first = start(tmp_path / "recipe.py", tmp_path / "run")
    try:
        wait_for(first, "step 4/")
        second = start(tmp_path / "recipe.py", tmp_path / "run")
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 2, output
        assert f"run: in use by process {first.pid} on " in output
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    third = start(tmp_path / "recipe.py", tmp_path / "run")
    try:
        wait_for(third, "resuming from step")
        third.terminate()
        output, _ = third.communicate(timeout=60)
        assert third.returncode == 75, output
    finally:
        third.kill()
