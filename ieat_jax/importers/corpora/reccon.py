"""RECCON: why people feel what they feel, in DailyDialog (and parts of IEMOCAP). Text alone: `prepare speak` voices it.

Two people talk in turns. The first is the user, the other answers; `user=second` and `user=both` have it otherwise.
Causes become quotes with the turn that they stand in. Where a quote stands in another turn than annotated, that one is
named; `b` (the cause lies outside of the dialogue) has no quote.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ieat_jax.data.labels import canonical_emotion
from ieat_jax.importers.corpus import Corpus, CorpusError, Found, Place, Refusal, Refused, split_named
from ieat_jax.importers.tables import json_file, plain

EVIDENCE, SPAN = "expanded emotion cause evidence", "expanded emotion cause span"
_SPACED = re.compile(r"\s+([,.!?;:%)\]])|(?<=[(\[])\s+")
_SHORTENED = re.compile(r"\s*(['’])\s+(s|m|re|ve|ll|d|t)\b", re.IGNORECASE)


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every dialogue.

    Raises:
        CorpusError: an option that is none, or a file that holds no dialogues.
    """
    user, text = place.options["user"], place.options["text"]
    if user not in ("first", "second", "both") or text not in ("written", "raw"):
        raise CorpusError("--option: user is one of first, second, both; text is written or raw")
    counts: Counter[str] = Counter()
    for path in place.named(r"(?:.*/)?(?:dailydialog|iemocap)_\w+\.json", what="dailydialog_train.json"):
        dialogues = json_file(place.folder / path)
        if not isinstance(dialogues, dict):
            raise CorpusError(f"{place.folder / path}: has to hold an object {{dialogue: [[turn, ...]]}}")
        split = split_named(path.rpartition("/")[2].removesuffix(".json").rpartition("_")[2]) or "train"
        names = [f"{path}: {name}" for name in dialogues]
        place.expect("dialogues", names)
        for name, key in zip(names, dialogues, strict=True):
            try:
                said = _utterances(dialogues[key], clean=text == "written")
                counts["utterances"] += len(said)
                sides = {"first": (0,), "second": (1,), "both": (0, 1)}[user]
                for number, side in enumerate(sides):
                    record = _record(f"reccon_{key}" + "_b" * side, said, said[0]["speaker"], side == 1, counts)
                    yield Found(record, () if number else (name,), split)
            except Refusal as refusal:
                yield Refused((name,), refusal.code, f"{name}: {refusal.message}")
    place.notes.append(
        f"{counts['utterances']} utterances; {counts['causes']} turns of the user with a cause: {counts['quotes']} "
        f"quotes, {counts['moved']} of them in another turn than annotated; left out: {counts['outside']} outside of "
        f"the dialogue, {counts['opening']} before the user speaks, {counts['later']} in a later turn, "
        f"{counts['nowhere']} found nowhere; {counts['others']} causes are on the side of the replies"
    )


def _utterances(value: Any, clean: bool) -> list[dict[str, Any]]:
    """The utterances of a dialogue, their texts as one writes them (`clean`) or in tokens, as they are."""
    turns = value[0] if isinstance(value, list) and len(value) == 1 else None
    if not isinstance(turns, list) or len(turns) < 1:
        raise Refusal("not_a_dialogue", "has to be a list with one list of turns in it")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("speaker", "utterance")):
            raise Refusal("not_a_dialogue", f"turn {number} needs a speaker and an utterance")
        if turn.get("turn", number) != number:
            raise Refusal("turn_order", f"turn {turn['turn']} stands where {number} should")
    return [
        {**turn, "text": written(turn["utterance"]) if clean else turn["utterance"], "clean": clean} for turn in turns
    ]


def written(text: str) -> str:
    """Tokens as one writes them: "Ok . I 'll try ." -> "Ok. I'll try."."""
    return _SHORTENED.sub(r"\1\2", _SPACED.sub(r"\1", plain(text)))


