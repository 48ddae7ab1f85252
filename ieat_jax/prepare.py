"""Prepare data for training; nothing is downloaded, recordings are never copied.

    python -m ieat_jax.prepare demo --out data/demo --hours 0.5
    python -m ieat_jax.prepare codec --records data/demo/train.jsonl --out data/codec
    python -m ieat_jax.prepare units --records data/demo/*.jsonl --codec data/codec --out data/units
    python -m ieat_jax.prepare tokenizer --records data/demo/*.jsonl --out data/tokenizer
    python -m ieat_jax.prepare check --records data/units/train.jsonl --audio-root data/demo
    python -m ieat_jax.prepare shards --records data/units/train.jsonl --audio-root data/demo --out data/shards
    python -m ieat_jax.prepare tfds --shards data/shards --name mine --out data/tfds
    python -m ieat_jax.prepare shapes --config configs/mine.py:align
    python -m ieat_jax.prepare show --config configs/mine.py:align --step 3 --html batch.html
    python -m ieat_jax.prepare import --list
    python -m ieat_jax.prepare import emodb emodb/wav --out data/emodb
    python -m ieat_jax.prepare speak data/reccon/train.jsonl --out data/spoken
    python -m ieat_jax.prepare responses --records data/emodb/*.jsonl --llm HF_FOLDER --out data/answered
    python -m ieat_jax.prepare attribute data/spoken/train.jsonl --llm http://localhost:8000/v1 --model M --out data/why
    python -m ieat_jax.prepare describe --records data/emodb/train.jsonl --out data/told/train.jsonl

Exit codes: 0 done, 1 more bad records or labels than accepted, 2 wrong arguments or unusable input.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ieat_jax.cli import add_output, exit_with, parser_of, path_argument
from ieat_jax.data.quarantine import Quarantine, QuarantineError
from ieat_jax.data.understood import LabelError
from ieat_jax.errors import UserError
from ieat_jax.importers import command as importing
from ieat_jax.importers import export
from ieat_jax.preparation import speak, tfds_builder
from ieat_jax.preparation.asking import command as asking
from ieat_jax.preparation.attribution import command as attribution
from ieat_jax.preparation.describing import command as describing
from ieat_jax.preparation.shards import command as sharding
from ieat_jax.showing import command as showing

QUARANTINE_FILE = "quarantine.jsonl"
JOURNAL_FILE = "encoded.partial.jsonl"


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("prepare", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="make the demo corpus: spoken dialogues from templates")
    add_output(demo, "a new folder")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--hours", type=float, default=1.0, help="of distinct audio (default: 1)")
    demo.add_argument("--text-dialogues", type=int, default=4000, help="dialogues without audio (default: 4000)")
    demo.add_argument("--workers", type=int, help="processes that speak (default: all cores)")
    imported = commands.add_parser("import", help="records of a corpus that others made; --list names them")
    importing.add_arguments(imported)
    export.add_arguments(commands.add_parser("export", help="records of HumDial as its own lists again"))
    responses = commands.add_parser("responses", help="an LLM's own replies for turns that have none")
    _records(responses, several=True, audio=False)
    asking.add_arguments(responses)
    add_output(responses, "folder for files of the same names")
    responses.add_argument(
        "--system-text",
        default="You are a helpful assistant.",
        help="system prompt, as config.chat.system_text of the run (default: %(default)r)",
    )
    responses.add_argument("--max-tokens", type=int, default=24, help="longest reply (default: 24)")
    _share(responses)
    attribution.add_arguments(
        commands.add_parser("attribute", help="emotions, causes and styles that nobody annotated, asked of an LLM")
    )
    describing.add_arguments(commands.add_parser("describe", help="how clips sound, by their signals"))
    speak.add_arguments(commands.add_parser("speak", help="speak dialogues that are text alone"))
    codec = commands.add_parser("codec", help="train a unit codec on the replies of records (one speaker)")
    _records(codec, several=False)
    add_output(codec, "folder of the codec")
    codec.add_argument("--codes", type=int, default=4096, help="size of the unit vocabulary (default: 4096)")
    codec.add_argument("--minutes", type=float, default=25.0, help="most speech to train on (default: 25)")
    codec.add_argument("--seed", type=int, default=0)
    _share(codec)
    units = commands.add_parser("units", help="write records with the speech units of their replies")
    _records(units, several=True)
    units.add_argument(
        "--codec", required=True, type=path_argument, help="folder of `prepare codec`, or a CosyVoice .onnx"
    )
    add_output(units, "folder for files of the same names")
    units.add_argument("--workers", type=int, help="processes that encode (default: all cores)")
    _share(units)
    tokenizer = commands.add_parser("tokenizer", help="train a tokenizer on everything written in records")
    _records(tokenizer, several=True, audio=False)
    add_output(tokenizer, "folder for tokenizer.json")
    tokenizer.add_argument("--vocab-size", type=int, default=2048, help="at most (default: 2048)")
    check = commands.add_parser("check", help="validate every line and audio file; a JSON line per bad record")
    _records(check, several=False)
    check.add_argument(
        "--max-seconds",
        type=float,
        help="longest audio that is accepted (default: 30 for clips, the window that the model hears; 60 for replies)",
    )
    check.add_argument("--stage", metavar="NAME", help="fail, too, where stage NAME cannot use the records")
    _share(check)
    sharding.add_arguments(
        commands.add_parser("shards", help="records and their sound as shards, by Apache Beam", allow_abbrev=False)
    )
    tfds_builder.add_arguments(commands.add_parser("tfds", help="shards as a data set of TensorFlow Datasets"))
    shapes = commands.add_parser("shapes", help="the shapes of a row that suit a recipe's data, and what they cost")
    shapes.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="recipe; --config.FIELD=VALUE, too")
    shapes.add_argument("--tokens", type=int, help="tokens of a row (default: those of the recipe)")
    showing.add_arguments(commands.add_parser("show", help="the batch of a step as a person reads it"))
    return parser


def _records(parser: argparse.ArgumentParser, *, several: bool, audio: bool = True) -> None:
    parser.add_argument(
        "--records",
        required=True,
        type=path_argument,
        nargs="+" if several else None,
        help="JSONL of dialogues",
        metavar="FILE",
    )
    if audio:
        parser.add_argument(
            "--audio-root", type=path_argument, help="folder audio paths start from (default: the records')"
        )


def _share(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-bad-share", type=float, default=0.001, help="share of bad records that is accepted (default: 0.001)"
    )


def demo(arguments: argparse.Namespace) -> int:
    """`prepare demo`."""
    from ieat_jax.preparation.demo.corpus import build_demo

    started = time.perf_counter()
    summary = build_demo(
        arguments.out,
        seed=arguments.seed,
        hours=arguments.hours,
        text_dialogues=arguments.text_dialogues,
        workers=arguments.workers,
    )
    for split, figures in summary["splits"].items():
        minutes = figures["user_minutes"] + figures["reply_minutes"]
        print(f"{split}: {figures['dialogues']} dialogues, {figures['turns']} turns, {minutes:.1f} min")
    hours, seconds = summary["hours"], time.perf_counter() - started
    print(f"wrote {arguments.out}: {hours:.2f} h of distinct audio in {seconds:.0f} s; see its README.md")
    return 0


def responses(arguments: argparse.Namespace) -> int:
    """`prepare responses`."""
    from ieat_jax.data.records import read_records, write_records
    from ieat_jax.preparation.responses import add_responses, first_prompts
    from ieat_jax.text.checks import check_text

    started = time.perf_counter()
    check_text(arguments.system_text, "--system-text")
    targets = _targets(arguments.records, arguments.out)
    quarantine = Quarantine(arguments.max_bad_share, arguments.out / QUARANTINE_FILE)
    read = {path: read_records(path, quarantine=quarantine) for path in arguments.records}
    everything = [record for records in read.values() for record in records]
    quarantine.expect(len(everything))
    llm = asking.open_llm(arguments, arguments.system_text, arguments.max_tokens)
    print(llm.forecast(first_prompts(everything), arguments.price))
    if arguments.dry_run:
        return 0
    try:
        answered, prompts = add_responses(everything, llm, f"model:{llm.model}", quarantine)
    finally:
        llm.close()
    print(llm.account(arguments.price))
    quarantine.check()
    values = iter(answered)
    for path, records in read.items():
        count = write_records(targets[path], [value for _ in records if (value := next(values)) is not None])
        print(f"wrote {targets[path]}: {count} dialogues")
    print(f"{prompts} distinct prompts answered in {time.perf_counter() - started:.0f} s")
    _report(quarantine)
    return 0


def spoken(arguments: argparse.Namespace) -> int:
    """`prepare speak`."""
    targets = _targets(arguments.records, arguments.out)
    quarantine = Quarantine(arguments.max_bad_share, arguments.out / QUARANTINE_FILE)
    code = speak.run(arguments, targets, quarantine)
    _report(quarantine)
    return code


def attribute(arguments: argparse.Namespace) -> int:
    """`prepare attribute`."""
    return attribution.run(arguments, _targets(arguments.records, arguments.out), QUARANTINE_FILE)


def codec(arguments: argparse.Namespace) -> int:
    """`prepare codec`.

    Raises:
        CodecError: too little speech.
    """
    from ieat_jax.audio.codec import CodecError
    from ieat_jax.data.records import read_records
    from ieat_jax.preparation.units import reply_files, train_on_replies

    started = time.perf_counter()
    quarantine = Quarantine(arguments.max_bad_share, arguments.out / QUARANTINE_FILE)
    records = read_records(arguments.records, quarantine=quarantine)
    where = str(arguments.records)
    places = {turn.response_audio: f"{where}:{record.line}" for record in records for turn in record.turns}
    try:
        trained, figures = train_on_replies(
            reply_files(records),
            arguments.audio_root or arguments.records.parent,
            quarantine,
            codes=arguments.codes,
            minutes=arguments.minutes,
            seed=arguments.seed,
            places=places,
        )
    except CodecError:
        quarantine.check()  # too little speech is left where it is bad: say that first
        raise
    quarantine.check()
    trained.save(arguments.out)
    print(f"wrote {arguments.out}: {json.dumps(trained.identity())}, {time.perf_counter() - started:.0f} s")
    if figures:
        listed = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
        print(f"analysis-resynthesis of replies that it was not trained on: {listed}")
    _report(quarantine)
    return 0


def units(arguments: argparse.Namespace) -> int:
    """`prepare units`."""
    from ieat_jax.codecs.load import load_codec
    from ieat_jax.data.records import read_records, write_records
    from ieat_jax.preparation.units import add_units, encode_files, reply_files
    from ieat_jax.progress import counted

    started = time.perf_counter()
    identity = load_codec(arguments.codec).identity()
    quarantine = Quarantine(arguments.max_bad_share, arguments.out / QUARANTINE_FILE)
    targets = _targets(arguments.records, arguments.out)
    by_root: dict[Path, list[Path]] = {}
    for path in arguments.records:
        by_root.setdefault((arguments.audio_root or path.parent).resolve(), []).append(path)
    written = {}
    journal = arguments.out / JOURNAL_FILE  # until everything is written
    encoded = ids = 0
    for number, (root, paths) in enumerate(by_root.items(), 1):
        read = {path: read_records(path, quarantine=quarantine) for path in paths}
        files = reply_files(record for records in read.values() for record in records)
        results = encode_files(files, root, arguments.codec, workers=arguments.workers, journal=journal)
        part = (number, len(by_root)) if len(by_root) > 1 else None
        found = dict(counted(results, "replies encoded", len(files), part=part))
        encoded += len(files)
        ids += sum(len(result) for result in found.values() if not isinstance(result, UserError))
        for path, records in read.items():
            quarantine.expect(len(records))
            written[targets[path]] = add_units(records, found, identity, quarantine, where=str(path))
    quarantine.check()
    for path, records in written.items():
        print(f"wrote {path}: {write_records(path, records)} dialogues")
    journal.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    print(f"{encoded} replies, {ids} units ({ids / identity['rate'] / 60:.1f} min of speech) in {seconds:.0f} s")
    _report(quarantine)
    return 0


def _targets(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where each file's records go: the same name in `out`."""
    for name, count in Counter(path.name for path in paths).items():
        if count > 1:
            raise UserError(f"{count} of the --records are named {name}; run them one by one")
    targets = {path: out / path.name for path in paths}
    for path, target in targets.items():
        if target.resolve() == path.resolve():
            raise UserError(f"--out {out} would overwrite {path}; choose another folder")
    return targets


