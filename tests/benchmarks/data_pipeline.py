"""What a row costs on the way to a step, beside a torch DataLoader, and how many cores a host needs to keep up.

    python tests/benchmarks/data_pipeline.py --recipe configs/align.py:goat_8b,v5e-256 --runs 5

Dialogues are RECCON's (as in `packing.py`), their clips Emo-DB's recordings, strung together to the length that the
words take to say, as FLAC, in shards. Ours: planned rows of the recipe: decoding, log-mel, thinking, tokens, layout.
The baseline reads the same clips through `torch.utils.data.DataLoader` and `transformers.WhisperFeatureExtractor`, with
nothing else to do. One thread each, runs interleaved; figures are medians of seconds of sound per CPU-second.

A host's cores are those that make its rows in the least time of a step, as the table of launch/README.md has it.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import packing as bench
import soundfile

from ieat_jax.audio import files, logmel
from ieat_jax.config.recipes import load_config, typed
from ieat_jax.costs.hardware import MACHINES
from ieat_jax.data import payload
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources import array_record, jsonl
from ieat_jax.data.sources.array_record import ArrayRecords
from ieat_jax.data.sources.jsonl import JsonLines
from ieat_jax.packing import rows
from ieat_jax.packing.pipeline import make_plan
from ieat_jax.packing.rows import RowMaker
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer
from ieat_jax.training.rows import make_row_spec

# vCPUs of a host, its chips, and the topology of the compile table, by machine.
HOSTS = {
    "v5e-256": (112, 4, "v5e:16x16"),
    "v5p-128": (208, 4, "v5p:4x4x4"),
    "v6e-256": (180, 4, "v6e:16x16"),
    "8xH100": (208, 8, "h100:8"),
}
MODELS = ("goat_8b", "qwen2_5_7b", "qwen3_1_7b", "smollm2_135m", "tiny")


def speech():
    """All of Emo-DB, 16 kHz, one behind the other."""
    paths = sorted((bench.SHARED / "emodb" / "wav").glob("*.wav"))
    return np.concatenate([files.read_audio(path, max_seconds=30) for path in paths])


def corpus(folder, count):
    """Records of `count` dialogues, every clip a file of its own."""
    records = bench.dialogues(folder)[:count]
    sound, at = speech(), 0
    for number, record in enumerate(records):
        for turn in record["turns"]:
            size = round(float(turn["split_audio_file"].removesuffix(".wav")) * files.SAMPLE_RATE)
            turn["split_audio_file"] = f"{number}_{turn['turn_id']}.flac"
            clip = np.take(sound, range(at, at + size), mode="wrap")
            at = (at + size) % len(sound)
            soundfile.write(folder / turn["split_audio_file"], clip, files.SAMPLE_RATE, subtype="PCM_16")
    bench.write_records(folder / "reccon.jsonl", records)
    return records


def shards(folder):
    """The same as shards."""
    command = [sys.executable, "-m", "ieat_jax.prepare", "shards", "--records", str(folder / "reccon.jsonl")]
    subprocess.run([*command, "--out", str(folder / "shards")], check=True, capture_output=True)
    return ArrayRecords(folder / "shards")


class Parts:
    """CPU-seconds by part of a row's making, measured around the functions that do it."""

    def __init__(self):
        self.seconds = {}

    def wrap(self, owner, name, part):
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - began

        setattr(owner, name, timed)


def ours(maker, plan, parts):
    """(CPU-seconds, seconds of sound) of as many rows as there are, and the parts."""
    maker._mel._kept.clear()
    maker._mel._bytes = 0
    parts.seconds.clear()
    sound, count = 0.0, len(plan.window(0).rows)
    began = time.process_time()
    for index in range(count):
        sound += float(maker(index).batch.clip_frames.sum()) / logmel.FRAMES_PER_SECOND
    return time.process_time() - began, sound, count


class Clips:
    """A torch dataset of files."""

    def __init__(self, paths, extractor):
        self.paths, self.extractor = paths, extractor

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        waveform, rate = soundfile.read(self.paths[index], dtype="float32")
        features = self.extractor(waveform, sampling_rate=rate, return_tensors="pt")
        return features.input_features[0], len(waveform)


