"""Text files of corpora, in whichever encoding: lines, tables, JSON lines."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ieat_jax.data.jsonl import MAX_LINE_BYTES, RecordError, object_of_line, read_objects
from ieat_jax.errors import UserError
from ieat_jax.storage import local_path

MAX_BYTES = 1 << 28  # of a file that is read as a whole
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class TableError(UserError):
    """A text file that cannot be read."""


def read_text(path: str | Path, *encodings: str) -> str:
    """The text of a file with ends of lines as newlines.

    A byte order mark says the encoding; so do the zero bytes of UTF-16 without one. Otherwise it is UTF-8, or the first
    of `encodings` that fits.

    Raises:
        TableError: it cannot be opened, is too large, or no encoding fits.
    """
    try:
        file = local_path(path, "list")
        if file.stat().st_size > MAX_BYTES:
            raise TableError(f"{path}: has more than {MAX_BYTES >> 20} MiB; lists of that size are read as .jsonl")
        data = file.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from error
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if marked is None and data[:2000].count(0) > len(data[:2000]) / 5:  # every other byte of ASCII in UTF-16
        marked = "utf-16-le" if data[1:2000:2].count(0) >= data[0:2000:2].count(0) else "utf-16-be"
    for encoding in (marked,) if marked else ("utf-8", *encodings):
        try:
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            problem = f"byte {error.start} is not {encoding}"
    raise TableError(f"{path}: cannot be read as text ({problem}); save it as UTF-8")


def lines_of(path: str | Path, *encodings: str) -> Iterator[tuple[int, str]]:
    """(line number, line) of the lines of a text file that are not blank.

    Raises:
        TableError: as `read_text`.
    """
    for number, line in enumerate(read_text(path, *encodings).split("\n"), 1):
        if line.strip():
            yield number, line


def rows_of(path: Path, *encodings: str) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    """(line, row as {column: value}) of a list: .csv, .tsv or .txt with a head, .jsonl, .json, also with .gz.

    Values of tables are strings, and None where a row is too short; those of JSON what they are. A line of JSON lines
    that is no object is an error in its place.

    Raises:
        TableError: the file as a whole cannot be read.
    """
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "json" and (values := json_values(path)) is not None:
        yield from values
        return
    if kind in ("jsonl", "json", "list"):
        yield from json_lines(path)
        return
    if kind not in ("csv", "tsv", "txt"):
        raise TableError(f"{path}: a list ends in .csv, .tsv, .txt, .jsonl or .jsonl.gz")
    text = read_text(path, *encodings)
    separator = "\t" if kind == "tsv" or "\t" in text.partition("\n")[0] else ","
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=separator == ",")
        if not table.fieldnames or len(set(table.fieldnames)) < len(table.fieldnames):
            raise TableError(f"{path}: its first line has to name every column, each once")
        for row in table:
            if None in row:
                wide = len(table.fieldnames)
                yield (
                    table.line_num,
                    TableError(f"{path}:{table.line_num}: has more than the {wide} columns of its head"),
                )
            else:
                yield table.line_num, {name.strip(): value for name, value in row.items()}
    except csv.Error as error:
        raise TableError(f"{path}: is no table ({error})") from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    """(line, object or error) of a file of JSON lines, also a gzipped one.

    Raises:
        TableError: the file as a whole cannot be read.
    """
    if not path.name.endswith(".gz"):
        try:
            yield from read_objects(path)
        except RecordError as error:
            raise TableError(str(error)) from error
        return
    try:
        with gzip.open(local_path(path, "list")) as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if line.strip():
                    yield number, object_of_line(path, number, line)
    except (OSError, EOFError) as error:
        raise TableError(f"{path}: cannot be read as gzip ({error})") from error


def json_file(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        TableError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise TableError(f"{path}: is no JSON ({error})") from error


def json_values(path: Path) -> list[tuple[int, dict[str, Any] | UserError]] | None:
    """(place from 1, object or error) of the values of a JSON file that is one list; None where it is not."""
    try:
        values = json_file(path)
    except TableError:
        return None
    if not isinstance(values, list):
        return None
    odd = (f"{path}: entry {number} is no object" for number in range(1, len(values) + 1))
    return [
        (number, value if isinstance(value, dict) else TableError(message))
        for number, (value, message) in enumerate(zip(values, odd, strict=True), 1)
    ]


def keyed_lines(path: Path, *encodings: str) -> dict[str, str]:
    """{first word: the rest} of a file of lines such as Kaldi's.

    Raises:
        TableError: as `read_text`, or a key stands twice.
    """
    found: dict[str, str] = {}
    for number, line in lines_of(path, *encodings):
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        if key in found:
            raise TableError(f"{path}:{number}: {key} stands in an earlier line, too")
        found[key] = rest.strip()
    return found


def plain(text: str) -> str:
    """A transcript on one line, with what Windows-1252 left of quotes and dashes put right."""
    return " ".join(re.sub("[\x80-\x9f]", _windows, text).split())


def _windows(match: re.Match[str]) -> str:
    return match[0].encode("latin-1").decode("cp1252", errors="ignore")
