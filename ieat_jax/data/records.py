"""The record: one dialogue, a strict superset of the HumDial line.

HumDial's keys are read and kept as they are; ours stand in `ieat` on a turn and `ieat_meta` on the dialogue:

    turn.ieat      emotion {label, intensity, source, raw}, tone, tone_source, events [..], events_source, cause {text,
                   evidence [{turn_id, quote}], source}, think {text} or {template}, response {emotion, units},
                   translation
    ieat_meta      language, kind, speaker, codec (identity of the codec whose units these are)

An absent key means "not annotated", null "annotated as unknown"; both are None here and survive a round trip.
"""

import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ieat_jax.audio.codec import IDENTITY_FIELDS
from ieat_jax.data import keys, labels
from ieat_jax.data.jsonl import Line, RecordError, check_object, kind_of, object_of_line, read_lines
from ieat_jax.data.quarantine import Quarantine

__all__ = ["Cause", "Record", "RecordError", "Turn", "iter_records", "parse_record", "read_records", "to_json"]

# A path that leads out of the data folder is an attack or a broken export: such a file is never read in part.
FATAL = ("outside_root",)
MAX_UNIT = 2**31 - 1
_EVENT = re.compile(r"\[([^\[\]]{1,40})\]")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the user feels so: in words, and where in the dialogue it is said."""

    text: str
    evidence: tuple[tuple[int, str], ...] = ()  # (turn_id, quote)
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user said, and the assistant's reply. None = unknown or not annotated."""

    turn_id: int
    text: str
    emotion: str | None = None  # of EMOTIONS
    raw_emotion: str | None = None  # as annotated
    intensity: str | None = None  # of INTENSITIES
    tone: str | None = None
    events: tuple[str, ...] = ()  # "sigh": annotated, else the tags in the text
    audio: str | None = None  # relative path
    response_text: str = ""
    response_audio: str | None = None
    response_emotion: str | None = None  # of STYLES
    cause: Cause | None = None
    think_text: str | None = None  # thinking to be used as it is
    units: np.ndarray | None = field(default=None, compare=False)  # int32 [n]
    packed: bytes = field(default=b"{}", repr=False)  # the JSON object it was read from, without its units
    emotion_source: str | None = None  # gold, human, model:NAME
    think_template: str | None = None  # thinking with {emotion} and the like to be filled in
    strange: tuple[tuple[str, str], ...] = ()  # (field, label) that nobody understands: 'emotion', 'style', 'intensity'
    tone_source: str | None = None  # as emotion_source, or signal:NAME
    events_source: str | None = None

    @property
    def raw(self) -> dict:
        """The object it was read from, without its units."""
        return json.loads(self.packed)


@dataclass(frozen=True, slots=True)
class Record:
    """One dialogue."""

    dialogue_id: str
    turns: tuple[Turn, ...]
    language: str  # two letters
    kind: str | None = None
    speaker: str | None = None
    codec: dict | None = None
    packed: bytes = field(default=b"{}", repr=False)  # the JSON object it was read from, its turns as null
    strange: tuple[tuple[str, str], ...] = ()  # ('language', what is named) that nobody understands
    unread: tuple[tuple[str, str], ...] = ()  # (key, the name that it misses or '') that nobody reads
    line: int = field(default=0, compare=False)  # of its file; 0 = made in Python

    @property
    def raw(self) -> dict:
        """The object it was read from; its turns, which carry their own, are null."""
        return json.loads(self.packed)


def read_records(path: str | Path, *, quarantine: Quarantine | None = None) -> list[Record]:
    """All records of a JSON-lines file.

    With `quarantine`, a bad line is noted there (and added to its total; good ones are counted by whoever uses them);
    without, it raises. A path out of the data folder always raises.

    Raises:
        RecordError: names file, line and what is wrong.
    """
    records, seen = [], 0
    for number, record in iter_records(path):
        seen += 1
        if isinstance(record, Record):
            records.append(record)
        elif quarantine is None or record.code in FATAL:
            raise record
        else:
            quarantine.expect(1)
            quarantine.note(f"{path}:{number}", record.code, str(record))
    if not seen:
        raise RecordError("empty", path, 0, "holds no records")
    return records


