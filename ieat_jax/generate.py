"""Talk to a trained run: `python -m ieat_jax.generate --checkpoint RUN --audio hello.wav --out reply.wav`.

Give `--audio` or `--text` once per user turn, in order; every turn is answered, and the model's own answers are the
history of the next one. Thinking and reply are printed as they come; the speech of turn n is written to OUT (several
turns: OUT with `_n` before the ending).
"""

import argparse
import sys
from pathlib import Path

from ieat_jax.cli import add_output, exit_with, parser_of, path_argument
from ieat_jax.errors import UserError
from ieat_jax.storage import local_path


class _AppendTurn(argparse.Action):
    """Keeps `--audio` and `--text` in the order in which they were given."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.turns = [*(namespace.turns or []), (option_string.lstrip("-"), values)]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("generate", __doc__)
    parser.add_argument("--checkpoint", required=True, type=path_argument, help="working directory of a training run")
    parser.add_argument("--step", type=int, help="checkpoint step (default: the newest)")
    parser.add_argument("--audio", dest="turns", action=_AppendTurn, metavar="FILE", help="a spoken user turn (repeat)")
    parser.add_argument(
        "--text", dest="turns", action=_AppendTurn, metavar="WORDS", help="a written user turn (repeat)"
    )
    parser.add_argument(
        "--think", action=argparse.BooleanOptionalAction, default=True, help="think before answering (default: yes)"
    )
    add_output(parser, "the spoken reply (.wav), without it no speech is made", required=False, folder=False)
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
    return parser


def _speech_path(out: Path, turn: int, turns: int) -> Path:
    return out if turns == 1 else out.with_name(f"{out.stem}_{turn}{out.suffix or '.wav'}")


def _check(arguments: argparse.Namespace) -> None:
    """Everything that can be wrong before a model is loaded."""
    if not arguments.turns:
        raise UserError("generate: give at least one user turn with --audio FILE or --text WORDS")
    for kind, value in arguments.turns:
        if kind == "audio" and not local_path(value, "generate: --audio").is_file():
            raise UserError(f"generate: --audio {value}: there is no such file")
        if kind == "text" and not value.strip():
            raise UserError("generate: --text is empty")
    if arguments.out and arguments.out.suffix.lower() not in ("", ".wav"):
        raise UserError(f"generate: --out {arguments.out}: speech is written as .wav")
    if arguments.out and arguments.out.is_dir():
        raise UserError(f"generate: --out {arguments.out} is a folder; name a .wav file")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    from ieat_jax.inference.generator import Generator, Limits
    from ieat_jax.inference.prompt import UserTurn
    from ieat_jax.inference.sampling import Sampling, UnitSampling
    from ieat_jax.runs.folder import load_run

    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p, arguments.repetition_penalty)
    units = UnitSampling(temperature=arguments.unit_temperature)
    limits = Limits(arguments.max_think, arguments.max_response, arguments.max_speech_seconds)
    run = load_run(arguments.checkpoint, step=arguments.step)
    generator = Generator.from_run(
        run, sampling=sampling, unit_sampling=units, limits=limits, batch_size=1, seed=arguments.seed
    )
    if arguments.out:
        generator.require_speech()
    turns: list[UserTurn] = []
    for number, (kind, value) in enumerate(arguments.turns, 1):
        turns.append(UserTurn(audio=Path(value)) if kind == "audio" else UserTurn(text=value))
        reply = _answer(generator, turns, think=arguments.think, speech=bool(arguments.out))
        turns[-1] = turns[-1].answered(reply.text)
        if arguments.out:
            _write(reply, generator.codec.sample_rate, _speech_path(arguments.out, number, len(arguments.turns)))
    return 0


def _answer(generator, turns: list, *, think: bool, speech: bool):
    """Stream one answer to the console and return it."""
    from ieat_jax.inference.live import stream

    heading = ""
    reply = None
    for event in stream(generator, turns, think=think, speech=speech):
        if event.kind == "reply":
            reply = event.reply
        elif event.kind in ("think", "text"):
            if event.kind != heading:
                print(("\n" if heading else "") + {"think": "think> ", "text": "reply> "}[event.kind], end="")
                heading = event.kind
            print(event.text, end="", flush=True)
    print()
    if think and not reply.think_closed:
        print("note: the model did not close its thinking; it was closed at the limit (--max-think)", file=sys.stderr)
    if not reply.response_ended:
        print("note: the reply was cut at the limit (--max-response)", file=sys.stderr)
    return reply


def _write(reply, rate: int, path: Path) -> None:
    from ieat_jax.audio.files import write_wav

    if reply.waveform is None or not len(reply.waveform):
        print(f"note: the model said nothing; {path} is not written", file=sys.stderr)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, reply.waveform, rate)
    ended = "" if reply.speech_ended else " (cut at --max-speech-seconds)"
    print(f"wrote {path}: {len(reply.waveform) / rate:.2f} s of speech{ended}")


if __name__ == "__main__":
    exit_with(main)
