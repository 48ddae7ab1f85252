"""Shapes of a row for a data set, so that no budget starves the others."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ieat_jax.config.sections import Shapes
from ieat_jax.packing.account import COLUMNS
from ieat_jax.packing.plan import Plan
from ieat_jax.packing.sizes import BUDGETS
from ieat_jax.packing.spec import RowSpec
from ieat_jax.packing.tables import Tables, chunks, largest_sizes

# Room beyond what the tokens ask for: where several budgets are as tight, dialogues fit one another worse. Clips and
# answers cost next to nothing.
SLACK = {"clips": 1.17, "answers": 1.17, "frames": 1.12}
OTHER_SLACK = 1.08
STEPS = {"clips": 1, "answers": 1, "groups": 32}  # multiples that sizes come in; sequences in those of a kernel's block
BLOCK = 128


def epoch_sums(plan: Plan) -> np.ndarray:
    """What an epoch's rows amount to: sums of the account's columns."""
    return np.sum([plan.window(number).account.sum(axis=0) for number in range(plan.windows)], axis=0)


def propose(plan: Plan, tokens: int) -> Shapes:
    """Sizes of a row of `tokens` tokens in the proportions that the plan's records ask for.

    At least what the largest turn needs by itself; budgets that the plan does not have stay absent.
    """
    shapes, sums = plan.spec.shapes, epoch_sums(plan)
    largest = np.max([_largest(table, plan.spec) for table in plan.tables], axis=0)
    demand = dict(zip(COLUMNS, sums.tolist(), strict=True))
    sizes = {}
    for number, name in enumerate(BUDGETS):
        if not getattr(shapes, name):
            continue
        slack = 1.0 if name == "tokens" else SLACK.get(name, OTHER_SLACK)
        wanted = max(slack * demand[name] / demand["tokens"] * tokens, int(largest[number]))
        step = STEPS.get(name, BLOCK)
        sizes[name] = math.ceil(wanted / step) * step
    sizes["answers"] = max(sizes["answers"], sizes.get("clips", 0))  # a row of turns that hold a clip each
    return dataclasses.replace(shapes, **sizes)


def _largest(tables: Tables, spec: RowSpec) -> np.ndarray:
    """What the largest turn takes of every budget."""
    return np.max([largest_sizes(tables, spec, at).max(axis=0, initial=0) for at in chunks(tables)], axis=0)
