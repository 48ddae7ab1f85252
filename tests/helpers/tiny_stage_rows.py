"""Tiny models and rows for the objectives' tests."""

import dataclasses
import functools

import jax
import numpy as np
from helpers.host_init import host_init

from ieat_jax.config.sections import Shapes
from ieat_jax.data.arrays import Clip
from ieat_jax.data.batch import stack
from ieat_jax.data.layout import LayoutOptions, TurnPlan, lay_out
from ieat_jax.model.config import (
    AdapterConfig,
    EncoderConfig,
    ListenConfig,
    LLMConfig,
    LoraConfig,
    ModelConfig,
    SpeakConfig,
)
from ieat_jax.model.unified import build_model
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

VOCABULARY, UNITS, FRAMES = 320, 11, 100
SHAPES = Shapes(tokens=192, clips=2, targets=80, answers=2, teacher_tokens=192, speak=192, groups=24)


def tiny_config(**changes):
    fields = dict(
        listen=ListenConfig(
            EncoderConfig(num_layers=1, width=16, num_heads=4, mlp_width=32, num_mels=8, max_positions=50),
            AdapterConfig(num_layers=1, num_heads=4, num_kv_heads=4, head_dim=8, mlp_width=32, conv_width=16),
            clip_seconds=1.0,
        ),
        llm=LLMConfig(
            vocab_size=VOCABULARY, width=16, mlp_width=32, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=8
        ),
        speak=SpeakConfig(freeze_layer=1, unit_vocab_size=UNITS + 1),
    )
    return ModelConfig(**(fields | changes))


LORA = LoraConfig(rank=2)


@functools.cache
def tiny_model(lora=False):
    config = tiny_config(lora=LORA) if lora else tiny_config()
    model = host_init(build_model, config)
    if lora:  # LoRA starts as nothing: give it something to do
        model = jax.tree.map(lambda x: x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape), model)
    return model


@functools.cache
def tiny_chat():
    words = "I lost my keys. The user feels sad. I am so sorry. Where did you see them? In the kitchen. Let us look."
    return ChatFormat(train_tokenizer([words] * 4, VOCABULARY), True, "Be kind.")


def make_turn(number, *, thinks=True, positions=6, told="", **changes):
    rng = np.random.default_rng(number)
    text = ("I lost my keys.", "In the kitchen.")[number % 2]
    clip = Clip(rng.normal(size=(97, 8)).astype(np.float32), positions, number % 8)
    fields = dict(
        clip=clip,
        text=text + told,
        teacher_text=text + told,
        thinking={"perceive": text, "state": "The user feels sad."} if thinks else {},
        response=("I am so sorry.", "Let us look.")[number % 2],
        style=number % 9,
        units=rng.integers(0, UNITS, 5 + number).tolist(),
    )
    return TurnPlan(**(fields | changes))


def make_batch(options, rows=8, *, shapes=SHAPES, positions=6, **changes):
    """Rows of one or two turns, thinking in half of the turns."""
    made = []
    for row in range(rows):
        turns = [
            make_turn(row + n, thinks=(row + n) % 3 != 1, positions=positions, **changes) for n in range(1 + row % 2)
        ]
        # A goat adapter turns 97 frames into 7 positions; the clip's rows in the audio are 7 apart.
        made.append(lay_out([turns], tiny_chat(), shapes, options, frames=FRAMES, mels=8, positions_per_clip=7)[0])
    return stack(made)


ALIGN = LayoutOptions(teacher=True)
JOINT = LayoutOptions(speech=True, internalise=True, internalise_units=True, unit_end=UNITS)
OPTIONS = {"write": LayoutOptions(), "align": ALIGN, "joint": JOINT}


def batch_of(stage, rows=8):
    """Rows as a stage reads them."""
    absent = {"write": {"clips", "teacher_tokens", "speak", "groups"}, "align": {"speak", "groups"}}
    shapes = dataclasses.replace(SHAPES, **dict.fromkeys(absent.get(stage, {"teacher_tokens"}), 0))
    return make_batch(OPTIONS[stage], rows, shapes=shapes, **({"clip": None} if stage == "write" else {}))
