"""Export a trained run for other software: `python -m ieat_jax.export --checkpoint RUN --out FOLDER`.

FOLDER gets llm/ (Think and Write, which transformers loads), whisper/ (the encoder), speech.safetensors (all other
parameters) and ieat.json (their configuration). LoRA is merged into the kernels. Runs on a CPU with JAX_PLATFORMS=cpu;
the model has to fit into memory, in float32.
"""

import argparse

from ieat_jax.cli import add_output, exit_with, parser_of, path_argument


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("export", __doc__)
    parser.add_argument("--checkpoint", required=True, type=path_argument, help="working directory of a training run")
    parser.add_argument("--step", type=int, help="checkpoint step (default: the newest)")
    add_output(parser, "a folder that does not exist yet")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the tensors")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from ieat_jax.interop.export import export
    from ieat_jax.runs.folder import load_run

    run = load_run(arguments.checkpoint, step=arguments.step)
    for name, count in export(run, arguments.out, dtype=arguments.dtype).items():
        print(f"wrote {arguments.out / name}: {count} tensors")
    return 0


if __name__ == "__main__":
    exit_with(main)
