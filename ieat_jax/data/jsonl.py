"""JSON lines as strangers write them: each line becomes an object, or an error that says what is wrong where."""

import json
import math
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ieat_jax.errors import UserError
from ieat_jax.storage import without_address

MAX_LINE_BYTES = 1_000_000
MAX_DEPTH = 32
HEAD = 64  # bytes, in which a sound, an archive or UTF-16 shows
MAX_DIGITS = 18  # what 64 bits hold for certain


class RecordError(UserError):
    """A line that is no record.

    `code` is a stable short word for counting, `line` the line number from 1 (0 = the file as a whole), `dialogue_id`
    that of the record, where it could be read.
    """

    def __init__(self, code: str, path: str | Path, line: int, message: str, dialogue_id: str | None = None):
        place = f"{path}:{line}" if line else str(path)
        super().__init__(f"{place}: {message} [{code}]")
        self.code, self.path, self.line, self.message = code, str(path), line, message
        self.dialogue_id = dialogue_id

    def __reduce__(self) -> "tuple[type[RecordError], tuple[str, str, int, str, str | None]]":
        """Errors travel between processes of a worker pool, so they must unpickle."""
        return type(self), (self.code, self.path, self.line, self.message, self.dialogue_id)


class _Reject(Exception):
    """What is wrong with a line, before it is known which line it is."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


class Line(NamedTuple):
    """A line of a file that is not blank: number from 1, first byte, content; None of one that is too long."""

    number: int
    begin: int
    content: bytes | None


def read_objects(path: str | Path) -> Iterator[tuple[int, dict | RecordError]]:
    """(line number, object or error) of every line that is not blank, in constant memory.

    Raises:
        RecordError: the file itself cannot be read (line 0).
        StorageError: it is in an object store.
    """
    for number, _, content in read_lines(path):
        yield number, object_of_line(path, number, content)


def read_lines(path: str | Path, *, begin: int = 0, number: int = 1) -> Iterator[Line]:
    """Every line that is not blank, in constant memory; from line `number` on, which begins at byte `begin`.

    Lines end at newline bytes only: U+2028 and its like are text.

    Raises:
        RecordError: the file itself cannot be read (line 0).
        StorageError: it is in an object store.
    """
    path = without_address(path, "records")
    try:
        # A pipe or device may never end, so this is checked before the file is opened.
        if not stat.S_ISREG(mode := path.stat().st_mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise RecordError("not_a_file", path, 0, f"is {kind}; records are read from a JSON-lines file")
        with path.open("rb") as file:
            number, end = number - 1, begin
            head = file.read(HEAD).lstrip()
            if head.count(b"\0") > 1 and not head.startswith(b"{"):  # said once, not for every line
                raise RecordError("not_text", path, 0, "is no text; records are read from a JSON-lines file in UTF-8")
            file.seek(begin)
            while line := file.readline(MAX_LINE_BYTES + 1):
                number, begin, end = number + 1, end, end + len(line)
                too_long = len(line) > MAX_LINE_BYTES
                while too_long and line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES + 1)
                    end += len(line)
                if too_long or line.strip(b" \t\r\n"):
                    yield Line(number, begin, None if too_long else line)
    except FileNotFoundError as error:
        raise RecordError("missing", path, 0, "no such file") from error
    except RecordError:
        raise
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise RecordError("unreadable", path, 0, f"cannot be read ({getattr(error, 'strerror', error)})") from error


def count_lines(path: Path) -> int:
    """Lines of a file, to say how far its reading is; 0 of one that cannot be read."""
    try:
        if not path.is_file():
            return 0
        with path.open("rb") as file:
            return sum(part.count(b"\n") for part in iter(lambda: file.read(2**20), b""))
    except OSError:
        return 0


def object_of_line(path: str | Path, number: int, line: bytes | None) -> dict | RecordError:
    """The object that a line holds, or the error that says what is wrong with it; `path` and `number` are for that."""
    if line is None:
        message = f"the line is longer than {MAX_LINE_BYTES} bytes; is every object on a line of its own?"
        return RecordError("line_too_long", path, number, message)
    try:
        return parse_object(line)
    except _Reject as reject:
        return RecordError(reject.code, path, number, reject.message)


def parse_object(line: bytes) -> dict:
    """Read one line as a JSON object, without anything that JSON, UTF-8 or a file system fails at later.

    Raises:
        _Reject: the line is not such an object; its `code` says why.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"byte {error.start} of the line is not UTF-8; save the file as UTF-8"
        raise _Reject("not_utf8", message) from error
    if text.startswith("\ufeff"):
        raise _Reject("bom", "starts with a byte order mark; save the file as UTF-8 without BOM")
    # A Python function for every number would take ten times as long as reading them: only where one may be too large.
    shape = line.translate(_SHAPE)
    decoder = _CAREFUL if any(number in shape for number in _SUSPICIOUS_NUMBERS) else _DECODER
    try:
        value = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise _Reject("not_json", f"not one JSON object per line ({error.msg} at character {error.pos})") from error
    except RecursionError as error:
        raise _Reject("too_deep", f"nested deeper than {MAX_DEPTH} levels") from error
    if not isinstance(value, dict):
        raise _Reject("not_an_object", f"a record is a JSON object, this is {kind_of(value)}")
    # What makes a bad string of good UTF-8 is an escape.
    _check_values(value, strings=b"\\u" in line)
    return value


