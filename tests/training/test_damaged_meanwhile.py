"""A run whose recordings are damaged while it goes on, and that is stopped in every way, ends as one that was not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.tiny_stages import buzz, recipe, write_corpus
from helpers.xla_flags import FAST_COMPILATION

from ieat_jax.config.recipes import to_json, typed
from ieat_jax.runs.steps import read_metadata
from ieat_jax.training.planned import plan_recipe

DIALOGUES, BATCH, STEPS = 134, 4, 24  # 201 recordings
LATE = range(12, 20)  # steps that read what is damaged first
TIMEOUT = 6.0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a corpus and mine.py, and two recordings that are first read late: 1 % of all."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, records=DIALOGUES)
    config = recipe(folder, "align", train__steps=STEPS, train__log_every=1, checkpoint__every=4)
    config.data.batch_size, config.data.max_bad_share = BATCH, 0.02
    config.data.read_ahead = config.data.read_threads = 1
    config.data.read_timeout = TIMEOUT
    (folder / "mine.py").write_text(
        f"from ieat_jax.config.recipes import from_json\ndef get_config():\n    return from_json({to_json(config)!r})\n"
    )
    plan = plan_recipe(typed(config)).plan
    read = [{piece.record for row in range(step * BATCH, (step + 1) * BATCH) for piece in plan.row(row)}
            for step in range(LATE.stop)]  # fmt: skip
    late = sorted(set().union(*read[LATE.start :]).difference(*read[: LATE.start]))
    late = [number for number in late if number % 2 == 0]  # of one turn
    flac, wav = (folder / f"{number}_0.wav" for number in late[:2])
    soundfile.write(flac, buzz(1, 0.9), 16_000, format="FLAC")
    return folder, {f"d{late[0]}": (flac, "corrupt"), f"d{late[1]}": (wav, "silent")}


def damage(path):
    """Other content behind the header of a file, with the size and time that it had."""
    before, content = path.stat(), path.read_bytes()
    flac = content[:4] == b"fLaC"
    with path.open("r+b") as file:
        file.seek(200 if flac else 44)
        file.write(np.random.default_rng(0).bytes(len(content) // 2) if flac else bytes(len(content) - 44))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


class Train:
    """`python -m ieat_jax.train` as it goes on."""

    def __init__(self, folder, workdir, workers):
        command = [sys.executable, "-m", "ieat_jax.train", "--config", str(folder / "mine.py")]
        command += ["--workdir", str(workdir), f"--config.data.read_workers={workers}"]
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.workdir, self.printed = workdir, workdir.with_suffix(f".{time.monotonic_ns()}")
        with self.printed.open("w") as out:
            self.process = subprocess.Popen(
                command, env=os.environ | cache | {"XLA_FLAGS": FAST_COMPILATION, "PYTHONUNBUFFERED": "1"},
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait(self, ready):
        """Wait until `ready` is true."""
        deadline = time.monotonic() + 300
        while not ready():
            assert self.process.poll() is None, self.printed.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def at(self, step):
        """Wait until so many steps are logged."""
        self.wait(lambda: len(lines(self.workdir / "metrics.jsonl")) >= step)
        return self

    def readers(self):
        """Its reading processes."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def end(self, code):
        """Wait for its end, which has this exit code; what it printed."""
        assert self.process.wait(timeout=300) == code, self.printed.read_text()[-3000:]
        assert "Traceback" not in self.printed.read_text()
        return self.printed.read_text()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def told(workdir):
    """What a run says of its data: figures of every step, the list, and what it remembers."""
    names = ("step", "bad_records", "turns", "dialogues", "quarantined_turns", "fill_tokens", "think_explicit")
    state = read_metadata(workdir / "checkpoints")[1]["data_state"]
    bad = sorted((each["source"], each["id"], each["code"]) for each in lines(workdir / "quarantine.jsonl"))
    assert sorted(tuple(each[:3]) for each in state["bad"]) == bad
    figures = [{name: line[name] for name in names} for line in lines(workdir / "metrics.jsonl")]
    return figures, bad, state["account"], state["position"]


@pytest.fixture(scope="module")
def straight(run, tmp_path_factory):
    """What a run says that was never stopped, and whose recordings were damaged while it compiled."""
    folder, damaged = run
    workdir = tmp_path_factory.mktemp("straight") / "run"
    straight = Train(folder, workdir, 0)
    straight.wait(lambda: "dialogues an epoch" in straight.printed.read_text())  # sound was measured
    for path, _ in damaged.values():
        damage(path)
    straight.end(0)
    return told(workdir)


def test_damage_while_it_runs_is_counted(run, straight):
    _, damaged = run
    figures, bad, *_ = straight
    assert bad == sorted(("train", name, code) for name, (_, code) in damaged.items())
    assert [line["step"] for line in figures] == list(range(1, STEPS + 1))
    assert {line["bad_records"] for line in figures[: LATE.start]} == {0.0}
    assert figures[-1]["bad_records"] == len(damaged)
    assert sum(line["quarantined_turns"] for line in figures) >= len(damaged)