def _report(quarantine: Quarantine) -> None:
    """Say what was left out."""
    if quarantine:
        counts = ", ".join(f"{count} x {code}" for code, count in quarantine.summary().items())
        print(f"left out {len(quarantine)} of {quarantine.total} records ({counts}); see {quarantine.path}")


def tokenizer(arguments: argparse.Namespace) -> int:
    """`prepare tokenizer`."""
    from ieat_jax.data.records import read_records
    from ieat_jax.preparation.tokenizer import tokenizer_texts
    from ieat_jax.progress import Progress, counted
    from ieat_jax.text.tokenizer import train_tokenizer

    records = [record for path in arguments.records for record in read_records(path)]
    texts = list(tokenizer_texts(counted(records, "dialogues written out", len(records), part=(1, 2))))
    with Progress("pieces of words chosen", 1, part=(2, 2)):
        trained = train_tokenizer(texts, arguments.vocab_size)
    trained.save(arguments.out)
    print(f"wrote {arguments.out}: {trained.vocab_size} tokens from {len(records)} dialogues")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """`prepare check`: problems go to stdout as JSON lines, the summary to stderr.

    Raises:
        UserError: there is no such stage, or the records cannot be read.
    """
    from ieat_jax.data.jsonl import count_lines
    from ieat_jax.data.understood import Labels
    from ieat_jax.preparation.usable import NEEDS, Usable
    from ieat_jax.preparation.validate import ALWAYS_FATAL, check_manifest
    from ieat_jax.progress import counted

    if arguments.stage is not None and arguments.stage not in NEEDS:
        raise UserError(f"--stage={arguments.stage}: must be one of {', '.join(NEEDS)}")
    if arguments.max_seconds is not None and not arguments.max_seconds > 0:
        raise UserError(f"--max-seconds {arguments.max_seconds:g}: has to be above 0")
    quarantine, labels, usable = Quarantine(arguments.max_bad_share), Labels(), Usable()
    root = arguments.audio_root or arguments.records.parent
    found = check_manifest(arguments.records, root, labels, usable, max_seconds=arguments.max_seconds)
    for line, problems in counted(found, "lines checked", count_lines(arguments.records)):
        quarantine.expect(1)
        if not problems:
            continue
        worst = next((problem for problem in problems if problem.code in ALWAYS_FATAL), problems[0])
        quarantine.note(f"{arguments.records}:{line}", worst.code, f"line {line}: {worst.message}")
        report = {"file": str(arguments.records), "line": line, "dialogue_id": worst.dialogue_id, "code": worst.code}
        report |= {"problems": [problem.message for problem in problems]}
        print(json.dumps(report), flush=True)
    counts = quarantine.summary()
    listed = ", ".join(f"{count} x {code}" for code, count in counts.items())
    strange = (*labels.sentences(), *labels.unread.sentences())
    for sentence in (*usable.sentences(), *strange):
        print(f"{arguments.records}: {sentence}", file=sys.stderr)
    good = "all good" if usable.good() and not strange else "none bad"
    bad = f"{len(quarantine)} bad ({listed})" if counts else good
    print(f"{arguments.records}: {quarantine.total} records, {bad}", file=sys.stderr)
    if fatal := [code for code in counts if code in ALWAYS_FATAL]:
        verb = "is" if len(fatal) == 1 else "are"
        print(f"error: {', '.join(fatal)} {verb} never accepted, however few they are", file=sys.stderr)
        return 1
    quarantine.check()
    try:
        labels.check(arguments.max_bad_share, arguments.records)
    except LabelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if labels.unread.slips > arguments.max_bad_share * labels.unread.total:
        print("error: more of them have misspelt keys than --max-bad-share accepts; rename the keys", file=sys.stderr)
        return 1
    if arguments.stage and usable.bad_share(arguments.stage) > arguments.max_bad_share:
        print(f"error: stage {arguments.stage} cannot use more of them than --max-bad-share accepts", file=sys.stderr)
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code.

    Raises:
        UserError: arguments or input that cannot be used.
    """
    parser = _parser()
    arguments, overrides = parser.parse_known_args(argv)
    if arguments.command == "shapes":
        from ieat_jax.preparation import shapes  # which brings JAX with it

        return shapes.run(arguments, overrides)
    if arguments.command == "show":
        return showing.run(arguments, overrides)
    if overrides and arguments.command != "shards":  # whose other options are Beam's
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    arguments.beam_options = overrides
    command = {
        "demo": demo, "import": importing.run, "responses": responses, "codec": codec, "units": units,
        "tokenizer": tokenizer, "check": check, "speak": spoken, "export": export.run,
        "attribute": attribute, "describe": describing.run, "tfds": tfds_builder.run, "shards": sharding.run,
    }[arguments.command]  # fmt: skip
    root = getattr(arguments, "audio_root", None)
    if root is not None and not root.is_dir():
        raise UserError(f"--audio-root {root}: there is no such folder; the records' audio paths start from there")
    try:
        return command(arguments)
    except (QuarantineError, LabelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    exit_with(main)