def check_object(value: dict, path: str | Path, line: int) -> None:
    """The checks of a line of a file, for an object that was made in Python.

    Raises:
        RecordError: nested too deeply, or a string that cannot be written as UTF-8 or used as a path.
    """
    try:
        if not isinstance(value, dict):
            raise _Reject("not_an_object", f"a record is a dictionary, this is {type(value).__name__}")
        _check_values(value)
    except _Reject as reject:
        raise RecordError(reject.code, path, line, reject.message) from reject


def _check_values(root: dict, *, strings: bool = True) -> None:
    """Refuse deep nesting, and strings that cannot be written as UTF-8 or used as a path."""
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for node in level:
            values = node.values() if isinstance(node, dict) else node
            kinds = set(map(type, values))
            if strings:
                for text in node if isinstance(node, dict) else ():
                    _check_string(text)
                for text in values if str in kinds else ():
                    if isinstance(text, str):
                        _check_string(text)
            if dict in kinds or list in kinds:
                inner += [value for value in values if isinstance(value, dict | list)]
        if not inner:
            return
        level = inner
    raise _Reject("too_deep", f"nested deeper than {MAX_DEPTH} levels")


def _check_string(text: str) -> None:
    if not isinstance(text, str):  # a key of a dictionary that was made in Python
        raise _Reject("wrong_type", f"a key is {text!r:.40}, not a string")
    if "\0" in text:
        raise _Reject("nul", f"a string holds the character NUL: {text[:40]!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Reject("surrogate", f"a string holds half of a character pair: {text[:40]!a}") from error


def _pairs(pairs: list[tuple[str, Any]]) -> dict:
    result = {sys.intern(key): value for key, value in pairs}  # one copy of a key for all records
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Reject("duplicate_key", f"the key {twice!r} stands twice in one object")
    return result


def _constant(name: str) -> float:
    raise _Reject("not_finite", f"{name} is not a JSON number; write null where a value is unknown")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Reject("huge_number", f"a whole number of {len(digits)} digits; at most {MAX_DIGITS} are accepted")
    return int(digits)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Reject("huge_number", f"the number {text[:40]} is too large")
    return value


def kind_of(value: Any) -> str:
    """The JSON name of a value's type, for messages."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


# A line with every digit as 0 shows its long numbers and its three-digit exponents to a plain search.
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
_SUSPICIOUS_NUMBERS = (b"0" * (MAX_DIGITS + 1), b"0e000", b"0e+000")
_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)
_CAREFUL = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_int=_integer, parse_float=_float)