def iter_records(path: str | Path) -> Iterator[tuple[int, Record | RecordError]]:
    """As `iter_lines`, with the number of each line in its place."""
    for line, record in iter_lines(path):
        yield line.number, record


def iter_lines(path: str | Path) -> Iterator[tuple[Line, Record | RecordError]]:
    """Every line with its record or error; the second record of a dialogue_id is an error.

    Raises:
        RecordError: the file cannot be read as lines.
    """
    lines: dict[str, int] = {}
    for line in read_lines(path):
        found = parse_line(line.content, path=path, number=line.number)
        if isinstance(found, Record):
            name, first = found.dialogue_id, lines.setdefault(found.dialogue_id, line.number)
            if first != line.number:
                message = f"dialogue_id {name!r} stands in line {first} already"
                found = RecordError("duplicate_id", path, line.number, message, name)
        yield line, found


def parse_line(content: bytes | None, *, path: str | Path, number: int) -> Record | RecordError:
    """The record of one line (None: one that is too long), or what is wrong with it; the others are for the message."""
    value = object_of_line(path, number, content)
    if isinstance(value, RecordError):
        return value
    try:
        return _Parser(path, number).record(value)
    except RecordError as error:
        name = value.get("dialogue_id")
        error.dialogue_id = name if isinstance(name, str) else None
        return error


def parse_record(value: dict, *, path: str | Path = "record", line: int = 0) -> Record:
    """A JSON object -> Record; `path` and `line` are for the message.

    Raises:
        RecordError: a missing key, a wrong type, a path out of the data folder, a string that is not UTF-8.
    """
    check_object(value, path, line)
    return _Parser(path, line).record(value)


def to_json(record: Record) -> dict:
    """The JSON object of a record: all keys it was read with, and its units and codec as they are now.

    Raises:
        ValueError: the record was not read from a file.
    """
    turns = [_turn_json(turn) for turn in record.turns]
    raw = record.raw
    if not raw:
        raise ValueError("only records that were read have a JSON form; write new ones as dictionaries")
    value = {key: turns if key == "turns" else item for key, item in raw.items()}
    if record.codec is not None:
        meta: Any = value.get("ieat_meta") or {}
        value["ieat_meta"] = {**meta, "codec": record.codec}
    return value


def _turn_json(turn: Turn) -> dict:
    raw = turn.raw
    if turn.units is None:
        return raw
    ours = raw.get("ieat") or {}
    response = {**(ours.get("response") or {}), "units": np.asarray(turn.units).tolist()}
    return {**raw, "ieat": {**ours, "response": response}}


def with_units(record: Record, units: Mapping[int, np.ndarray], codec: dict) -> Record:
    """The record with speech units {turn_id: ids} of the codec with identity `codec`."""
    turns = tuple(replace(turn, units=units.get(turn.turn_id, turn.units)) for turn in record.turns)
    return replace(record, turns=turns, codec=codec)


