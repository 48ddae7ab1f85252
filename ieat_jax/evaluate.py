"""Measure trained runs and compare them.

    python -m ieat_jax.evaluate score --checkpoint runs/align --records data/demo/test.jsonl --out scores/align
    python -m ieat_jax.evaluate report --runs write=scores/write align=scores/align --out report.html

`score` generates replies to held-out dialogues and writes metrics.json, predictions.jsonl and audio samples;
`report` compares scored folders in one HTML page and prints the table.
"""

import argparse
import dataclasses
from pathlib import Path

from ieat_jax.cli import add_output, exit_with, parser_of, path_argument
from ieat_jax.errors import UserError
from ieat_jax.storage import local_path


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("evaluate", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser("score", help="generate replies to held-out dialogues and measure them")
    score.add_argument("--checkpoint", required=True, type=path_argument, help="working directory of a training run")
    score.add_argument("--step", type=int, help="checkpoint step (default: the newest)")
    score.add_argument("--records", required=True, type=path_argument, help="JSONL of held-out dialogues")
    score.add_argument(
        "--audio-root", type=path_argument, help="folder the audio paths start from (default: that of the records)"
    )
    add_output(score, "folder for metrics.json, predictions.jsonl and samples/")
    score.add_argument(
        "--limit", type=int, default=0, help="score only this many turns, spread over the file (0 = all)"
    )
    score.add_argument(
        "--think", action=argparse.BooleanOptionalAction, default=True, help="think before answering (default: yes)"
    )
    score.add_argument(
        "--controls", action=argparse.BooleanOptionalAction, default=True, help="also with silent and exchanged audio"
    )
    score.add_argument("--speak", type=int, default=32, help="spoken replies to make and transcribe (0 = none)")
    score.add_argument("--asr", action=argparse.BooleanOptionalAction, default=True, help="transcribe them by Whisper")
    score.add_argument("--samples", type=int, default=8, help="turns whose audio is kept for the report")
    score.add_argument("--batch-size", type=int, default=32)
    score.add_argument("--max-think", type=int, default=160, help="most thinking tokens; then it is closed")
    score.add_argument("--max-response", type=int, default=80, help="most reply tokens")
    score.add_argument("--max-speech-seconds", type=float, default=10.0, help="most seconds of speech per reply")
    score.add_argument("--seed", type=int, default=0, help="seed of the controls and the bootstrap")
    report = commands.add_parser("report", help="compare scored folders in one HTML page")
    report.add_argument("--runs", required=True, nargs="+", metavar="NAME=DIR", help="scored folders, in order")
    add_output(report, "the HTML file", folder=False)
    report.add_argument("--title", default="What the model heard, thought and said")
    return parser


def _named(runs: list[str]) -> list[tuple[str, Path]]:
    """NAME=DIR (or DIR alone, named after the folder) -> pairs; a name can occur once.

    Raises:
        UserError: a name is empty or given twice.
    """
    pairs = []
    for text in runs:
        name, equals, folder = text.partition("=")
        folder = local_path(folder if equals else name, "report: --runs")
        pairs.append((name if equals else folder.resolve().name, folder))
    names = [name for name, _ in pairs]
    for name in names:
        if not name or names.count(name) > 1:
            raise UserError(
                f"report: --runs {' '.join(runs)}: the name {name!r} is empty or given twice; write NAME=DIR"
            )
    return pairs


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code.

    Raises:
        UserError: what was given cannot be scored or compared.
    """
    arguments = _parser().parse_args(argv)
    return _report(arguments) if arguments.command == "report" else _score(arguments)


def _score(arguments: argparse.Namespace) -> int:
    """`evaluate score`.

    Raises:
        UserError: nothing can be scored, or a measure failed; what the others found is written.
    """
    from ieat_jax.evaluation.measures import all_measures
    from ieat_jax.evaluation.predict import ScoreOptions
    from ieat_jax.evaluation.report.folder import read_scored
    from ieat_jax.evaluation.report.table import print_table
    from ieat_jax.evaluation.score import score
    from ieat_jax.runs.folder import read_config

    options = ScoreOptions(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(ScoreOptions)})
    read_config(arguments.checkpoint)  # is there a run? before the records are read
    failed = score(arguments.checkpoint, arguments.records, arguments.out, options)["failed"]
    print_table([read_scored(arguments.checkpoint.resolve().name, arguments.out)], all_measures())
    if failed:
        raise UserError(f"score: {'; '.join(failed.values())}. All else is in {arguments.out}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from ieat_jax.evaluation.measures import all_measures
    from ieat_jax.evaluation.report.folder import read_scored
    from ieat_jax.evaluation.report.page import write_report
    from ieat_jax.evaluation.report.table import print_table

    runs = [read_scored(name, folder) for name, folder in _named(arguments.runs)]
    write_report(runs, arguments.out, all_measures(), title=arguments.title)
    print_table(runs, all_measures())
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    exit_with(main)
