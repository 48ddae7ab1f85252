"""The speech of a reply of run.py, with jax and numpy alone: greedy unit ids, `group` of which are a step of Speak."""

import jax
import numpy as np
from run import FOLDER, SHAPES, reply

SPEAK = jax.jit(jax.export.deserialize(bytearray((FOLDER / "speak.bin").read_bytes())).call)


def units(weights, prompt, made, states, turn=None):  # type: ignore[no-untyped-def]
    """Unit ids [n] of what `run.reply` made behind `prompt`; `turn`: where in it the current turn begins."""
    tokens = SHAPES["tokens"]
    turn = len(tokens["system"]) if turn is None else turn  # by default the prompt has one turn
    system = reply(weights, tokens["speech_system"])[1][: len(tokens["speech_system"])]
    opened = bool(tokens["think_open"]) and prompt[-len(tokens["think_open"]) :] == tokens["think_open"]
    first = len(prompt) + 1  # of the states that come with units: one token later than after thinking
    if opened:
        close = tokens["think_close"]
        ends = [at + len(close) for at in range(len(made)) if made[at : at + len(close)] == close]
        first = len(prompt) + ends[0]
    fed = [*system, *states[turn:]]
    start = len(system) + first - turn  # so many positions are read before the first group
    memory = [np.zeros(shape, kind) for shape, kind in SHAPES["voice"]]
    said, group, nothing = [], np.full((1, SHAPES["group"]), -1, np.int32), np.zeros_like(fed[0])
    for position in range(SHAPES["speak"]):
        state = fed[position] if position < len(fed) else nothing
        logits, memory = SPEAK(weights, state[None], group, np.int32([position]), memory)
        if position < start - 1:
            continue
        group = np.asarray(logits).argmax(-1).astype(np.int32)
        ends = np.flatnonzero(group[0] >= SHAPES["unit_end"])
        said += group[0][: ends[0] if ends.size else None].tolist()
        if ends.size:
            break
    return said
