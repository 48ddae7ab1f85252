"""Bad sound is counted once for all processes, in the metrics, the list and the checkpoint, also after a restart."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.tiny_stages import start, use_mesh, write_corpus
from helpers.xla_flags import FAST_COMPILATION

from ieat_jax.config.recipes import load_config
from ieat_jax.runs.steps import read_metadata

ROOT = Path(__file__).parents[2]
RECIPE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import ieat_jax.training.loop as loop
from helpers.tiny_stages import idle, recipe

def get_config(steps):
    loop.make_step = idle  # what is counted does not depend on what is learned
    config = recipe(Path({corpus!r}), "align", train__steps=int(steps), train__log_every=1, mesh__fsdp=2)
    config.data.batch_size, config.data.max_bad_share, config.checkpoint.every = 4, 0.5, 2
    config.checkpoint.allow_changes = ("train.steps",)
    return config
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    for name in ("2_0", "5_1", "6_0"):
        rate, length = 16_000, soundfile.info(folder / f"{name}.wav").frames
        soundfile.write(folder / f"{name}.wav", np.zeros(length), rate)  # its header is as good as any
    (folder / "mine.py").write_text(RECIPE.format(tests=str(ROOT / "tests"), corpus=str(folder)))
    return folder


def train(corpus, workdir, steps, *overrides):
    """A run of two processes."""
    command = ["bash", str(ROOT / "launch/local.sh"), "2", sys.executable, "-m", "ieat_jax.train"]
    command += ["--config", f"{corpus}/mine.py:{steps}", "--workdir", str(workdir), *overrides]
    done = subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": FAST_COMPILATION}, text=True, capture_output=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def told(workdir):
    """What a run says of its data: figures of every step, the list, and what it remembers."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = ("step", "bad_records", "turns", "dialogues", "quarantined_turns", "think_explicit", "fill_tokens")
    listed = [json.loads(line) for line in (workdir / "quarantine.jsonl").read_text().splitlines()]
    state = read_metadata(workdir / "checkpoints")[1]["data_state"]
    bad = sorted((record["source"], record["id"], record["code"]) for record in listed)
    assert sorted(tuple(record[:3]) for record in state["bad"]) == bad
    return [{name: line[name] for name in names} for line in lines], bad, state["account"], state["position"]


def test_two_processes_count_what_one_counts_and_go_on_counting(corpus, tmp_path):
    use_mesh(1, 2, 1, 1)
    try:
        start(load_config(f"{corpus}/mine.py:4"), tmp_path / "one", learns=False)
    finally:
        use_mesh()
    # Parameters that are there need not be drawn, a program that would be compiled in every process.
    begin = [f"--config.init.checkpoint={tmp_path / 'one'}", "--config.init.allow_new=('.*',)"]
    train(corpus, tmp_path / "two", 2, *begin)
    train(corpus, tmp_path / "two", 4, *begin, "--config.data.read_workers=1")  # processes of their own read
    one, two = told(tmp_path / "one"), told(tmp_path / "two")
    assert one[1:] == two[1:]
    assert [line | {"fill_tokens": 0} for line in one[0]] == [line | {"fill_tokens": 0} for line in two[0]]
    assert one[1] == [("train", f"d{number}", "silent") for number in (2, 5, 6)]
    assert [line["bad_records"] for line in one[0]][-1] == 3
    assert sum(line["quarantined_turns"] for line in one[0]) >= 4  # two turns of d5, and d2 and d6 have one
