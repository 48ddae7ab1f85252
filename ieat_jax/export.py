"""Export a trained run for other software: `python -m ieat_jax.export --checkpoint RUN --to FORMAT --out FOLDER`.

huggingface    llm/ (Think and Write, which transformers loads and servers serve), whisper/ (the encoder), and all other
               parameters; config.init.checkpoint begins from it
gguf           model.gguf, the LLM alone, for llama.cpp (--dtype float16, q8_0 or float32)
stablehlo      Listen, prefill and decoding step as programs for CPU, CUDA and TPU; run.py runs them
goat_slm       the whole model in GOAT-SLM's layout, for its public code: adapter `goat`, a Qwen2 or Qwen3 that speaks
ultravox       encoder, adapter `stack` and LLM as an Ultravox, for vLLM: any number of clips, spoken dialogues
qwen2_audio    encoder, adapter `linear` and LLM as a Qwen2-Audio, for transformers: any number of clips
audio_flamingo3   encoder, adapter `mlp` and LLM as an AudioFlamingo3, for transformers: one clip, single turns

FOLDER also gets manifest.json: run, step, version, codec, and what every file is. LoRA is merged into the kernels. Runs
on a CPU with JAX_PLATFORMS=cpu; the model has to fit into memory, in float32.
"""

import argparse

from ieat_jax.cli import add_output, exit_with, parser_of, path_argument


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("export", __doc__)
    parser.add_argument("--checkpoint", required=True, type=path_argument, help="working directory of a training run")
    parser.add_argument("--step", type=int, help="checkpoint step (default: the newest)")
    parser.add_argument("--to", default="huggingface", metavar="FORMAT", help="one of the above (default: huggingface)")
    add_output(parser, "a folder that does not exist yet")
    parser.add_argument("--dtype", help="of the tensors, one that the format has (default: its first)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from ieat_jax.interop.export import export
    from ieat_jax.interop.open import open_run

    run = open_run(arguments.checkpoint, step=arguments.step)
    for name, count in export(run, arguments.out, to=arguments.to, dtype=arguments.dtype).items():
        print(f"wrote {arguments.out / name}: {count} tensors")
    return 0


if __name__ == "__main__":
    exit_with(main)
