"""`prepare show`: the batch of a step as a person reads it, on the terminal and as a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ieat_jax.cli import add_output
from ieat_jax.errors import UserError

ROWS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare show`."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="recipe; --config.FIELD=VALUE, too")
    parser.add_argument("--step", type=int, default=1, help="whose batch, from 1, as the log counts (default: 1)")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"most rows that are shown (default: {ROWS})")
    add_output(parser, "an HTML page of it, with its sound", flag="--html", required=False, folder=False)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Show the batch; returns 0.

    Raises:
        UserError: the recipe or its data cannot be used, or it has no such step.
    """
    from ieat_jax.config.recipes import load_config, typed
    from ieat_jax.showing.page import write_page
    from ieat_jax.showing.read import read_batch
    from ieat_jax.showing.terminal import print_view
    from ieat_jax.training.planned import plan_recipe

    config = typed(load_config(arguments.config, overrides))
    if not 1 <= arguments.step <= config.train.steps:
        raise UserError(
            f"--step {arguments.step}: the run has {config.train.steps} steps (config.train.steps); "
            f"choose one of 1 to {config.train.steps}"
        )
    if arguments.rows < 1:
        raise UserError(f"--rows {arguments.rows}: show at least 1")
    view = read_batch(plan_recipe(config), arguments.step, arguments.rows, recipe=arguments.config)
    print_view(view)
    if arguments.html is not None:
        write_page(view, arguments.html)
        print(f"\nwrote {arguments.html}")
    return 0