def _record(name: str, said: list[dict], first: str, second: bool, counts: Counter[str]) -> dict[str, Any]:
    """The dialogue with one of the two as user. What another says before the user does has no turn to stand in."""
    turns: list[dict[str, Any]] = []
    where: dict[int, tuple[int, str]] = {}  # utterance -> (turn_id, key that its text stands in)
    opening = []
    for number, one in enumerate(said, 1):
        is_user = (one["speaker"] == first) != second
        if is_user and (not turns or "response_text" in turns[-1]):
            turns.append({"turn_id": len(turns) + 1, "text": "", "ieat": {}})
        if not turns:
            opening.append(one["text"])
            continue
        turn, key = turns[-1], "text" if is_user else "response_text"
        turn[key] = f"{turn.get(key, '')} {one['text']}".strip()
        where[number] = (turn["turn_id"], key)
        label = one.get("emotion")
        if isinstance(label, str) and is_user:
            turn["emotion"] = label
            turn["ieat"]["emotion"] = {"label": canonical_emotion(label) or label, "source": "human", "raw": label}
        elif isinstance(label, str):
            turn["ieat"]["response"] = {"emotion": canonical_emotion(label) or label}
    if not turns:
        raise Refusal("no_turns", "the second of the two says nothing")
    for number, one in enumerate(said, 1):
        if EVIDENCE in one and where.get(number, (0, ""))[1] == "text":
            counts["causes"] += 1
            turn = turns[where[number][0] - 1]
            turn["ieat"]["cause"] = _joined(turn["ieat"].get("cause"), _cause(one, number, said, where, counts))
            if further := {key: one[key] for key in ("type", "explanation") if key in one}:
                turn.setdefault("reccon", []).append(further)
        elif EVIDENCE in one:
            counts["others"] += 1
    meta: dict[str, Any] = {"language": "en"} | ({"opening": " ".join(opening)} if opening else {})
    return {"dialogue_id": name, "turns": turns, "ieat_meta": meta}


def _joined(first: dict[str, Any] | None, second: dict[str, Any] | None) -> dict[str, Any] | None:
    """The causes of two utterances that share a turn, as one."""
    if first is None or second is None:
        return first or second
    evidence = [*first["evidence"], *(item for item in second["evidence"] if item not in first["evidence"])]
    return {**first, "evidence": evidence, "text": _text(evidence)}


def _text(evidence: list[dict[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(item["quote"] for item in evidence))


def _cause(
    one: dict, number: int, said: list[dict], where: dict[int, tuple[int, str]], counts: Counter[str]
) -> dict[str, Any] | None:
    """The cause of an utterance's emotion: quotes from it and those before it. None: it is not in them."""
    places, quotes = one[EVIDENCE], one.get(SPAN)
    if not isinstance(places, list) or not isinstance(quotes, list) or len(places) != len(quotes):
        raise Refusal("bad_cause", f"turn {number}: {EVIDENCE!r} and {SPAN!r} have to be lists of the same length")
    evidence: list[dict[str, Any]] = []
    for place, quote in zip(places, quotes, strict=True):
        if place == "b" or not isinstance(quote, str) or not quote.strip():
            counts["outside"] += 1
            continue
        shown = (written(quote) if one["clean"] else quote).strip()
        holding = [at for at in where if at <= number and shown in said[at - 1]["text"]]
        if not holding:
            there = [at for at, other in enumerate(said, 1) if shown in other["text"]]
            counts["nowhere" if not there else "later" if min(there) > number else "opening"] += 1
            continue
        at = place if place in holding else max(holding)
        counts["moved"] += at != place
        item = {"turn_id": where[at][0], "quote": shown}
        if item not in evidence:
            evidence.append(item)
            counts["quotes"] += 1
    if not evidence:
        return None
    return {"text": _text(evidence), "evidence": evidence, "source": "human"}


CORPUS = Corpus(
    name="reccon",
    title="RECCON, Recognizing Emotion Cause in Conversations",
    licence="non-commercial: DailyDialog's words are CC BY-NC-SA 4.0",
    source="https://github.com/declare-lab/RECCON (data/original_annotation)",
    find=find,
    options={
        "user": ("first", "who is the user: first or second to speak, or both, each in a dialogue"),
        "text": ("written", "as one writes (Ok. I'll try.), or raw (Ok . I'll try .)"),
    },
)
