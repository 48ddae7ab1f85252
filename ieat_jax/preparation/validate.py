"""Strict validation of a manifest before it is trained on: every line, every audio file."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.data.records import Record, RecordError, iter_records
from ieat_jax.data.understood import Labels

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
    path: Path, root: Path, labels: Labels, *, max_seconds: float
) -> Iterator[tuple[int, list[Problem]]]:
    """(line, its problems) of every record, in order: the line itself, its user and reply audio, its codec.

    Audio is decoded by threads, a file that many records share once. `labels` counts every record that can be read.

    Raises:
        RecordError: the file cannot be read at all, or is empty.
    """
    known: dict[str, AudioError | None] = {}
    codec: dict | None = None
    lines = iter_records(path)
    empty = True
    with ThreadPoolExecutor() as pool:
        while part := list(islice(lines, 256)):
            empty = False
            files = dict.fromkeys(file for _, record in part for file in _files(record))
            new = [file for file in files if file not in known]
            known.update(pool.map(lambda file: _audio(file, root, max_seconds), new))
            for line, record in part:
                if isinstance(record, RecordError):
                    yield line, [Problem(line, None, record.code, record.message)]
                    continue
                labels.add(record)
                problems = [
                    Problem(line, record.dialogue_id, error.code, str(error))
                    for file in _files(record)
                    if (error := known[file]) is not None
                ]
                codec = codec or record.codec
                if record.codec is not None and record.codec != codec:
                    message = f"units of codec {record.codec}, those before it are of {codec}"
                    problems.append(Problem(line, record.dialogue_id, "mixed_codecs", message))
                yield line, problems
    if empty:
        raise RecordError("empty", path, 0, "holds no records")


def _files(record: Record | RecordError) -> list[str]:
    if isinstance(record, RecordError):
        return []
    return [file for turn in record.turns for file in (turn.audio, turn.response_audio) if file is not None]


def _audio(file: str, root: Path, max_seconds: float) -> tuple[str, AudioError | None]:
    try:
        read_audio(file, max_seconds=max_seconds, root=root)
    except AudioError as error:
        return file, error
    return file, None
