"""Lines of HumDial: to our records, and back to the very same lines.

Everything of a line stays as it is, unknown keys included. What differs is kept in `ieat_meta.humdial`: paths, which we
read from one folder for a whole tree, and an id that stands in two lists.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ieat_jax.importers.corpus import Found, Place, Refusal, Refused, split_named
from ieat_jax.importers.tables import rows_of

PATHS = ("split_audio_file", "response_audio")
# Left out of the challenge by its organisers.
EXCLUDED = re.compile(r"task2_4_en_0002_0014|task2_[345]_zh_0015.*")
_LANGUAGES = {"zh": "zh", "cn": "zh", "chinese": "zh", "en": "en", "english": "en"}


def find_dialogues(place: Place, pattern: str, *, split: str | None = None) -> Iterator[Found | Refused]:
    """What becomes of every line of the lists whose paths fit a pattern.

    Args:
        place: the folder.
        pattern: of the paths of lists.
        split: of all dialogues; None = that which the path says.

    Raises:
        CorpusError: no list is there.
    """
    ids: set[str] = set()
    counts: Counter[str] = Counter()
    for path in place.named(pattern, what="a list of dialogues (.jsonl)"):
        for number, value in rows_of(place.folder / path):
            line = f"{path}:{number}"
            place.expect("dialogues", [line])
            if not isinstance(value, dict):
                yield Refused((line,), "not_a_record", str(value))
                continue
            try:
                record = imported(place, path, value, counts)
            except Refusal as refusal:
                yield Refused((line,), refusal.code, f"{line}: {refusal.message}", meant=refusal.code == "excluded")
                continue
            if record["dialogue_id"] in ids:  # the lists of the tasks count anew
                record["ieat_meta"]["humdial"]["dialogue_id"] = value["dialogue_id"]
                record["dialogue_id"] = f"{path.removesuffix('.jsonl')}/{value['dialogue_id']}"
            ids.add(record["dialogue_id"])
            yield Found(record, (line,), split or _split_of(path))
    if counts["no_audio"]:
        place.notes.append(f"{counts['no_audio']} turns have no recording")
    if counts["no_reply_audio"]:
        place.notes.append(f"{counts['no_reply_audio']} spoken replies are named, but not there: kept for the way back")


def imported(place: Place, path: str, value: dict[str, Any], counts: Counter[str]) -> dict[str, Any]:
    """The record of a line of the list `path`; what is missing is counted.

    Raises:
        Refusal: it cannot be one, or a clip that it names is not there.
    """
    name, turns = value.get("dialogue_id"), value.get("turns")
    if not isinstance(name, str) or not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Refusal("not_a_record", "needs dialogue_id (a string) and turns (a list of objects)")
    if EXCLUDED.fullmatch(name):
        raise Refusal("excluded", f"{name} is left out of the challenge by its organisers")
    was: list[dict[str, Any]] = []
    ours = [_turn(place, path, name, turn, was, counts) for turn in turns]
    meta = value.get("ieat_meta")
    kept: dict[str, Any] = {"file": path, "paths": was} | ({"meta": meta} if "ieat_meta" in value else {})
    language = {"language": found} if (found := _language_of(path, name)) else {}
    return {**value, "turns": ours, "ieat_meta": {**language, **(meta or {}), "humdial": kept}}


def _turn(
    place: Place, path: str, name: str, turn: dict[str, Any], was: list[dict[str, Any]], counts: Counter[str]
) -> dict[str, Any]:
    """A turn with paths from the audio root; what they were is added to `was`."""
    folder, stem = str(PurePosixPath(path).parent), PurePosixPath(path).stem
    was.append({key: turn[key] for key in PATHS if key in turn} | ({"ieat": True} if "ieat" in turn else {}))
    changed = dict(turn)
    if isinstance(given := turn.get(PATHS[0]), str) and given:
        changed[PATHS[0]] = _first(place, given, (folder, f"{folder}/{stem}"))
    elif found := _there(place, f"{name}_{turn.get('turn_id')}.wav", (f"{folder}/{stem}", folder)):
        changed[PATHS[0]] = found
    else:
        counts["no_audio"] += 1
    if isinstance(given := turn.get(PATHS[1]), str) and given:
        found = _there(place, given, (folder, f"{folder}/{stem}"))
        counts["no_reply_audio"] += not found
        changed |= {PATHS[1]: found} if found else {}
        if not found:
            del changed[PATHS[1]]
    return changed


def _first(place: Place, given: str, folders: tuple[str, ...]) -> str:
    problem: Refusal | None = None
    for folder in folders:
        try:
            return place.audio(given, folder)
        except Refusal as refusal:
            problem = problem or refusal
    raise problem or Refusal("missing", f"there is no file {given}")


def _there(place: Place, given: str, folders: tuple[str, ...]) -> str | None:
    try:
        return _first(place, given, folders)
    except Refusal:
        return None


def exported(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(the list that a record came from, its line there): the line as it was, with what has been added since.

    Our keys `ieat` and `ieat_meta` are left out where the line had none.

    Raises:
        Refusal: the record did not come from such a list.
    """
    meta = record.get("ieat_meta") or {}
    kept = meta.get("humdial")
    if not isinstance(kept, dict):
        raise Refusal("not_imported", "was not imported from HumDial")
    turns = [_restored(turn, was) for turn, was in zip(record["turns"], kept["paths"], strict=True)]
    value = {**record, "turns": turns, "dialogue_id": kept.get("dialogue_id", record["dialogue_id"])}
    if "meta" in kept:
        value["ieat_meta"] = kept["meta"]
    else:
        del value["ieat_meta"]
    return kept["file"], value


def _restored(turn: dict[str, Any], was: dict[str, Any]) -> dict[str, Any]:
    dropped = {*PATHS} - was.keys() | (set() if "ieat" in was else {"ieat"})
    kept = {key: value for key, value in turn.items() if key not in dropped}
    return kept | {key: value for key, value in was.items() if key in PATHS}


def _language_of(path: str, name: str) -> str | None:
    words = re.split(r"[^a-z]+", f"{path}/{name}".lower())
    return next((_LANGUAGES[word] for word in words if word in _LANGUAGES), None)


def _split_of(path: str) -> str:
    words = re.split(r"[^A-Za-z]+", path)
    return next((found for word in words if (found := split_named(word))), "train")
