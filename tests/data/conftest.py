"""A tokenizer, a chat format and shapes for the data tests."""

import dataclasses

import numpy as np
import pytest

from ieat_jax.data.layout import Clip, LayoutOptions, Shapes, TurnPlan, lay_out
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

SHAPES = Shapes(tokens=256, clips=3, targets=128, answers=3, teacher_tokens=256, speak=256, groups=32)
FRAMES, MELS, POSITIONS = 20, 8, 5


@pytest.fixture(scope="session")
def chat():
    words = "I lost my keys. The user feels sad. I am so sorry. Where did you see them? In the kitchen. Let us look."
    return ChatFormat(train_tokenizer([words] * 4, 300), True, "Be kind.")


@pytest.fixture
def plan():
    """A function: fields of a TurnPlan -> one turn with thinking, and units when asked."""

    def make(response="I am so sorry.", units=None, thinking=None, frames=12, **changes):
        clip = Clip(np.full((frames, MELS), 0.5, np.float32), 3, 2)
        if thinking is None:
            thinking = {"perceive": "I lost my keys.", "state": "The user feels sad."}
        fields = dict(clip=clip, text="I lost my keys.", teacher_text="I lost my keys. (The user feels sad.)")
        return TurnPlan(**(fields | dict(thinking=thinking, response=response, units=units, style=7) | changes))

    return make


@pytest.fixture
def row(chat):
    """A function: (turns, options, changed shapes) -> row."""

    def make(turns, options=None, **shapes):
        options = options or LayoutOptions()
        sizes = dataclasses.replace(SHAPES, **shapes)
        return lay_out(turns, chat, sizes, options, frames=FRAMES, mels=MELS, positions_per_clip=POSITIONS)

    return make
