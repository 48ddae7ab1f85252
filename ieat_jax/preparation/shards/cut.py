"""Files of records cut into shards: which lines are in which, by the lines alone."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ieat_jax.data.jsonl import RecordError, object_of_line, read_lines
from ieat_jax.data.records import Record, parse_line
from ieat_jax.progress import counted


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """A file of records, its lines that are not blank, and those whose dialogue_id stands in an earlier one."""

    path: str
    root: str  # folder that its audio paths start from
    numbers: np.ndarray  # of its lines, from 1
    begins: np.ndarray  # bytes before each
    sha256: str
    twice: dict[int, str]  # line -> where its dialogue_id stands already


@dataclasses.dataclass(frozen=True)
class Part:
    """Some lines of a file, one after the other."""

    path: str
    root: str
    number: int  # of the first line
    begin: int  # bytes before it
    lines: int
    twice: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Job:
    """A shard to make."""

    shard: int
    shards: int
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.shard:05d}-of-{self.shards:05d}.array_record"


def look_through(paths: Sequence[Path], roots: Sequence[Path]) -> list[RecordFile]:
    """Find the lines of all files, and the dialogues that stand in them twice.

    Raises:
        RecordError: a file cannot be read, or holds no line.
    """
    known: dict[
        bytes, tuple[int, int]
    ] = {}  # hash of a dialogue_id -> (file, line): a text takes five times the memory
    found = []
    for index, (path, root) in enumerate(zip(paths, roots, strict=True)):
        numbers, begins, twice, sha = [], [], {}, hashlib.sha256()
        for number, begin, content in counted(read_lines(path), f"lines of {path} looked through", None):
            numbers.append(number)
            begins.append(begin)
            sha.update(b"-" if content is None else content)
            value = object_of_line(path, number, content)
            name = value.get("dialogue_id") if isinstance(value, dict) else None
            if isinstance(name, str):
                mark = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                first = known.setdefault(mark, (index, number))
                if first != (index, number):
                    twice[number] = f"dialogue_id {name!r} stands in {paths[first[0]]}:{first[1]} already"
        if not numbers:
            raise RecordError("empty", path, 0, "holds no records")
        lines = np.array(numbers, np.int64), np.array(begins, np.int64)
        found.append(RecordFile(str(path), str(root), *lines, sha.hexdigest(), twice))
    return found


def cut(files: Sequence[RecordFile], shards: int) -> list[Job]:
    """The shards, each with as many lines, in the order of the files."""
    ends = np.cumsum([len(file.numbers) for file in files])
    jobs = []
    for shard in range(shards):
        first, last = (int(ends[-1]) * each // shards for each in (shard, shard + 1))
        parts = []
        for file, end in zip(files, ends.tolist(), strict=True):
            begin = end - len(file.numbers)
            low, high = max(first, begin) - begin, min(last, end) - begin
            if low < high:
                numbers = file.numbers[low:high]
                twice = {line: file.twice[line] for line in file.twice if numbers[0] <= line <= numbers[-1]}
                parts.append(Part(file.path, file.root, int(numbers[0]), int(file.begins[low]), high - low, twice))
        jobs.append(Job(shard, shards, tuple(parts)))
    return jobs


def some(files: Sequence[RecordFile], count: int) -> list[Job]:
    """Jobs of a line each, evenly spread over all lines."""
    total = sum(len(file.numbers) for file in files)
    jobs = []
    for each in range(min(count, total)):
        at = total * each // min(count, total)
        for file in files:
            if at < len(file.numbers):
                part = Part(file.path, file.root, int(file.numbers[at]), int(file.begins[at]), 1, {})
                jobs.append(Job(0, 1, (part,)))
                break
            at -= len(file.numbers)
    return jobs


def records_of(part: Part) -> Iterator[tuple[int, bytes | None, Record | RecordError]]:
    """(line, its bytes, its record or what is wrong with it) of a part, in order.

    Raises:
        RecordError: the file cannot be read.
    """
    lines = read_lines(part.path, begin=part.begin, number=part.number)
    for number, _, content in itertools.islice(lines, part.lines):
        found = parse_line(content, path=part.path, number=number)
        if number in part.twice:
            found = RecordError("duplicate_id", part.path, number, part.twice[number])
        yield number, content, found
