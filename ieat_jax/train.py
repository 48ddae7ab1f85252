"""Train a stage: `python -m ieat_jax.train --config configs/demo.py:align --workdir runs/align`.

Any field of the configuration is set by `--config.FIELD=VALUE`, e.g. `--config.train.steps=100`. A run that was stopped
goes on when the same command is given again. `--show-config` prints the configuration and ends; `--check` tries what
needs no data, and ends: mistakes are named in seconds.
"""

import argparse
import os
import sys

from ieat_jax.cli import add_output, exit_with, parser_of, path_argument

# Set by TPU pods, multislice and `srun`: jax.distributed finds the rest by itself.
CLUSTER_VARIABLES = ("TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS", "SLURM_PROCID")


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


def initialise_distributed() -> None:
    """Join the other processes where this is one of several: a TPU pod, Slurm, or IEAT_COORDINATOR by hand.

    By hand: IEAT_COORDINATOR=host:port, IEAT_NUM_PROCESSES, IEAT_PROCESS_ID (what `launch/local.sh` sets).
    """
    import jax

    if os.environ.get("IEAT_COORDINATOR"):
        jax.distributed.initialize(
            os.environ["IEAT_COORDINATOR"],
            num_processes=int(os.environ["IEAT_NUM_PROCESSES"]),
            process_id=int(os.environ["IEAT_PROCESS_ID"]),
        )
    elif any(os.environ.get(name) for name in CLUSTER_VARIABLES):
        jax.distributed.initialize()


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 when done, 75 when asked to leave early (start again to go on).

    Raises:
        UserError: a flag, the configuration or the data cannot be used.
    """
    arguments, overrides = _parser().parse_known_args(argv)
    from ieat_jax.config.recipes import load_config, to_json, typed
    from ieat_jax.errors import UserError

    config = load_config(arguments.config, overrides)
    run = typed(config)
    from ieat_jax.objectives.stages import make_objective

    make_objective(run)  # refuses a stage that is not there, and losses of one's own that cannot be used
    if arguments.show_config:
        print(to_json(config), end="")
        return 0
    if arguments.check:
        from ieat_jax.training.trial import try_out

        try_out(run, arguments.made_later)
        print(f"{arguments.config}: nothing wrong is known; stage {run.stage}, {run.train.steps} steps")
        return 0
    if arguments.made_later:
        raise UserError("--made-later belongs to --check")
    if not arguments.workdir:
        raise UserError("--workdir is missing: the folder where the run shall be, e.g. --workdir runs/align")
    initialise_distributed()
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
