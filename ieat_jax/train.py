"""Train a stage: `python -m ieat_jax.train --config configs/demo.py:align --workdir runs/align`.

Any field of the configuration is set by `--config.FIELD=VALUE`, e.g. `--config.train.steps=100`. A run that was stopped
goes on when the same command is given again. `--show-config` prints the configuration and ends.
"""

import argparse
import sys

from ieat_jax.cli import exit_with, parser_of, path_argument


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("train", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="recipe with get_config(arg)")
    parser.add_argument("--workdir", type=path_argument, help="folder of the run: all that its use needs")
    parser.add_argument("--show-config", action="store_true", help="print the configuration and end")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 when done, 75 when asked to leave early (start again to go on).

    Raises:
        UserError: a flag, the configuration or the data cannot be used.
    """
    arguments, overrides = _parser().parse_known_args(argv)
    from ieat_jax.config.recipes import load_config, to_json, typed
    from ieat_jax.errors import UserError

    if arguments.show_config:
        config = load_config(arguments.config, overrides)
        typed(config)
        print(to_json(config), end="")
        return 0
    from ieat_jax.processes import joined

    with joined():  # first of all: what ends one process is then told to all
        run = typed(load_config(arguments.config, overrides))
        if not arguments.workdir:
            raise UserError("--workdir is missing: the folder where the run shall be, e.g. --workdir runs/align")
        from ieat_jax.training.loop import train

        result = train(run, arguments.workdir)
    if not result.preempted:
        return 0
    from ieat_jax.training.preemption import STOPPED, exit_soon

    exit_soon(STOPPED)
    return STOPPED


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    exit_with(main)
