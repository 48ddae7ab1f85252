"""`prepare shards`: records and their sound as shards that a training reads, made by Apache Beam."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ieat_jax.audio.flac import BITS
from ieat_jax.cli import add_output, path_argument
from ieat_jax.data.jsonl import RecordError
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.array_record import INDEX, SHARDS, STORE, text_name
from ieat_jax.data.sources.store import FACTS
from ieat_jax.errors import UserError
from ieat_jax.model.config import ListenConfig
from ieat_jax.preparation.shards.cut import Job, RecordFile, cut, look_through, records_of, some
from ieat_jax.preparation.shards.gather import gather
from ieat_jax.preparation.shards.make import DialogueMaker, Settings, ShardError, told_name
from ieat_jax.preparation.shards.pipeline import run_pipeline
from ieat_jax.preparation.units import MAX_SECONDS
from ieat_jax.storage import is_address, open_place

SHARD_MIB = 256.0
PROBED = 32  # dialogues, by which the size of all is foreseen
MOST_SHARDS = 99_999


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare shards`."""
    parser.add_argument(
        "--records", required=True, type=path_argument, nargs="+", metavar="FILE", help="JSONL of dialogues"
    )
    parser.add_argument(
        "--audio-root", type=path_argument, help="folder audio paths start from (default: the records')"
    )
    add_output(parser, "a new folder, here or at gs://BUCKET/FOLDER", remote=True)
    parser.add_argument(
        "--codec",
        type=path_argument,
        help="units of the spoken replies: folder of `prepare codec`, or a CosyVoice .onnx",
    )
    parser.add_argument("--tokenizer", type=path_argument, help="count the tokens of all texts with this tokenizer")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shards", type=int, metavar="N", help="how many shards")
    size.add_argument(
        "--shard-mib", type=float, default=SHARD_MIB, help=f"about how large each is (default: {SHARD_MIB:g})"
    )
    parser.add_argument(
        "--bits", type=int, choices=(16, BITS), default=BITS,
        help="of a sample: 24 keep what is heard exactly, 16 take half the room where it was resampled (default: 24)",
    )  # fmt: skip
    parser.add_argument("--replies", action="store_true", help="keep the sound of replies; training reads their units")
    parser.add_argument(
        "--max-seconds",
        type=float,
        help="longest audio that is accepted (default: 30 for clips, the window that the model hears; 60 for replies)",
    )
    parser.add_argument(
        "--max-bad-share", type=float, default=0.001, help="share of bad records that is accepted (default: 0.001)"
    )
    parser.add_argument("--workers", type=int, help="processes of the local runner (default: all cores)")
    parser.epilog = (
        "All other options are Apache Beam's: --runner=DataflowRunner --project=P --temp_location=gs://B/tmp. "
        "A runner on other machines needs --out, and the records and recordings, where all of them see them"
    )


def run(arguments: argparse.Namespace) -> int:
    """`prepare shards`; `arguments.beam_options`: what stands beside its own.

    Raises:
        ShardError, RecordError, StorageError, CodecError, TokenizerError: what cannot be used.
        QuarantineError, LabelError: more is bad than accepted.
    """
    started = time.perf_counter()
    options = arguments.beam_options
    _check_options(arguments, options)
    out = open_place(arguments.out, "--out")
    quarantine = Quarantine(arguments.max_bad_share)
    settings = Settings(
        clip_seconds=arguments.max_seconds or ListenConfig().clip_seconds,
        reply_seconds=arguments.max_seconds or MAX_SECONDS,
        codec=_absolute(arguments.codec),
        tokenizer=_absolute(arguments.tokenizer),
        bits=arguments.bits,
        replies=arguments.replies,
    )
    maker = DialogueMaker(settings)  # a codec that cannot be loaded is told now
    roots = [(arguments.audio_root or path.parent) for path in arguments.records]
    files = look_through(arguments.records, roots)
    shards = arguments.shards or _shards(files, maker, arguments.shard_mib)
    jobs = cut(files, min(shards, sum(len(file.numbers) for file in files)))
    _check_folder(out, jobs)
    (out / INDEX / STORE / FACTS).unlink(missing_ok=True)  # while shards are made anew, nobody reads the folder
    run_pipeline(jobs, settings, out / SHARDS, options, workers=arguments.workers or os.cpu_count() or 1)
    card = gather(out, files, jobs, maker.identity, quarantine)
    for sentence in (*_strange(card), *(() if not quarantine else (_left_out(quarantine, out),))):
        print(sentence, file=sys.stderr)
    print(
        f"wrote {out}: {card['input_lines']} lines = {card['dialogues']} dialogues + {card['quarantined']} "
        f"quarantined; {card['turns']} turns, {card['clip_hours']:.2f} h of clips, {card['shards']} shards, "
        f"{card['bytes'] / 2**20:.1f} MiB, {time.perf_counter() - started:.0f} s"
    )
    return 0


