"""Losses of dialogues are their own: whoever shares a row with them, and wherever they go on."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers.tiny_stage_rows import OPTIONS, make_turn, tiny_chat, tiny_model

from ieat_jax.config.sections import ObjectiveConfig, RunConfig, Shapes
from ieat_jax.data.batch import stack
from ieat_jax.data.layout import lay_out
from ieat_jax.objectives.stages import make_objective

SHAPES = Shapes(tokens=640, clips=8, targets=320, answers=8, teacher_tokens=640, speak=768, groups=96)
ABSENT = {
    "write": ("clips", "teacher_tokens", "speak", "groups"),
    "align": ("speak", "groups"),
    "joint": ("teacher_tokens",),
}
FACTORS = ObjectiveConfig(kl_think=0.5, attribute=0.3, internalise=0.5, internalise_units=0.5)


def dialogue(stage, first, count):
    without = {"clip": None} if stage == "write" else {}
    return [make_turn(first + n, thinks=(first + n) % 3 != 1, **without) for n in range(count)]


def as_history(turn):
    """What the planner makes of a turn that was trained in another row."""
    clip = turn.clip and dataclasses.replace(turn.clip, emotion=-1)
    return dataclasses.replace(turn, clip=clip, supervised=False)


def sums(stage, rows):
    """{part: (sum, weight)} of rows, each a list of dialogues."""
    shapes = dataclasses.replace(SHAPES, **dict.fromkeys(ABSENT[stage], 0))
    made = []
    for dialogues in rows:
        row, kept = lay_out(dialogues, tiny_chat(), shapes, OPTIONS[stage], frames=100, mels=8, positions_per_clip=7)
        assert kept == [len(turns) for turns in dialogues]
        made.append(row)
    objective, _ = make_objective(RunConfig(stage=stage, objective=FACTORS))
    parts = jax.jit(objective)(tiny_model(lora=stage == "align"), stack(made))
    return {name: (float(total), float(weight)) for name, (total, weight) in parts.items()}


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(weight > 0 for name, (_, weight) in wanted.items() if not name.startswith("ce_"))
    for name, (total, weight) in wanted.items():
        assert found[name] == (pytest.approx(total, rel=2e-5, abs=1e-5), pytest.approx(weight, rel=1e-6)), name


@pytest.mark.parametrize("stage", OPTIONS)
def test_a_packed_row_has_the_losses_of_its_dialogues_alone(stage):
    one, two, three = dialogue(stage, 0, 2), dialogue(stage, 3, 1), dialogue(stage, 5, 2)
    assert_equal(sums(stage, [[one, two, three]]), sums(stage, [[one], [two], [three]]))


@pytest.mark.parametrize("stage", OPTIONS)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_dialogue_that_goes_on_in_another_row_has_the_losses_of_the_uncut_one(stage, at):
    turns = dialogue(stage, 0, 4)
    pieces = [[turns[:at]], [[*map(as_history, turns[:at]), *turns[at:]]]]
    assert_equal(sums(stage, pieces), sums(stage, [[turns]]))


@pytest.mark.parametrize("stage", OPTIONS)
def test_history_matters(stage):
    """Otherwise the tests above would say nothing of it."""
    turns = dialogue(stage, 0, 4)
    whole, cut = sums(stage, [[turns]]), sums(stage, [[turns[:2]], [turns[2:]]])
    assert np.abs(whole["ce_response"][0] - cut["ce_response"][0]) > 1e-3
