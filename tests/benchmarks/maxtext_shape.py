"""The text-only train step of a Qwen2.5-7B-shaped model, compiled for TPU pods, against what MaxText compiles to.

    python tests/benchmarks/maxtext_shape.py --topology v5e:16x16 --rows 1
    python tests/benchmarks/maxtext_shape.py --topology v5p:4x4x4 --rows 4

MaxText 0.2.5's own train_compile gave the figures in MAXTEXT for qwen2.5-7b at sequence 4096, FSDP over all chips, full
remat, AdamW. Ours is stage `write`: the same decoder with every token supervised, and no speech in or out. Both columns
come from a compiler, not a machine. Takes minutes; needs `pip install 'ieat_jax[tpu]'`.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# (topology, rows per device) -> GiB of HBM peak, TFLOP of matrix products per device, GB of all-gather, of all-reduce
MAXTEXT = {
    ("v5e:16x16", 1): (3.85, 212, 26.8, 14.6),
    ("v5e:16x16", 2): (5.44, 423, 26.8, 14.6),
    ("v5e:16x16", 4): (9.41, 847, 26.8, 14.6),
    ("v5p:4x4x4", 1): (5.65, 212, 27.2, 14.1),
    ("v5p:4x4x4", 4): (15.00, 847, 27.2, 14.1),
    ("v6e:16x16", 4): (9.63, 847, 27.2, 14.1),
}


def text_only():
    """The recipe: every token of 4,096 is supervised, everything trains."""
    from ieat_jax.config.defaults import get_defaults
    from ieat_jax.config.recipes import load_model, to_section

    config = get_defaults()
    config.stage = "write"
    config.model = to_section(load_model(ROOT / "configs" / "models", "qwen2_5_7b"))
    config.model.speak.enabled = False
    config.model.dtype, config.model.remat = "bfloat16", "full"
    config.data.shapes.tokens = config.data.shapes.targets = 4096
    config.objective.chunk = 256
    config.optimizer.rules = ((r"(think|write)\..*", 1.0), (".*", None))
    return config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:16x16", choices=sorted({topology for topology, _ in MAXTEXT}))
    parser.add_argument("--rows", type=int, default=1, help="per device")
    arguments = parser.parse_args()
    expected = MAXTEXT.get((arguments.topology, arguments.rows))
    if expected is None:
        known = ", ".join(f"{topology} with {rows}" for topology, rows in MAXTEXT)
        parser.error(
            f"there is no MaxText figure for {arguments.topology} with {arguments.rows} rows, only for {known}"
        )

    from ieat_jax.compile_check import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ieat_jax.config.recipes import typed
    from ieat_jax.training.compile import check, format_costs

    costs = check(typed(text_only()), arguments.topology, rows_per_device=arguments.rows)
    print(format_costs(costs))
    traffic: dict[str, float] = {}
    for one in costs.collectives:
        traffic[one.kind] = traffic.get(one.kind, 0.0) + one.total / 1e9
    reduced = traffic.get("all-reduce", 0.0) + traffic.get("reduce-scatter", 0.0)
    rows = [
        ("HBM peak, GiB", costs.peak / 2**30 if costs.peak else float("nan"), expected[0]),
        ("TFLOP (ours: attention too)", costs.flops / 1e12, expected[1]),
        ("all-gather, GB", traffic.get("all-gather", 0.0), expected[2]),
        ("all-reduce + reduce-scatter, GB", reduced, expected[3]),
    ]
    print(f"{'':34}{'ours':>10}{'MaxText':>10}{'ratio':>8}")
    for name, ours, theirs in rows:
        print(f"{name:34}{ours:10.2f}{theirs:10.2f}{ours / theirs:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