def _check_options(arguments: argparse.Namespace, options: Sequence[str]) -> None:
    for name in ("shards", "workers"):
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= MOST_SHARDS:
            raise UserError(f"--{name} {value}: must be 1 to {MOST_SHARDS}")
    for name in ("shard_mib", "max_seconds"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be above 0")
    runner = next((option for option in options if option.partition("=")[0] == "--runner"), None)
    if runner is None and options:
        known = [option for option in options if option.startswith("--direct_")]
        if len(known) < len(options):
            strange = next(option for option in options if option not in known)
            raise UserError(f"{strange}: is no option of prepare shards; Beam's need its --runner=... beside them")
    if runner is not None and "Dataflow" in runner and not is_address(arguments.out):
        raise UserError(f"{runner}: machines elsewhere do not see {arguments.out}; give --out gs://BUCKET/FOLDER")


def _absolute(path: Path | None) -> str:
    return "" if path is None else str(path.absolute())


def _shards(files: Sequence[RecordFile], maker: DialogueMaker, mib: float) -> int:
    """How many shards have about so many MiB, by dialogues from all parts of the files."""
    sizes = []
    for job in some(files, PROBED):
        for part in job.parts:
            for _, _, record in records_of(part):
                if isinstance(record, RecordError):
                    continue
                try:
                    sizes.append(len(maker(record, part.root).payload))
                except UserError:  # it will be told where it counts
                    continue
    lines = sum(len(file.numbers) for file in files)
    mean = sum(sizes) / len(sizes) if sizes else 0
    return min(max(1, round(lines * mean / (mib * 2**20))), MOST_SHARDS)


def _check_folder(out: Any, jobs: Sequence[Job]) -> None:
    """Refuse a folder that holds what is not of these shards: it would be read with them, or lost."""
    names = {name for job in jobs for name in (job.name, told_name(job), text_name(job.name))}
    folder = out / SHARDS
    there = [path.name for path in folder.iterdir()] if folder.exists() else []
    others = [name for name in there if name.endswith((".array_record", ".json", ".jsonl"))]
    strange = sorted(set(others) - names)
    if strange:
        raise ShardError(f"{folder}: holds {strange[0]}, of another number of shards; give a new folder, or remove it")
    if not folder.exists() and out.exists() and any(out.iterdir()):
        raise ShardError(f"--out {out}: is not empty, and holds no shards; give a new folder")


def _strange(card: dict[str, Any]) -> list[str]:
    return [
        f"{sum(table.values())} labels of the field {name} are understood by nobody, and count as unknown; see the card"
        for name, table in card["not_understood"].items()
    ]


def _left_out(quarantine: Quarantine, out: Any) -> str:
    counts = ", ".join(f"{count} x {code}" for code, count in quarantine.summary().items())
    return f"left out {len(quarantine)} of {quarantine.total} records ({counts}); see {out / 'quarantine.jsonl'}"
