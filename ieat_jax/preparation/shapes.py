"""`prepare shapes`: which shapes a row should have for the data of a recipe, and what each costs."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np

from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.config.recipes import load_config, typed
from ieat_jax.config.sections import RunConfig, Shapes
from ieat_jax.errors import UserError
from ieat_jax.packing.account import COLUMNS, fills
from ieat_jax.packing.plan import Plan
from ieat_jax.packing.propose import epoch_sums, propose
from ieat_jax.packing.sizes import BUDGETS
from ieat_jax.packing.spec import RowSpec
from ieat_jax.training.planned import plan_recipe


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Print a table of the recipe's shapes and the proposed ones, with lines to put into the recipe; returns 0.

    Raises:
        UserError: the recipe or its data cannot be used.
    """
    if arguments.tokens is not None and arguments.tokens < 1:
        raise UserError(f"--tokens {arguments.tokens}: a row holds at least 1")
    config = typed(load_config(arguments.config, overrides))
    read = plan_recipe(config)
    spec, plan = read.spec, read.plan
    shapes = propose(plan, arguments.tokens or config.data.shapes.tokens)
    other = dataclasses.replace(spec, shapes=shapes)
    planned = Plan(plan.mixture, plan.tables, other)
    for line in table(config, (spec, epoch_sums(plan)), (other, epoch_sums(planned))):
        print(line)
    return 0


def table(config: RunConfig, now: tuple[RowSpec, np.ndarray], then: tuple[RowSpec, np.ndarray]) -> list[str]:
    """The lines of the table."""
    lines = [f"{'':16}{'recipe':>9}{'full':>7}{'proposed':>11}{'full':>7}"]
    full = [fills(sums, spec.shapes) for spec, sums in (now, then)]
    changed = []
    for name in BUDGETS:
        sizes = [getattr(spec.shapes, name) for spec, _ in (now, then)]
        if not sizes[0]:
            continue
        lines.append(f"{name:16}{sizes[0]:9}{full[0][name]:7.0%}{sizes[1]:11}{full[1][name]:7.0%}")
        changed += [f"config.data.shapes.{name} = {sizes[1]}"] if sizes[0] != sizes[1] else []
    for title, cost in (("rows an epoch", _rows), ("M tokens", _tokens), ("M encoder frames", _frames)):
        before, after = (cost(config, spec.shapes, sums) for spec, sums in (now, then))
        if before:
            lines.append(f"{title:16}{before:9,.4g}{'':7}{after:11,.4g}")
    return [*lines, "", *(changed or ["the shapes of the recipe are as good"])]


def _rows(_: RunConfig, __: Shapes, sums: np.ndarray) -> float:
    return float(sums[COLUMNS.index("rows")])


def _tokens(_: RunConfig, shapes: Shapes, sums: np.ndarray) -> float:
    """Positions that the LLM computes in an epoch, the teacher's included, in millions."""
    return float(sums[COLUMNS.index("rows")]) * (shapes.tokens + shapes.teacher_tokens) / 1e6


def _frames(config: RunConfig, shapes: Shapes, sums: np.ndarray) -> float:
    """Log-mel frames that the encoder reads in an epoch, in millions."""
    window = shapes.clips * round(config.model.listen.clip_seconds * FRAMES_PER_SECOND)
    return float(sums[COLUMNS.index("rows")]) * (shapes.frames or window) / 1e6
