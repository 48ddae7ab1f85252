"""A reply of an export as StableHLO, with jax and numpy alone: python run.py "TOKEN IDS OF THE USER'S TEXT"."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

FOLDER = Path(__file__).parent
SHAPES = json.loads((FOLDER / "shapes.json").read_text())
FILES = (FOLDER / f"{name}.bin" for name in ("listen", "prefill", "step"))
LISTEN, PREFILL, STEP = (jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call) for file in FILES)


def parameters() -> dict[str, jax.Array]:
    """Those of the export: safetensors is a length, a JSON header, and the bytes."""
    content = np.memmap(FOLDER / "parameters.safetensors", np.uint8, "r")
    start = 8 + int(content[:8].view("<u8")[0])
    items = {name: item for name, item in json.loads(content[8:start].tobytes()).items() if name != "__metadata__"}
    where = {name: slice(*(start + at for at in item["data_offsets"])) for name, item in items.items()}
    return {n: jax.device_put(content[where[n]].view("<f4").reshape(items[n]["shape"])) for n in items}


def reply(weights, prompt, heard=None, place=None):  # type: ignore[no-untyped-def]
    """Greedy token ids [n] behind `prompt` [n]; `heard` [1,A,D] of LISTEN stands at `place` [n] (-1 = text)."""
    size, spare = len(prompt), SHAPES["context"] - len(prompt)
    heard = np.zeros((1, SHAPES["heard"], SHAPES["width"]), np.float32) if heard is None else heard
    tokens, place = np.int32([prompt]), np.int32([[-1] * size if place is None else place])
    tokens, place = (np.pad(ids, ((0, 0), (0, spare)), constant_values=-1) for ids in (tokens, place))
    logits, memory = PREFILL(weights, np.maximum(tokens, 0), np.int32([size]), heard, place)
    made = [int(logits[0].argmax())]
    while made[-1] != SHAPES["tokens"]["end_of_turn"] and len(made) < spare:
        logits, memory = STEP(weights, np.int32(made[-1:]), np.int32([size + len(made) - 1]), memory)
        made.append(int(logits[0].argmax()))
    return made


if __name__ == "__main__":
    print(*reply(parameters(), [*SHAPES["before"], *map(int, sys.argv[1].split()), *SHAPES["behind"]]))
