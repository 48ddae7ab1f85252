"""How a model answers: the options that `generate` and `serve` share."""

import argparse
from typing import TYPE_CHECKING

from ieat_jax.cli import path_argument

if TYPE_CHECKING:
    from ieat_jax.inference.generator import Generator


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the run, its step, how tokens and units are chosen, and where a reply is cut."""
    parser.add_argument("--checkpoint", required=True, type=path_argument, help="working directory of a training run")
    parser.add_argument("--step", type=int, help="checkpoint step (default: the newest)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="text sampling temperature; 0 = greedy (default)"
    )
    parser.add_argument("--top-k", type=int, default=20, help="text: sample among the k best (0 = all)")
    parser.add_argument("--top-p", type=float, default=0.75, help="text: sample from this nucleus")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="text: 1 = none; the paper's demo: 1.05")
    parser.add_argument("--unit-temperature", type=float, default=0.0, help="speech units: 0 = greedy (default)")
    parser.add_argument("--max-think", type=int, default=160, help="most thinking tokens; then it is closed")
    parser.add_argument("--max-response", type=int, default=80, help="most reply tokens")
    parser.add_argument("--max-speech-seconds", type=float, default=15.0, help="most seconds of speech per reply")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")


def load_generator(arguments: argparse.Namespace) -> "Generator":
    """Load the run that the options name, to answer one dialogue at a time.

    Raises:
        UserError: an option out of its range (told before anything is loaded), or a run that cannot be loaded.
    """
    from ieat_jax.inference.generator import Generator, Limits
    from ieat_jax.inference.sampling import Sampling, UnitSampling
    from ieat_jax.runs import folder

    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p, arguments.repetition_penalty)
    units = UnitSampling(temperature=arguments.unit_temperature)
    limits = Limits(arguments.max_think, arguments.max_response, arguments.max_speech_seconds)
    run = folder.load_run(arguments.checkpoint, step=arguments.step)
    return Generator.from_run(
        run, sampling=sampling, unit_sampling=units, limits=limits, batch_size=1, seed=arguments.seed
    )
