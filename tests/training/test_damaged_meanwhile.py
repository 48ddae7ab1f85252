"""A run whose recordings are damaged while it goes on counts them, and goes on."""

import json
import os

import numpy as np
import soundfile
from helpers.tiny_stages import buzz, idle, recipe, start, use_mesh, write_corpus

import ieat_jax.training.loop as loop
from ieat_jax.config.recipes import typed
from ieat_jax.runs.steps import read_metadata
from ieat_jax.training.planned import plan_recipe

DIALOGUES, BATCH, STEPS = 134, 4, 24  # 201 recordings
LATE = range(12, 20)  # steps that read what is damaged first
TIMEOUT = 6.0


def made(folder):
    """A run's configuration, and two recordings that are first read late: 1 % of all."""
    write_corpus(folder, records=DIALOGUES)
    config = recipe(folder, "align", train__steps=STEPS, train__log_every=1, checkpoint__every=4)
    config.data.batch_size, config.data.max_bad_share = BATCH, 0.02
    config.data.read_ahead = config.data.read_threads = 1
    config.data.read_timeout = TIMEOUT
    plan = plan_recipe(typed(config)).plan
    read = [{piece.record for row in range(step * BATCH, (step + 1) * BATCH) for piece in plan.row(row)}
            for step in range(LATE.stop)]  # fmt: skip
    late = sorted(set().union(*read[LATE.start :]).difference(*read[: LATE.start]))
    late = [number for number in late if number % 2 == 0]  # of one turn
    flac, wav = (folder / f"{number}_0.wav" for number in late[:2])
    soundfile.write(flac, buzz(1, 0.9), 16_000, format="FLAC")
    return config, {f"d{late[0]}": (flac, "corrupt"), f"d{late[1]}": (wav, "silent")}


def damage(path):
    """Other content behind the header of a file, with the size and time that it had."""
    before, content = path.stat(), path.read_bytes()
    flac = content[:4] == b"fLaC"
    with path.open("r+b") as file:
        file.seek(200 if flac else 44)
        file.write(np.random.default_rng(0).bytes(len(content) // 2) if flac else bytes(len(content) - 44))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def told(workdir):
    """What a run says of its data: figures of every step, and the list, which it remembers."""
    state = read_metadata(workdir / "checkpoints")[1]["data_state"]
    bad = sorted((each["source"], each["id"], each["code"]) for each in lines(workdir / "quarantine.jsonl"))
    assert sorted(tuple(each[:3]) for each in state["bad"]) == bad
    return lines(workdir / "metrics.jsonl"), bad


def test_damage_while_it_runs_is_counted(tmp_path, monkeypatch):
    config, damaged = made(tmp_path)

    def damage_first(*_, **__):  # sound was measured by now, and the first steps are being read
        for path, _ in damaged.values():
            damage(path)
        return idle()

    monkeypatch.setattr(loop, "make_step", damage_first)
    use_mesh(1, 1, 1, 1)
    try:
        start(config, tmp_path / "run")
    finally:
        use_mesh()
    figures, bad = told(tmp_path / "run")
    assert bad == sorted(("train", name, code) for name, (_, code) in damaged.items())
    assert [line["step"] for line in figures] == list(range(1, STEPS + 1))
    assert {line["bad_records"] for line in figures[: LATE.start]} == {0.0}
    assert figures[-1]["bad_records"] == len(damaged)
    assert sum(line["quarantined_turns"] for line in figures) >= len(damaged)
