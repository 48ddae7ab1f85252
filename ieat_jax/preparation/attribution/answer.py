"""An answer, read and checked: labels that are known, quotes that are there, thinking that agrees."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ieat_jax.data.labels import (
    EMOTIONS,
    INTENSITIES,
    STYLES,
    canonical_emotion,
    canonical_intensity,
    canonical_style,
    emotion_word,
)
from ieat_jax.data.records import Record
from ieat_jax.text.checks import TextError, check_text

MOST_WORDS = 1000  # characters of a cause or of thinking
_LABELS = {
    "emotion": (canonical_emotion, EMOTIONS),
    "intensity": (canonical_intensity, INTENSITIES),
    "style": (canonical_style, STYLES),
}
_CHINESE = re.compile(r"[\u3400-\u9fff]+")


class Wrong(Exception):
    """What is wrong with a field of an answer; `code` is for counting."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


def read_answer(
    text: str, record: Record, index: int, fields: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Wrong]]:
    """({field: what it says}, {field: what is wrong with it}) of the fields that were asked for.

    None is said of a cause or an intensity that there is none. A cause has `text` and `evidence`.
    """
    value = _object(text)
    if value is None:
        return {}, dict.fromkeys(fields, Wrong("no_json", "holds no JSON object"))
    good: dict[str, Any] = {}
    bad: dict[str, Wrong] = {}
    feels = record.turns[index].emotion
    for field in fields:
        try:
            good[field] = _field(field, value, record, index, feels)
        except Wrong as wrong:
            bad[field] = wrong
        if field == "emotion":
            feels = good.get(field, feels)
    if "emotion" in bad:  # what depends on it was said of another one
        for field in [name for name in ("intensity", "cause", "think") if name in good]:
            del good[field]
            bad[field] = Wrong("no_emotion", f'{field} is of an "emotion" that nobody knows')
    return good, bad


def _field(field: str, value: Mapping[str, Any], record: Record, index: int, feels: str | None) -> Any:
    """What is said of one field of a turn whose user feels so."""
    if field in ("intensity", "cause") and feels == "neutral":
        return None
    if field not in value:
        raise Wrong("missing", f'has no key "{field}"')
    given = value[field]
    if field in _LABELS:
        return _label(field, given)
    if field == "cause":
        return None if given is None else _cause(given, record, index)
    return _thinking(given, feels)


def _object(text: str) -> Mapping[str, Any] | None:
    """The first JSON object of an answer, which may stand in a block of code or after other words."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


def _label(field: str, given: Any) -> str:
    canonical, known = _LABELS[field]
    label = canonical(given) if isinstance(given, str) else None
    if label is None:
        raise Wrong(
            "unknown_label", f'"{field}" is {json.dumps(given, ensure_ascii=False)[:60]}, none of {", ".join(known)}'
        )
    return label


def _words(given: Any, field: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise Wrong("no_text", f'"{field}" has to be a text')
    words = " ".join(given.split())
    if len(words) > MOST_WORDS:
        raise Wrong("too_long", f'"{field}" has more than {MOST_WORDS} characters')
    try:
        return check_text(words, f'"{field}"')
    except TextError as error:
        raise Wrong("bad_text", str(error)) from error


def _cause(given: Any, record: Record, index: int) -> dict[str, Any]:
    if not isinstance(given, dict) or not isinstance(given.get("evidence"), list) or not given["evidence"]:
        raise Wrong("no_quote", '"cause" needs "text" and "evidence", a list with a quote; or it is null')
    evidence = []
    for item in given["evidence"]:
        if not isinstance(item, dict) or not isinstance(item.get("quote"), str) or not item["quote"].strip():
            raise Wrong("no_quote", '"evidence" needs objects with "turn" and "quote"')
        quote, place = item["quote"].strip(), item.get("turn")
        there = {turn_id: found for turn_id, words in _sayable(record, index) if (found := _found(quote, words))}
        if not there:
            at = record.turns[index].turn_id
            raise Wrong("no_quote", f"the quote {quote[:60]!r} does not stand in turn {at} or before")
        if isinstance(place, bool) or not isinstance(place, int) or place not in there:
            raise Wrong("wrong_turn", f"the quote {quote[:60]!r} stands in turn {max(there)}, not in {place!r}")
        quote = there[place]
        if (one := {"turn_id": place, "quote": quote}) not in evidence:
            evidence.append(one)
    return {"text": _words(given.get("text"), "text"), "evidence": evidence}


def _sayable(record: Record, index: int) -> list[tuple[int, str]]:
    """(turn_id, words) of what is said before the user has ended a turn."""
    found = []
    for number, turn in enumerate(record.turns[: index + 1]):
        found.append((turn.turn_id, turn.text))
        if number < index and turn.response_text:
            found.append((turn.turn_id, turn.response_text))
    return found


def _found(quote: str, words: str) -> str | None:
    """The quote as it stands in the words: a question shows them on one line."""
    match = re.search(r"\s+".join(map(re.escape, quote.split())), words)
    return match[0] if match else None


def _thinking(given: Any, feels: str | None) -> str:
    words = _words(given, "think")
    if feels is not None and feels not in named_emotions(words):
        raise Wrong("thinking_differs", f'"think" does not name what the user feels: {feels}')
    return words


def named_emotions(text: str) -> set[str]:
    """The labels whose words stand in a text, in any spelling that `data/labels.py` reads."""
    words = re.findall(r"[^\W\d_]+(?:[-'][^\W\d_]+)*", text.lower())
    found = {canonical_emotion(word) for word in words if not _CHINESE.search(word)}
    for run in _CHINESE.findall(text):
        parts = {run[at : at + size] for size in (2, 3, 4) for at in range(len(run) - size + 1)}
        found |= {canonical_emotion(part) for part in parts}
        found |= {label for label in EMOTIONS if emotion_word(label, "zh") in run}
    return {label for label in found if label is not None}
