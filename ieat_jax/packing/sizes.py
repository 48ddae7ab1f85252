"""How much of a row's budgets turns take: the arithmetic of `layout`, for whole arrays of turns, from counts alone."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ieat_jax.audio.codec import GROUP_SIZE
from ieat_jax.config.sections import SEGMENTS, Shapes
from ieat_jax.packing.spec import RowSpec

BUDGETS = tuple(field.name for field in dataclasses.fields(Shapes))
DIALOGUES = len(BUDGETS)  # the column of what is no size: dialogues of a row, which config.data.pack bounds
TOLD = ("state", "trajectory", "cause", "events")  # what a teacher is told
SLOTS = (*SEGMENTS, *(f"told_{name}" for name in TOLD))  # the sentences of a turn


class Counts(NamedTuple):
    """Tokens, positions and units of turns, drawn sentences included: int64 [n] each."""

    text: np.ndarray
    told: np.ndarray  # of what is said besides the words, brackets included
    thought: np.ndarray  # of the thinking that is shown; 0 = an empty block
    reply: np.ndarray
    positions: np.ndarray  # of the clip
    units: np.ndarray  # 0 = the reply is not spoken


class TurnSizes(NamedTuple):
    """What turns take of every budget: [n, budgets + 1] each, and [budgets + 1] for the opening of a dialogue."""

    opening: np.ndarray
    user: np.ndarray  # the user's side of a turn
    history: np.ndarray  # its reply, where another turn follows in the row
    answer: np.ndarray  # its supervised answer


def room(spec: RowSpec) -> np.ndarray:
    """The budgets of a row, and how many dialogues it may hold: [budgets + 1]."""
    return np.array([*(getattr(spec.shapes, name) for name in BUDGETS), spec.pack], np.int64)


def turn_sizes(counts: Counts, spec: RowSpec) -> TurnSizes:
    """Sizes of turns as `layout.lay_out` makes them; a test holds both together."""
    chat, options = spec.chat, spec.options
    system, spoken_system = len(chat.system()), len(chat.speech_system()) if options.speech else 0
    around = len(chat.user_open) + len(chat.user_close)
    read = counts.text + counts.told
    heard = counts.positions if spec.user == "audio" else read
    ones, zeros = np.ones_like(counts.text), np.zeros_like(counts.text)
    thinks = counts.thought > 0
    close = len(chat.think_close) * thinks
    begun = np.where(thinks, len(chat.think_open), len(chat.empty_think))
    said = counts.reply + 1
    twin = thinks & options.internalise
    twin_tokens = twin * (len(chat.empty_think) + said)
    supervised = counts.thought + close + said
    branch = begun + counts.thought + close + said
    groups = np.where(counts.units > 0, counts.units // GROUP_SIZE + 1, 0) * options.speech
    fed = np.where(thinks, begun + counts.thought + close, len(chat.empty_think) + 1)
    speaks, twin_speaks = groups > 0, twin & options.internalise_units & (groups > 0)
    heads = spoken_system + around + heard
    speak = speaks * (heads + fed + groups - 1)
    speak = speak + twin_speaks * (heads + len(chat.empty_think) + 1 + groups - 1)
    taught = int(options.teacher)
    history = counts.reply + len(chat.response_close)
    return TurnSizes(
        opening=_columns(1, tokens=[system + spoken_system], teacher_tokens=[taught * system], dialogues=[1])[0],
        user=_columns(
            len(ones),
            tokens=around + heard,
            clips=ones if spec.user == "audio" else zeros,
            teacher_tokens=taught * (around + read),
        ),
        history=_columns(len(ones), tokens=history, teacher_tokens=taught * history),
        answer=_columns(
            len(ones),
            tokens=branch + twin_tokens,
            targets=supervised + twin * said,
            answers=ones,
            teacher_tokens=taught * (branch + twin_tokens),
            speak=speak,
            groups=groups * (1 + twin_speaks),
        ),
    )


def _columns(count: int, **values: Any) -> np.ndarray:
    sizes = np.zeros((count, len(BUDGETS) + 1), np.int64)
    for name, value in values.items():
        sizes[:, DIALOGUES if name == "dialogues" else BUDGETS.index(name)] = value
    return sizes
