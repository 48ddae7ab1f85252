"""Cuts of Lhotse (cuts.jsonl, cuts.jsonl.gz): every supervision of a cut is an utterance.

The emotion is `custom.emotion` of the supervision, or of the cut. Recordings are files: cuts that mix, pad, or hold
their sound in archives, commands or addresses are refused.
"""

import math
from collections.abc import Iterator
from typing import Any

from ieat_jax.importers.corpus import (
    Corpus,
    Found,
    Place,
    Refusal,
    Refused,
    split_named,
    split_of_speaker,
    utterance,
)
from ieat_jax.importers.parts import OPTION, part_of
from ieat_jax.importers.tables import json_lines


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every cut.

    Raises:
        CorpusError: no list of cuts is there.
    """
    wanted = r"(?!.*quarantine\.jsonl).*cuts[^/]*\.jsonl(?:\.gz)?"
    single = place.path.relative_to(place.folder).as_posix() if place.path.is_file() else None
    for path in [single] if single else place.named(wanted, what="a list of cuts (cuts*.jsonl.gz)"):
        words = path.replace("_", "/").replace("-", "/").replace(".", "/").split("/")
        split = next((found for word in words if (found := split_named(word))), None)
        for number, value in json_lines(place.folder / path):
            line = f"{path}:{number}"
            place.expect("cuts", [line])
            if not isinstance(value, dict):
                yield Refused((line,), "not_a_record", str(value))
                continue
            try:
                records = _records(place, path, value)
            except Refusal as refusal:
                yield Refused((line,), refusal.code, f"{line}: {refusal.message}")
                continue
            for place_in_cut, record in enumerate(records):
                given = split or split_of_speaker(record["ieat_meta"].get("speaker"))
                yield Found(record, () if place_in_cut else (line,), given)


def _records(place: Place, path: str, cut: dict[str, Any]) -> list[dict[str, Any]]:
    name, kind = cut.get("id"), cut.get("type", "MonoCut")
    if not isinstance(name, str) or kind not in ("MonoCut", "Cut"):
        raise Refusal(
            "not_a_cut", f"is a {kind}; a MonoCut with an id is read. Save others to sound (`cuts.save_audios`)"
        )
    recording = cut.get("recording")
    sources = recording.get("sources") if isinstance(recording, dict) else None
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise Refusal("no_recording", f"{name}: needs a recording with one source")
    if sources[0].get("type") != "file":
        raise Refusal("no_file", f"{name}: its sound is a {sources[0].get('type')}, not a file (`cuts.save_audios`)")
    supervisions = cut.get("supervisions") or [{}]
    if not isinstance(supervisions, list) or not all(isinstance(each, dict) for each in supervisions):
        raise Refusal("not_a_cut", f"{name}: supervisions have to be a list of objects")
    several = len(supervisions) > 1
    made = []
    for number, one in enumerate(supervisions, 1):
        each = f"{name}_{number}" if several else name
        start, end = _seconds(cut, "start"), _seconds(cut, "start") + _seconds(cut, "duration")
        if several:  # times of a supervision are from the cut's start
            start, end = start + _seconds(one, "start"), start + _seconds(one, "start") + _seconds(one, "duration")
        base = path.rpartition("/")[0]
        channel = cut.get("channel") if isinstance(cut.get("channel"), int) else None
        audio = part_of(place, each, str(sources[0].get("source")), base, start, end, channel)
        custom = {**(cut.get("custom") or {}), **(one.get("custom") or {})}
        emotion = custom.get("emotion")
        made.append(
            utterance(
                each,
                audio,
                text=one.get("text") or "",
                emotion=emotion if isinstance(emotion, str) else None,
                source="human",
                language=one.get("language"),
                speaker=one.get("speaker"),
                gender=one.get("gender"),
            )
        )
    return made


def _seconds(owner: dict[str, Any], key: str) -> float:
    value = owner.get(key, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refusal("not_a_cut", f"{key} has to be a number of seconds, is {value!r}")
    return float(value)


CORPUS = Corpus(
    name="lhotse",
    title="cuts of Lhotse: cuts.jsonl, cuts.jsonl.gz",
    licence="yours",
    source="your own",
    find=find,
    options={"parts": OPTION},
)
