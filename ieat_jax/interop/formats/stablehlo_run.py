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
    header, data = np.split(content[8:], [int(content[:8].view("<u8")[0])])
    items = [(n, item) for n, item in json.loads(header.tobytes()).items() if n != "__metadata__"]
    return {n: jax.device_put(data[slice(*i["data_offsets"])].view("<f4").reshape(i["shape"])) for n, i in items}


def reply(weights, prompt, heard=None, place=None):  # type: ignore[no-untyped-def]
    """Greedy ids behind `prompt` [n], Think's states of both; `heard` [1,A,D] stands at `place` [n] (-1 = text)."""
    size, tokens = len(prompt), np.full((2, SHAPES["context"]), -1, np.int32)
    heard = np.zeros((1, SHAPES["heard"], SHAPES["width"]), np.float32) if heard is None else heard
    tokens[:, :size] = prompt, [-1] * size if place is None else place
    logits, seen, memory = PREFILL(weights, np.maximum(tokens[:1], 0), np.int32([size]), heard, tokens[1:])
    made, states = [int(logits[0].argmax())], [*np.asarray(seen[0, :size])]
    while made[-1] != SHAPES["tokens"]["end_of_turn"] and size + len(made) < SHAPES["context"]:
        logits, seen, memory = STEP(weights, np.int32(made[-1:]), np.int32([size + len(made) - 1]), memory)
        made.append(int(logits[0].argmax()))
        states.append(np.asarray(seen[0]))
    return made, states


if __name__ == "__main__":
    print(*reply(parameters(), [*SHAPES["before"], *map(int, sys.argv[1].split()), *SHAPES["behind"]])[0])
