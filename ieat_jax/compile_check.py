"""Compile the training step of a configuration for machines that are not here: does it fit, and what bounds it?

    python -m ieat_jax.compile_check --config configs/joint.py:goat_8b,v5e-256 --topology v5e:16x16
    python -m ieat_jax.compile_check --config configs/align.py:goat_8b --topology v5e:16x16,v6e:16x16 --json
    python -m ieat_jax.compile_check --config configs/align.py:goat_8b,8xH100 --topology h100:8

Any Linux machine with a CPU does, and the compiler: `pip install 'ieat_jax[tpu]'` or, for GPUs, 'ieat_jax[gpu]'.
Overrides are written as for training. Figures are per device and step: HBM as the compiler plans it; FLOPs, bytes and
collectives of the compiled program, loops counted as often as they run; seconds are what the datasheet's peak rates
allow at best, not a prediction. A GPU's program may take the share of its memory that JAX does
(XLA_PYTHON_CLIENT_MEM_FRACTION, 0.75 unless set); on a GPU itself kernels are tuned, which can change its peak a
little. Exit code: 0 it fits, 1 it does not (with advice), 2 the configuration is wrong.
"""

import argparse
import json
import os
import sys

from ieat_jax.cli import exit_with, parser_of

# Without these libtpu looks for a TPU at start-up. The values name no machine.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # of a GPU's driver, which is not here
}


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("compile_check", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="recipe with get_config(arg)")
    parser.add_argument(
        "--topology", required=True, metavar="CHIP:SHAPE[,...]", help="such as v5e:16x16, v5p:4x4x4 or h100:8"
    )
    parser.add_argument(
        "--slices",
        type=int,
        default=1,
        metavar="N",
        help="of that topology (GPUs: hosts); config.mesh.replica over them",
    )
    parser.add_argument("--rows-per-device", type=int, metavar="N", help="instead of config.data.batch_size")
    parser.add_argument("--json", action="store_true", help="print JSON, a list with an object per topology")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Compile and judge; returns the exit code: 0 it fits, 1 it does not.

    Raises:
        UserError: a flag, the configuration or the topology cannot be used.
    """
    arguments, overrides = _parser().parse_known_args(argv)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ieat_jax.config.recipes import load_config, typed
    from ieat_jax.costs.hardware import chip_of
    from ieat_jax.errors import UserError
    from ieat_jax.training.compile import check, format_costs

    for flag, value in (("--rows-per-device", arguments.rows_per_device), ("--slices", arguments.slices)):
        if value is not None and value < 1:
            raise UserError(f"{flag}={value}: must be at least 1")
    config = typed(load_config(arguments.config, overrides))
    topologies = [name for name in arguments.topology.split(",") if name]
    if not topologies:
        raise UserError(f"--topology {arguments.topology!r}: names none; give one, such as v5e:16x16")
    for name in topologies:
        chip_of(name)
    found = []
    for number, name in enumerate(topologies, 1):
        which = f"[{number}/{len(topologies)}] " if len(topologies) > 1 else ""
        print(f"{which}{name}: compiling a step of stage {config.stage}; minutes for a large model", file=sys.stderr)
        found.append(check(config, name, slices=arguments.slices, rows_per_device=arguments.rows_per_device))
        if not arguments.json:
            print(format_costs(found[-1]), flush=True)
    if arguments.json:
        print(json.dumps([costs.as_dict() for costs in found], indent=2))
    return 0 if all(costs.fits for costs in found) else 1


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    exit_with(main)
