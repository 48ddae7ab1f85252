"""Any list: .csv, .tsv or JSON lines, a row per utterance, with a map from our names to its columns.

Rows that share a `dialogue` are its turns, in their order.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ieat_jax.importers.corpus import (
    Corpus,
    CorpusError,
    Found,
    Place,
    Refusal,
    Refused,
    split_named,
    split_of_speaker,
    utterance,
)
from ieat_jax.importers.tables import plain, rows_of

COLUMNS = {
    "id": "name of the row, else its line",
    "audio": "path of the clip, from the list's folder or --audio-root",
    "text": "what is said",
    "emotion": "label",
    "intensity": "slight, moderate, strong",
    "speaker": "who says it",
    "gender": "of the speaker",
    "language": "a code such as en",
    "split": "train, validation (dev) or test; without it a tenth each of the speakers is held out",
    "tone": "how it sounds, in words",
    "cause": "why the user feels so",
    "reply": "the reply",
    "reply_audio": "path of the spoken reply",
    "style": "style of the reply",
    "dialogue": "rows of the same name are one dialogue",
}


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every row.

    Raises:
        CorpusError: no list, or one without a column that was named.
    """
    lists = [place.path] if place.path.is_file() else [place.folder / name for name in place.files if _is_list(name)]
    if not lists:
        raise CorpusError(f"{place.folder}: holds no list (.csv, .tsv, .jsonl); give the list itself")
    for path in lists:
        yield from _dialogues(place, path)


def _is_list(name: str) -> bool:
    return name.endswith((".csv", ".tsv", ".jsonl", ".jsonl.gz")) and not name.endswith("quarantine.jsonl")


def _dialogues(place: Place, path: Path) -> Iterator[Found | Refused]:
    """Rows of one list. Those of a dialogue are kept until the list ends, all others are given at once."""
    dialogues: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for number, row in rows_of(path, place.options["encoding"]):
        line = f"{path.relative_to(place.folder).as_posix()}:{number}"
        place.expect("rows", [line])
        if not isinstance(row, dict):
            yield Refused((line,), "not_a_row", str(row))
            continue
        _check_columns(place, path, row)
        name = _value(place, row, "dialogue")
        if name is None:
            yield _found(place, path, [(line, row)])
        else:
            dialogues.setdefault(name, []).append((line, row))
    for rows in dialogues.values():
        yield _found(place, path, rows)


def _check_columns(place: Place, path: Path, row: dict[str, Any]) -> None:
    # A key may be absent from a row of JSON, a column of a table may not.
    for name in COLUMNS:
        column = place.options[name]
        if column != name and column not in row and path.suffix not in (".jsonl", ".gz"):
            raise CorpusError(f"{path}: --option {name}={column}: there is no such column; there are {', '.join(row)}")


def _value(place: Place, row: dict[str, Any], name: str) -> str | None:
    value = row.get(place.options[name])
    text = "" if value is None else plain(str(value))
    return text or None


def _found(place: Place, path: Path, rows: list[tuple[str, dict[str, Any]]]) -> Found | Refused:
    inputs = tuple(line for line, _ in rows)
    try:
        made = [_record(place, path, line, row) for line, row in rows]
    except Refusal as refusal:
        return Refused(inputs, refusal.code, f"{inputs[0]}: {refusal.message}")
    record = made[0]
    dialogue, given = _value(place, rows[0][1], "dialogue"), _value(place, rows[0][1], "split")
    if dialogue is not None:
        turns = [{**each["turns"][0], "turn_id": number} for number, each in enumerate(made, 1)]
        record = {**record, "dialogue_id": dialogue, "turns": turns}
    split = split_of_speaker(record["ieat_meta"].get("speaker")) if given is None else split_named(given)
    if split is None:
        return Refused(inputs, "unknown_split", f"{inputs[0]}: the split {given!r} is none of train, validation, test")
    return Found(record, inputs, split)


def _record(place: Place, path: Path, line: str, row: dict[str, Any]) -> dict[str, Any]:
    values = {name: _value(place, row, name) for name in COLUMNS}
    base = path.parent.relative_to(place.folder)
    if values["audio"] is None and values["text"] is None:
        raise Refusal("empty", "has neither a clip nor words")
    audio = None if values["audio"] is None else place.audio(values["audio"], base)
    record = utterance(
        values["id"] or f"{path.name.partition('.')[0]}_{line.rpartition(':')[2]}",
        audio,
        text=values["text"] or "",
        emotion=values["emotion"],
        source=place.options["source"],
        intensity=values["intensity"],
        language=values["language"],
        speaker=values["speaker"],
        gender=values["gender"],
    )
    (turn,) = record["turns"]
    ours = dict(turn.get("ieat", {}))
    if values["tone"]:
        ours["tone"] = values["tone"]
    if values["cause"]:
        ours["cause"] = {"text": values["cause"], "source": place.options["source"]}
    if values["style"]:
        ours["response"] = {"emotion": values["style"]}
    if values["reply"]:
        turn["response_text"] = values["reply"]
    if values["reply_audio"]:
        turn["response_audio"] = place.audio(values["reply_audio"], base)
    if ours:
        turn["ieat"] = ours
    return record


CORPUS = Corpus(
    name="manifest",
    title="any list of utterances: .csv, .tsv, .jsonl, .jsonl.gz",
    licence="yours",
    source="your own; give the list, or a folder with lists",
    find=find,
    options={name: (name, f"column: {text}") for name, text in COLUMNS.items()}
    | {
        "source": ("human", "who labelled: gold, human, model:NAME"),
        "encoding": ("gb18030", "of lists that are neither UTF-8 nor marked"),
    },
)
