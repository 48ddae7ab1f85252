"""How long a run takes to its first batch, and how much memory, by the number of dialogues; at step 0 and far on.

    python tests/benchmarks/start.py --dialogues 10000 100000 1000000

The index and the counts of tokens of 100 real lines are repeated on disk until there are so many dialogues, all of
which lie in those lines: all that a start does is done, sizes are real, and no corpus of that size is needed. Rows are
those of `configs/align.py:goat_8b,v5e-256`, of which a host of 64 reads its share. Every case is a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from ieat_jax.config.recipes import load_config, typed
from ieat_jax.config.sections import DataConfig, SourceConfig
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.open import open_sources
from ieat_jax.data.sources.store import ArrayStore, StoreWriter
from ieat_jax.packing.account import Account
from ieat_jax.packing.pipeline import make_batches
from ieat_jax.packing.readers import Readers
from ieat_jax.packing.signs import Signs
from ieat_jax.packing.tables import open_counts
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import load_tokenizer, train_tokenizer
from ieat_jax.training.feed import Feed
from ieat_jax.training.rows import make_row_spec

RECIPE = "configs/align.py:goat_8b,v5e-256"
HOSTS = 64
LINES = 100
WORDS = "well i lost my keys and the bus was late so nobody came to see us but we are glad it is over".split()  # noqa: SIM905
ENDS = {"records": "offsets path_end", "sound": "", "counts": ""}  # arrays of places, which go on in every repetition
BLOCK = 256  # repetitions that are written at a time


def write_lines(folder):
    """100 dialogues of 1 to 5 turns, with clips of 1 to 6 s, and a tokenizer."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(LINES):
        turns = []
        for turn in range(1, int(rng.integers(2, 7))):
            said, reply = (" ".join(rng.choice(WORDS, rng.integers(4, 24))) for _ in range(2))
            clip = f"{number}_{turn}.wav"
            soundfile.write(folder / clip, 0.1 * rng.normal(size=int(16_000 * rng.uniform(1, 6))).clip(-3, 3), 16_000)
            ours = {"emotion": {"label": str(rng.choice(["sad", "happy", "neutral"]))}, "cause": {"text": said[:20]}}
            ours["response"] = {"emotion": "comfort"}
            turns.append(
                {"turn_id": turn, "text": said, "response_text": reply, "split_audio_file": clip, "ieat": ours}
            )
        lines.append(json.dumps({"dialogue_id": f"d{number}", "turns": turns}))
    (folder / "all.jsonl").write_text("\n".join(lines) + "\n")
    train_tokenizer([" ".join(WORDS), "The user feels sad because of it. I should answer in a tone."], 600).save(folder)


def spec_of(folder):
    config = typed(load_config(RECIPE))
    chat = ChatFormat.from_config(load_tokenizer(folder), config.chat)
    return config, make_row_spec(config, config.model.listen, chat, unit_end=None)


def opened(folder, quarantine):
    (source,) = open_sources({"all": SourceConfig(str(folder / "all.jsonl"))}, quarantine)
    return source


def repeat(store, times):
    """Write the arrays of a store again, each so many times behind one another."""
    folder, facts = store.folder, {k: v for k, v in store.facts.items() if k not in ("arrays", "format")}
    kind = folder.name.partition("-")[0]
    with StoreWriter(folder.parent, folder.name) as writer:
        for name in store.facts["arrays"]:
            values = np.array(store[name])
            ends = name in ENDS[kind].split()
            if name == "offsets":
                writer.add(name, values[:1])
                values = values[1:]
            for first in range(0, times, BLOCK):
                some = min(BLOCK, times - first)
                tiled = np.concatenate([values] * some) if len(values) else values
                if ends:
                    tiled = tiled + np.repeat(np.arange(first, first + some) * values[-1], len(values))
                writer.add(name, tiled.astype(values.dtype))
        writer.finish(facts, replace=True)


def prepare(folder, dialogues):
    """A folder with an index of so many dialogues."""
    write_lines(folder)
    time.sleep(2.1)  # until the file's time is old enough to be trusted
    source = opened(folder, Quarantine(0.0))
    stores = [*source.index.stores, open_counts(source, spec_of(folder)[1])]
    for store in stores:
        repeat(ArrayStore(store.folder), dialogues // LINES)


def start(folder, step):
    """One start, as a run has it: {what: 'seconds (of them on a CPU)'}, and the largest memory."""
    began = time.perf_counter(), time.process_time()
    told = {}

    def lap(name):
        nonlocal began
        now = time.perf_counter(), time.process_time()
        told[name] = f"{now[0] - began[0]:.1f} ({now[1] - began[1]:.1f})"
        began = now

    config, spec = spec_of(folder)
    lap("tokenizer")
    quarantine = Quarantine(0.02)
    source = opened(folder, quarantine)
    source.identity()
    lap("open")
    feed = Feed(config.data, [source], spec, quarantine)
    lap("plan")
    size = config.data.batch_size
    row = step * size
    state = {"position": [step, row, 3 * row // spec.window, row], "account": Account().state(), "bad": []}
    feed.begin(step, step + 2, state)
    feed.outlook(step + 2)
    batches = make_batches([source], spec, feed.plan, batch_size=size, steps=step + 2, host=1, hosts=HOSTS)
    lap("first window")
    next(Readers(batches, step, DataConfig(read_threads=1, read_ahead=1), Signs()))
    lap("first batch")
    told["CPU seconds in all"] = round(time.process_time(), 1)
    told["GiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return {"dialogues": len(source), "turns": len(feed.plan.tables[0]), "step": step, **told}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dialogues", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start is not None:
        print(json.dumps(start(arguments.start, arguments.step)))
        return
    for dialogues in arguments.dialogues:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), dialogues)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*.npy"))
            print(f"{dialogues:,} dialogues: index and counts take {size / 2**20:,.0f} MiB of disk", flush=True)
            for step in (0, 1_000_000):
                command = [sys.executable, __file__, "--start", folder, "--step", str(step)]
                began = time.perf_counter()
                told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                told["seconds in all"] = round(time.perf_counter() - began, 1)  # with Python's start and imports
                print("  " + ", ".join(f"{name} {value}" for name, value in told.items()), flush=True)


if __name__ == "__main__":
    main()