def torch_baseline(paths):
    """(CPU-seconds, seconds of sound) of one pass over the clips."""
    import torch
    from transformers import WhisperFeatureExtractor

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(Clips(paths, WhisperFeatureExtractor()), batch_size=16, num_workers=0)
    began, sound = time.process_time(), 0.0
    for _, lengths in loader:
        sound += float(lengths.sum()) / files.SAMPLE_RATE
    return time.process_time() - began, sound


def least_seconds():
    """{(model, stage, topology): least seconds of a step}, from the compile table."""
    text = (bench.ROOT / "launch" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\S+) \|.*\| ([\d.]+ / [\d.]+ / [\d.]+) \| \d+% \|$", text, re.M)
    return {(model, stage, where): max(map(float, parts.split(" / "))) for model, stage, where, parts in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="configs/align.py:goat_8b,v5e-256")
    parser.add_argument("--dialogues", type=int, default=120)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--files", action="store_true", help="from a JSON-lines file and sound files, not from shards")
    arguments = parser.parse_args()
    config = typed(load_config(arguments.recipe))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        records = corpus(folder, arguments.dialogues)
        texts = [text for r in records for t in r["turns"] for text in (t["text"], t["response_text"])]
        tokenizer = train_tokenizer([*texts, "The user feels because of I should answer in a tone"], 8000)
        chat = ChatFormat.from_config(tokenizer, config.chat)
        unit_end = 4096 if config.model.speak.enabled else None
        spec = make_row_spec(config, config.model.listen, chat, unit_end=unit_end)
        sources = [JsonLines(folder / "reccon.jsonl") if arguments.files else shards(folder)]
        plan = make_plan(sources, spec, Quarantine(1.0))
        maker, parts = RowMaker(sources, spec, plan), Parts()
        began = time.process_time()
        plan._planned(0)
        planned = (time.process_time() - began) / len(records)
        for owner, name, part in (
            (jsonl, "read_audio", "decode"),
            (payload, "decode_flac", "decode"),
            (jsonl, "parse_line", "records"),
            (array_record, "parse_line", "records"),
            (rows, "clip_log_mel", "log-mel"),
            (rows, "lay_out", "tokens and layout"),
        ):
            parts.wrap(owner, name, part)
        paths = [folder / turn["split_audio_file"] for record in records for turn in record["turns"]]
        found, theirs = [], []
        torch_baseline(paths[:32])
        for _ in range(arguments.runs):
            seconds, sound, count = ours(maker, plan, parts)
            found.append((sound / seconds, seconds / count, {k: v / count for k, v in parts.seconds.items()}))
            seconds, sound = torch_baseline(paths)
            theirs.append(sound / seconds)
        speed, baseline = statistics.median(f[0] for f in found), statistics.median(theirs)
        row = statistics.median(f[1] for f in found)
        print(f"{len(records)} dialogues, {len(paths)} clips, {count} rows of {arguments.recipe}")
        print(f"ours {speed:.0f}, torch {baseline:.0f} seconds of sound per CPU-second: ratio {speed / baseline:.2f}")
        named = {part: statistics.median(f[2][part] for f in found) for part in found[0][2]}
        print(
            f"a row takes {row:.3f} CPU-seconds: "
            + ", ".join(f"{part} {seconds:.3f}" for part, seconds in named.items())
            + f", the rest {row - sum(named.values()):.3f}; planning takes {planned * 1e6:.0f} us a dialogue"
        )
        keep_up(config.stage, row, planned, len(records) / count)


def keep_up(stage, row, planned, dialogues):
    """Print the cores that a host needs."""
    steps = least_seconds()
    print(f"{'model':14}{'machine':10}{'rows/host':>10}{'least step':>12}{'cores':>8}{'of':>5}{'share':>7}")
    for model in MODELS:
        for machine, (cores, chips, topology) in HOSTS.items():
            if (model, stage, topology) not in steps:
                continue
            # Every host plans the rows of all.
            work = row * chips + planned * dialogues * MACHINES[machine]
            needed = work / steps[model, stage, topology]
            print(
                f"{model:14}{machine:10}{chips:10}{steps[model, stage, topology]:11.3g}s{needed:8.1f}{cores:5}"
                f"{needed / cores:7.1%}"
            )


if __name__ == "__main__":
    main()
