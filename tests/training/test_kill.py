"""A run that is killed and started again ends with the same bits as one that never was."""

import json
import os
import signal
import subprocess
import sys
import time

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


def write_recipe(file, config, more=""):
    """`more`: lines that run before the training that uses the recipe."""
    get_config = f"def get_config():\n    return from_json({to_json(config)!r})\n"
    file.write_text(f"from ieat_jax.config.recipes import from_json\n{more}\n{get_config}")


def wait_for(process, text):
    """The output up to the line that holds `text`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


# A thread that reads on a file system that hangs, from step 6 on.
STUCK_READER = """
import time
from ieat_jax.packing.pipeline import HostRows
read = HostRows.__getitem__
def stuck(self, index):
    while not isinstance(index, slice) and index >= 5 * 2:
        time.sleep(1000)
    return read(self, index)
HostRows.__getitem__ = stuck
"""


def test_three_steps_a_kill_and_three_more_equal_six(corpus, tmp_path):
    config = recipe(corpus, "joint", train__steps=6, checkpoint__every=3, train__log_every=1)
    config.data.batch_size = 2
    file = tmp_path / "recipe.py"
    write_recipe(file, config)
    straight = start(file, tmp_path / "straight")
    assert straight.wait() == 0, straight.stdout.read()
    write_recipe(tmp_path / "stuck.py", config, STUCK_READER)
    process = start(tmp_path / "stuck.py", tmp_path / "killed")
    try:
        wait_for(process, "step 5/")
        while not (tmp_path / "killed/checkpoints/3").is_dir():  # saved beside the steps that follow
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    again = start(file, tmp_path / "killed")
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert "resuming from step 3" in output
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
        third.send_signal(signal.SIGINT)  # Ctrl-C saves, too
        output, _ = third.communicate(timeout=60)
        assert third.returncode == 75, output
    finally:
        third.kill()


# The main thread in code that no signal interrupts.
STUCK_MAIN = """
import hashlib
import ieat_jax.training.loop as loop
def stuck(*arguments, **options):
    print("stuck now", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
loop.make_step = stuck
"""


def test_a_stop_is_obeyed_while_the_data_hang(corpus, tmp_path):
    config = recipe(corpus, "write", train__steps=50, checkpoint__every=100, train__log_every=1)
    config.data.batch_size = 2
    write_recipe(tmp_path / "recipe.py", config, STUCK_READER)
    process = start(tmp_path / "recipe.py", tmp_path / "run")
    try:
        wait_for(process, "step 5/")
        time.sleep(1)  # until it waits
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 75, output
    assert "asked to leave: step 5 is saved; start the same command again" in output
    assert load_run(tmp_path / "run").step == 5
    assert not (tmp_path / "run/claim.json").exists()


def test_a_stop_is_obeyed_while_nothing_can_be_asked_and_at_once_when_repeated(corpus, tmp_path):
    write_recipe(tmp_path / "recipe.py", recipe(corpus, "write"), STUCK_MAIN)
    once, twice = (start(tmp_path / "recipe.py", tmp_path / f"run{number}") for number in (1, 2))
    try:
        for process in (once, twice):
            wait_for(process, "stuck now")
            process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert twice.poll() is None
        twice.send_signal(signal.SIGTERM)
        output, _ = twice.communicate(timeout=2)
        assert (twice.returncode, "asked twice to leave" in output) == (128 + signal.SIGTERM, True)
        output, _ = once.communicate(timeout=9)
        assert once.returncode == 75
        assert "asked to leave, but stuck in recipe.py:" in output
    finally:
        once.kill()
        twice.kill()
