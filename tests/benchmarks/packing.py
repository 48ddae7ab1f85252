"""How full planned rows are, beside Grain's own packing of the same dialogues; every turn counted over two epochs.

    python tests/benchmarks/packing.py --recipe configs/align.py:goat_8b,v5e-256

Dialogues are RECCON's (`../shared/data` or IEAT_SHARED_DATA), whose two speakers take turns: the first is the user.
Clips last as long as their words take to say (150 words a minute). Replies have 25 units a second. Grain's packers get
whole dialogues in the shuffled order, in rows of the same shapes; what is longer than a row is cut off, as Grain does.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import grain
import numpy as np
import soundfile

from ieat_jax.config.recipes import load_config, typed
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import write_records
from ieat_jax.data.sources.jsonl import JsonLines
from ieat_jax.packing.account import COLUMNS, fills, waste
from ieat_jax.packing.pipeline import make_plan
from ieat_jax.packing.sizes import BUDGETS, room
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer
from ieat_jax.training.rows import make_row_spec

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("IEAT_SHARED_DATA", ROOT.parent / "shared" / "data"))
CODEC = {"name": "bench", "rate": 25, "vocab_size": 4096, "hash": "0"}


def seconds(words):
    return 0.4 + 0.4 * len(words.split())


def dialogues(folder):
    """Records of RECCON's training dialogues; clips are files of silence in `folder`, one per length."""
    raw = json.loads((SHARED / "reccon" / "dailydialog_train.json").read_text(encoding="utf-8"))
    records = []
    for name, (said,) in raw.items():
        turns = []
        for number, (user, reply) in enumerate(zip(said[::2], said[1::2], strict=False), 1):
            length = f"{min(seconds(user['utterance']), 29.9):.1f}"
            if not (folder / f"{length}.wav").exists():
                soundfile.write(folder / f"{length}.wav", np.zeros(round(float(length) * 16_000)), 16_000)
            ours = {"emotion": {"label": user["emotion"], "source": "gold"}, "response": {"emotion": "comfort"}}
            spans = user.get("expanded emotion cause span") or []
            if spans and isinstance(spans[0], str) and spans[0] not in ("", "b"):
                ours["cause"] = {"text": spans[0]}
            ours["response"]["units"] = [0] * round(25 * seconds(reply["utterance"]))
            turns.append(
                {"turn_id": number, "text": user["utterance"], "response_text": reply["utterance"],
                 "split_audio_file": f"{length}.wav", "ieat": ours}
            )  # fmt: skip
        if turns:
            records.append({"dialogue_id": name, "turns": turns, "ieat_meta": {"codec": CODEC}})
    return records


def grain_rows(packer, sizes, limits):
    """Sums [rows, budgets] of Grain's rows over dialogues `sizes` [n, budgets]: each budget is a feature of its own."""
    used = [number for number, limit in enumerate(limits) if limit]
    names = [BUDGETS[number] for number in used]
    elements = [
        {name: np.ones(size[number], np.int8) for name, number in zip(names, used, strict=True)} for size in sizes
    ]
    lengths = {name: int(limits[number]) for name, number in zip(names, used, strict=True)}
    source = grain.MapDataset.source(elements).to_iter_dataset()
    packed = packer(source, length_struct=lengths, num_packing_bins=64)
    rows = [[int((row[f"{name}_segment_ids"] > 0).sum()) for name in names] for row in map(dict, packed)]
    return np.array(rows), names


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="configs/align.py:goat_8b,v5e-256")
    arguments = parser.parse_args()
    config = typed(load_config(arguments.recipe))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        records = dialogues(folder)
        write_records(folder / "reccon.jsonl", records)
        source = JsonLines(folder / "reccon.jsonl")
        texts = [text for r in records for t in r["turns"] for text in (t["text"], t["response_text"])]
        tokenizer = train_tokenizer([*texts, "The user feels because of I should answer in a tone"], 8000)
        chat = ChatFormat.from_config(tokenizer, config.chat)
        unit_end = 4096 if config.model.speak.enabled else None
        spec = make_row_spec(config, config.model.listen, chat, unit_end=unit_end)
        began = time.perf_counter()
        quarantine = Quarantine(1.0)
        plan = make_plan([source], spec, quarantine)
        measured = time.perf_counter() - began
        epoch = plan.windows
        began = time.perf_counter()
        windows = [plan.window(number) for number in range(2 * epoch)]
        planned = time.perf_counter() - began
        sums = sum(window.account.sum(axis=0) for window in windows)
        named = dict(zip(COLUMNS, sums.tolist(), strict=True))
        turns = sum(len(record["turns"]) for record in records)
        print(f"{len(records)} dialogues, {turns} turns; set aside: {quarantine.summary()}")
        print(f"measured in {measured:.1f} s, planned at {2 * len(records) / planned:,.0f} dialogues a second")
        for number in range(2):
            seen = Counter()
            for window in windows[number * epoch : (number + 1) * epoch]:
                seen.update((p.record, t) for row in window.rows for p in row for t in range(p.first, p.last + 1))
            often = f"{min(seen.values())} to {max(seen.values())}"
            print(f"epoch {number + 1}: {len(seen)} of {turns} turns trained, each {often} times")
        print(f"{named['rows'] / 2:.0f} rows an epoch, {named['dialogues'] / named['rows']:.2f} dialogues a row")
        limits = room(spec)[: len(BUDGETS)]
        print(f"{'':12}" + "".join(f"{name:>16}" for name in BUDGETS if getattr(spec.shapes, name)))
        print(f"{'planned':12}" + "".join(f"{share:16.1%}" for share in fills(sums, spec.shapes).values()))
        if sentence := waste(sums, spec.shapes):
            print(sentence)
        alone = dataclasses.replace(
            spec,
            pack=1,
            shapes=dataclasses.replace(spec.shapes, **{n: 1 << 20 for n in BUDGETS if getattr(spec.shapes, n)}),
        )
        single = make_plan([source], alone, Quarantine(1.0))
        count = sum(len(single.window(k).rows) for k in range(single.windows))
        sizes = np.stack([sum(part for _, part in single.account(k, k + 1))[: len(BUDGETS)] for k in range(count)])
        sizes = np.minimum(sizes, limits)
        for packer in (grain.experimental.FirstFitPackIterDataset, grain.experimental.BestFitPackIterDataset):
            rows, names = grain_rows(packer, sizes, limits)
            shares = rows.sum(axis=0) / (len(rows) * np.array([limits[BUDGETS.index(name)] for name in names]))
            print(f"{packer.__name__[:8]:12}" + "".join(f"{share:16.1%}" for share in shares) + f"  {len(rows)} rows")


if __name__ == "__main__":
    main()
