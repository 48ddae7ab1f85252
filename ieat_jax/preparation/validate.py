"""Strict validation of a manifest before it is trained on: every line, every audio file."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.data.records import Record, RecordError, iter_records
from ieat_jax.data.understood import Labels
from ieat_jax.model.config import ListenConfig
from ieat_jax.preparation.units import MAX_SECONDS
from ieat_jax.preparation.usable import Usable

# Codes that fail a check however many records are good: the file as a whole is not what it should be.
ALWAYS_FATAL = ("outside_root", "duplicate_id", "mixed_codecs")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one record."""

    line: int
    dialogue_id: str | None
    code: str
    message: str


def check_manifest(
    path: Path, root: Path, labels: Labels, usable: Usable, *, max_seconds: float | None = None
) -> Iterator[tuple[int, list[Problem]]]:
    """(line, its problems) of every record, in order: the line itself, its user and reply audio, its codec.

    Audio is decoded by threads, a file that many records share once.

    Args:
        path: of the records.
        root: folder their audio paths start from.
        labels: counts the labels of every record that can be read.
        usable: counts what every record is good for.
        max_seconds: longest audio that is accepted; by default what the model hears, and what replies may last.

    Raises:
        RecordError: the file cannot be read at all, or is empty.
    """
    known: dict[tuple[str, float], AudioError | None] = {}
    codec: dict | None = None
    lines = iter_records(path)
    empty = True
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # more would not be faster, but hold more files in memory
        while part := list(islice(lines, 256)):
            empty = False
            files = dict.fromkeys(file for _, record in part for file in _files(record, max_seconds))
            new = [file for file in files if file not in known]
            known.update(pool.map(lambda file: _audio(file, root), new))
            for line, record in part:
                if isinstance(record, RecordError):
                    usable.add(None)
                    yield line, [Problem(line, record.dialogue_id, record.code, record.message)]
                    continue
                errors = {file: known[file] for file in _files(record, max_seconds) if known[file] is not None}
                labels.add(record)
                usable.add(record, {file for file, _ in errors})
                problems = [Problem(line, record.dialogue_id, error.code, str(error)) for error in errors.values()]
                codec = codec or record.codec
                if record.codec is not None and record.codec != codec:
                    message = f"units of codec {record.codec}, those before it are of {codec}"
                    problems.append(Problem(line, record.dialogue_id, "mixed_codecs", message))
                yield line, problems
    if empty:
        raise RecordError("empty", path, 0, "holds no records")


def _files(record: Record | RecordError, max_seconds: float | None) -> list[tuple[str, float]]:
    """(audio path, longest that is accepted) of a record's audio."""
    if isinstance(record, RecordError):
        return []
    limits = (max_seconds or ListenConfig().clip_seconds, max_seconds or MAX_SECONDS)
    pairs = [pair for turn in record.turns for pair in zip((turn.audio, turn.response_audio), limits, strict=True)]
    return [(file, limit) for file, limit in pairs if file is not None]


def _audio(job: tuple[str, float], root: Path) -> tuple[tuple[str, float], AudioError | None]:
    file, max_seconds = job
    try:
        read_audio(file, max_seconds=max_seconds, root=root)
    except AudioError as error:
        return job, error
    return job, None