def write_records(path: str | Path, records: Iterable[dict | Record]) -> int:
    """Write one JSON object per line and return their number; the file appears only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            value = to_json(record) if isinstance(record, Record) else record
            file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    os.replace(partial, path)
    return count


def without_events(text: str) -> str:
    """A transcript without its inline tags such as [sigh]."""
    return " ".join(_EVENT.sub(" ", text).split())


class _Parser:
    """Reads one object, and knows where it stands for its messages."""

    def __init__(self, path: str | Path, line: int):
        self.path, self.line = path, line

    def fail(self, code: str, message: str) -> NoReturn:
        raise RecordError(code, self.path, self.line, message)

    def get(self, owner: dict, key: str, kind: type, where: str, *, required: bool = False) -> Any:
        """`owner[key]` if it is of `kind`; None where it is absent or null."""
        value = owner.get(key)
        if value is None and not required:
            return None
        if type(value) is not kind:
            wanted = {str: "a string", int: "a whole number", list: "a list", dict: "an object"}[kind]
            if key not in owner:
                self.fail("missing_key", f"{where}{key} must be {wanted}, is absent{keys.instead_of(key, owner)}")
            found = "a fraction" if type(value) is float else kind_of(value)
            self.fail("wrong_type", f"{where}{key} must be {wanted}, is {found}")
        return value

    def record(self, value: dict) -> Record:
        dialogue_id = self.get(value, "dialogue_id", str, "", required=True)
        if not dialogue_id.strip():
            self.fail("no_id", "dialogue_id is empty")
        raw_turns = self.get(value, "turns", list, "", required=True)
        if not raw_turns:
            self.fail("no_turns", f"dialogue {dialogue_id!r} has no turns")
        turns = tuple(self.turn(turn, number) for number, turn in enumerate(raw_turns, 1))
        for turn in turns:
            for turn_id, _ in turn.cause.evidence if turn.cause else ():
                if not 1 <= turn_id <= len(turns):
                    self.fail("no_such_turn", f"turn {turn.turn_id}: evidence in turn {turn_id} of {len(turns)}")
        meta = self.get(value, "ieat_meta", dict, "") or {}
        strange: list[tuple[str, str]] = []
        language = _label(self.get(meta, "language", str, "ieat_meta."), "language", labels.canonical_language, strange)
        codec = self.get(meta, "codec", dict, "ieat_meta.")
        spoken = any(turn.units is not None for turn in turns)
        if codec is None and spoken:
            slip = keys.instead_of("codec", meta) or keys.instead_of("ieat_meta", value)
            self.fail("no_codec", "has units but no ieat_meta.codec that says which codec they are of" + slip)
        if codec is not None and (missing := [name for name in IDENTITY_FIELDS if name not in codec]):
            self.fail("missing_key", f"ieat_meta.codec lacks {', '.join(missing)}")
        self.unit_range(turns, codec)
        return Record(
            dialogue_id=dialogue_id,
            turns=turns,
            language=language or labels.language_of_script(" ".join(turn.text for turn in turns)),
            kind=labels.canonical_kind(self.get(meta, "kind", str, "ieat_meta.")),
            speaker=self.get(meta, "speaker", str, "ieat_meta."),
            codec=codec,
            packed=self.packed(value | {"turns": None}),
            strange=tuple(strange),
            unread=keys.unread_keys(value),
            line=self.line,
        )

    def unit_range(self, turns: tuple[Turn, ...], codec: dict | None) -> None:
        for turn in turns:
            if turn.units is not None and len(turn.units):
                size = self.get(codec or {}, "vocab_size", int, "ieat_meta.codec.", required=True)
                if (highest := int(turn.units.max())) >= size:
                    self.fail("unit_range", f"turn {turn.turn_id}: unit {highest}, but the codec has {size}")

    def turn(self, value: Any, number: int) -> Turn:
        if not isinstance(value, dict):
            self.fail("wrong_type", f"turn {number} must be an object, is {kind_of(value)}")
        where = f"turn {number}: "
        turn_id = self.get(value, "turn_id", int, where, required=True)
        if turn_id != number:
            self.fail("turn_order", f"turn_id {turn_id} stands where {number} should: ids count 1, 2, 3")
        text = _unless_blank(self._either(value, "text", where))
        ours = self.get(value, "ieat", dict, where) or {}
        inside = where + "ieat."
        emotion = self.get(ours, "emotion", dict, inside) or {}
        raw_emotion = label = self._either(value, "emotion", where)
        # A label of ours overrules HumDial's key, also when it says that the feeling is unknown.
        if "emotion" in ours and (not emotion or "label" in emotion):
            label = self.get(emotion, "label", str, inside + "emotion.")
        intensity = self.get(emotion, "intensity", str, inside + "emotion.")
        events = self.get(ours, "events", list, inside)
        response = self.get(ours, "response", dict, inside) or {}
        think = self.get(ours, "think", dict, inside) or {}
        style = self.get(response, "emotion", str, inside + "response.")
        units = self.get(response, "units", list, inside + "response.")
        strange: list[tuple[str, str]] = []
        return Turn(
            turn_id=turn_id,
            text=text,
            emotion=_label(label, "emotion", labels.canonical_emotion, strange),
            raw_emotion=self.get(emotion, "raw", str, inside + "emotion.") or raw_emotion,
            intensity=_label(intensity, "intensity", labels.canonical_intensity, strange),
            tone=self.get(ours, "tone", str, inside) or None,
            events=tuple(_EVENT.findall(text)) if events is None else self.strings(events, inside + "events"),
            audio=self.audio_path(value, "split_audio_file", where),
            response_text=_unless_blank(self.get(value, "response_text", str, where)),
            response_audio=self.audio_path(value, "response_audio", where),
            response_emotion=_label(style, "style", labels.canonical_style, strange),
            cause=self.cause(self.get(ours, "cause", dict, inside), inside + "cause."),
            think_text=self.get(think, "text", str, inside + "think.") or None,
            think_template=self.get(think, "template", str, inside + "think.") or None,
            units=None if units is None else self.units(units, inside + "response.units"),
            packed=self.packed(value if units is None else _without_units(value)),
            emotion_source=labels.canonical_source(self.get(emotion, "source", str, inside + "emotion.")),
            strange=tuple(strange),
            tone_source=labels.canonical_source(self.get(ours, "tone_source", str, inside)),
            events_source=labels.canonical_source(self.get(ours, "events_source", str, inside)),
        )

    def _either(self, value: dict, key: str, where: str) -> str | None:
        """`input_X or X`, as HumDial's scripts read it."""
        return self.get(value, "input_" + key, str, where) or self.get(value, key, str, where)

    def packed(self, value: dict) -> bytes:
        """The object as JSON: as dictionaries, what is kept for a faithful copy would take five times the memory."""
        try:
            return _ENCODER.encode(value).encode()
        except (TypeError, ValueError) as error:  # what JSON has no word for, in an object that was made in Python
            self.fail("wrong_type", f"cannot be written as JSON ({error})")

    def strings(self, values: list, where: str) -> tuple[str, ...]:
        if not all(isinstance(value, str) for value in values):
            self.fail("wrong_type", f"{where} must be a list of strings")
        return tuple(values)

    def cause(self, value: dict | None, where: str) -> Cause | None:
        if value is None:
            return None
        evidence = []
        for item in self.get(value, "evidence", list, where) or ():
            if not isinstance(item, dict):
                self.fail("wrong_type", f"{where}evidence must be a list of objects")
            turn_id = self.get(item, "turn_id", int, where + "evidence.", required=True)
            evidence.append((turn_id, self.get(item, "quote", str, where + "evidence.") or ""))
        text = self.get(value, "text", str, where)
        if not text or not text.strip():
            return None
        return Cause(text, tuple(evidence), labels.canonical_source(self.get(value, "source", str, where)))

    def audio_path(self, value: dict, key: str, where: str) -> str | None:
        path = self.get(value, key, str, where)
        if not path:
            return None
        slashed = path.replace("\\", "/")
        if slashed.startswith("/") or _DRIVE.match(path) or posixpath.normpath(slashed).split("/")[0] == "..":
            self.fail("outside_root", f"{where}{key} {path!r} leads out of the audio folder; paths are relative to it")
        if slashed != path:
            self.fail("bad_path", f"{where}{key} {path!r} is a Windows path; write forward slashes")
        return path

    def units(self, values: list, where: str) -> np.ndarray:
        if values and not (set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= MAX_UNIT):
            self.fail("wrong_type", f"{where} must be whole numbers of 0 and above")
        return np.asarray(values, np.int32)


def _label(raw: str | None, name: str, canonical: Callable[[str], str | None], strange: list) -> str | None:
    """The label that `raw` means; (name, raw) is added to `strange` where nobody understands it."""
    if raw is None:
        return None
    label = canonical(raw)
    if label is None and not labels.says_unknown(raw):
        strange.append((name, raw))
    return label


def _unless_blank(text: str | None) -> str:
    """A text of blanks is none: it can be neither read nor answered with."""
    return text if text and text.strip() else ""


def _without_units(value: dict) -> dict:
    """The turn without its units, which are kept as an array."""
    ours = value["ieat"]
    response = {key: item for key, item in ours["response"].items() if key != "units"}
    return {**value, "ieat": {**ours, "response": response}}
