"""A run whose storage hangs ends by itself, with the record's name, although a thread of it still waits."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.tiny_stages import write_corpus
from helpers.xla_flags import FAST_COMPILATION

RECIPE = """
import sys
import time
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.tiny_stages import idle, recipe
import ieat_jax.training.loop as loop
from ieat_jax.data.sources import jsonl

read = jsonl.read_audio


def hangs(path, **options):
    if path.startswith("3_"):
        time.sleep(3600)
    return read(path, **options)


def get_config():
    jsonl.read_audio, loop.make_step = hangs, idle
    return recipe(Path({corpus!r}), "align", data__read_timeout=3.0)
"""


def test_a_run_whose_storage_hangs_ends_with_the_record(tmp_path):
    write_corpus(tmp_path)
    mine = tmp_path / "mine.py"
    mine.write_text(RECIPE.format(tests=str(Path(__file__).parents[1]), corpus=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "ieat_jax.train", "--config", str(mine), "--workdir", str(tmp_path / "run")],
        env=os.environ | {"XLA_FLAGS": FAST_COMPILATION},
        text=True,
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
    assert "d3: turn" in done.stderr
    assert "config.data.read_timeout (now 3 s)" in done.stderr
    assert "Traceback" not in done.stderr
