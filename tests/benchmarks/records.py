"""Time and memory of reading records, beside `json.loads` and the file: run it with PYTHONPATH=. from the root."""

import json
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from ieat_jax.data.records import read_records

CODEC = {"name": "ieat-mel", "rate": 50, "vocab_size": 4098, "hash": "abc"}


def dialogue(number: int, units: int, rng: np.random.Generator) -> dict:
    """Three turns as the demo corpus has them, their replies of `units` units each."""
    turns = []
    for turn in range(1, 4):
        response = {"emotion": "comfort"} | ({"units": rng.integers(0, 4096, units).tolist()} if units else {})
        ours = {"emotion": {"label": "sad", "intensity": "moderate", "source": "gold"}, "tone": "a soft voice"}
        ours |= {"cause": {"text": "lost my keys", "evidence": [{"turn_id": 1, "quote": "lost my keys"}]}}
        turns.append(
            {"turn_id": turn, "text": f"I lost my keys again, number {number} {turn}.", "emotion": "sad"}
            | {"split_audio_file": f"audio/{number}_{turn}.wav", "response_audio": f"audio/{number}_{turn}_r.wav"}
            | {"response_text": f"Oh no. Where did you see them, {number}?", "ieat": ours | {"response": response}}
        )
    meta = {"language": "en", "speaker": "anna"} | ({"codec": CODEC} if units else {})
    return {"dialogue_id": f"d{number}", "turns": turns, "ieat_meta": meta}


def seconds(work) -> float:
    """Processor time of the fastest of three runs."""
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Print a row for records without units, with few and with many."""
    rng = np.random.default_rng(0)
    for units, count in ((0, 4000), (300, 2000), (3000, 300)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "r.jsonl"
            path.write_text("".join(json.dumps(dialogue(number, units, rng)) + "\n" for number in range(count)))
            lines, size = path.read_bytes().splitlines(), path.stat().st_size
            plain = seconds(lambda lines=lines: [json.loads(line) for line in lines])
            ours = seconds(lambda path=path: read_records(path))
            tracemalloc.start()
            kept = read_records(path)
            memory = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            print(
                f"{len(kept)} records, {units} units a turn, {size / 1e6:.1f} MB: json.loads {plain:.2f} s, "
                f"read_records {ours:.2f} s = {ours / plain:.1f} x; in memory {memory / size:.1f} x the file"
            )


if __name__ == "__main__":
    main()
