"""Train a stage: `python -m ieat_jax.train --config configs/demo.py:align --workdir runs/align`.

Any field of the configuration is set by `--config.FIELD=VALUE`, e.g. `--config.train.steps=100`. A run that was stopped
goes on when the same command is given again. `--show-config` prints the configuration and ends; `--check` tries what
needs no data, also against the run in `--workdir` where it is given, and ends: mistakes are named in seconds.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ieat_jax.cli import add_output, exit_with, parser_of, path_argument

if TYPE_CHECKING:  # importing them takes seconds, and `--help` needs neither
    from ml_collections import ConfigDict

    from ieat_jax.config.sections import RunConfig


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("train", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="recipe with get_config(arg)")
    add_output(parser, "folder of the run, all that its use needs", flag="--workdir", required=False)
    parser.add_argument("--show-config", action="store_true", help="print the configuration and end")
    parser.add_argument("--check", action="store_true", help="try configuration and files without training, and end")
    parser.add_argument(
        "--made-later", type=path_argument, metavar="FOLDER", help="with --check: what lies in it need not be there yet"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 when done, 75 when asked to leave early (start again to go on).

    Raises:
        UserError: a flag, the configuration or the data cannot be used.
    """
    arguments, overrides = _parser().parse_known_args(argv)
    from ieat_jax.config.recipes import load_config, typed
    from ieat_jax.errors import UserError

    if arguments.made_later and not arguments.check:
        raise UserError("--made-later belongs to --check")
    if arguments.show_config and arguments.check:
        raise UserError("--show-config and --check end the command each; give one of them")
    if arguments.show_config or arguments.check:
        config = load_config(arguments.config, overrides)
        _try(config, typed(config), arguments)
        return 0
    from ieat_jax.processes import joined

    with joined():  # first of all: what ends one process is then told to all
        run = typed(load_config(arguments.config, overrides))
        if not arguments.workdir:
            raise UserError("--workdir is missing: the folder where the run shall be, e.g. --workdir runs/align")
        from ieat_jax.training.loop import train
        from ieat_jax.training.preemption import STOPPED, exit_soon

        try:
            result = train(run, arguments.workdir)
        except Exception as error:  # Python's own exit would wait for a thread whose reading hangs
            exit_soon(2 if isinstance(error, UserError) else 1)
            raise
    if not result.preempted:
        return 0
    exit_soon(STOPPED)
    return STOPPED


def _try(config: ConfigDict, run: RunConfig, arguments: argparse.Namespace) -> None:
    """Do what `--show-config` or `--check` asks for."""
    from ieat_jax.config.recipes import to_json
    from ieat_jax.objectives.stages import make_objective

    make_objective(run)  # refuses a stage that is not there, and losses of one's own that cannot be used
    if arguments.show_config:
        print(to_json(config), end="")
        return
    from ieat_jax.training.trial import try_out

    try_out(run, arguments.made_later, arguments.workdir)
    print(f"{arguments.config}: nothing wrong is known; stage {run.stage}, {run.train.steps} steps")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    exit_with(main)
