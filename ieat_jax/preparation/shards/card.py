"""The card of a data set: what is in it, for people (README.md) and for programs (card.json)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import soundfile
import soxr

from ieat_jax.preparation.shards.cut import RecordFile
from ieat_jax.preparation.shards.tally import Tally
from ieat_jax.version import __version__

_TABLES = {
    "emotion": "Emotions of the user, by turns",
    "intensity": "Their intensities",
    "style": "Styles of replies, by turns",
    "language": "Languages, by dialogues",
    "kind": "Kinds, by dialogues",
}


def make_card(
    tally: Tally,
    settings: Mapping[str, Any],
    files: Sequence[RecordFile],
    shards: Sequence[Mapping[str, Any]],
    bad: Sequence[Sequence[Any]],
) -> dict[str, Any]:
    """Everything that is to be told of a data set; `bad`: [file, line, id, code, message] of what was left out."""
    counts = tally.counts
    codec = tally.codecs[0][0] if tally.codecs else None
    unit_hours = counts["units"] / codec["rate"] / 3600 if codec else 0.0
    origins = [(*origin.split("\t"), count) for origin, count in sorted(tally.tables["origin"].items())]
    return {
        "input_lines": sum(len(file.numbers) for file in files),
        "dialogues": counts["dialogues"],
        "quarantined": len(bad),
        "turns": counts["turns"],
        "clips": counts["clips"],
        "clip_hours": round(counts["milliseconds"] / 3_600_000, 4),
        "replies": counts["replies"],
        "spoken_replies": counts["spoken"],
        "unit_hours": round(unit_hours, 4),
        "reply_sound_hours": round(counts["reply_milliseconds"] / 3_600_000, 4),
        "turns_with_cause": counts["causes"],
        "turns_with_thinking": counts["thinking"],
        "bytes": sum(file["bytes"] for shard in shards for file in shard["files"]),
        "shards": len(shards),
        "labels": {name: dict(sorted(tally.tables[name].items())) for name in _TABLES if tally.tables[name]},
        "not_understood": {name: dict(sorted(table.items())) for name, table in tally.labels.strange.items() if table},
        "origins": [{"corpus": corpus, "licence": licence, "dialogues": n} for corpus, licence, n in origins],
        "sources": [{"file": file.path, "lines": len(file.numbers), "sha256": file.sha256} for file in files],
        "codec": codec,
        **{key: settings[key] for key in ("tokenizer", "bits", "clip_seconds", "reply_seconds")},
        "reply_sound": settings["replies"],
        "quarantine": dict(sorted(Counter(code for _, _, _, code, _ in bad).items())),
        "made_with": {
            "ieat_jax": __version__,
            "libsndfile": soundfile.__libsndfile_version__,
            "soxr": soxr.__version__,
        },
    }


def write_card(card: Mapping[str, Any]) -> str:
    """The card as a page of Markdown."""
    lines = [
        "# Spoken dialogues",
        "",
        f"{card['dialogues']} dialogues with {card['turns']} turns, {card['clip_hours']:.2f} h of clips, in "
        f"{card['shards']} shards of ArrayRecord ({card['bytes'] / 2**20:.1f} MiB). Each record of a shard is one "
        "dialogue: its annotations, its sound as FLAC at 16 kHz, its speech units. A recipe reads them with",
        '`config.data.sources.NAME.records = "THIS FOLDER"`.',
        "",
        "| | |",
        "|---|---|",
    ]
    told = {
        "lines of the input": card["input_lines"],
        "dialogues": card["dialogues"],
        "left out": f"{card['quarantined']}, listed in quarantine.jsonl" if card["quarantined"] else 0,
        "clips": card["clips"],
        "replies": card["replies"],
        "spoken replies": f"{card['spoken_replies']} ({card['unit_hours']:.2f} h of units)",
        "turns with a cause": card["turns_with_cause"],
        "turns with thinking of their own": card["turns_with_thinking"],
        "bits of a sample": card["bits"],
        "codec": _identity(card["codec"]),
        "tokenizer": _identity(card["tokenizer"]),
    }
    lines += [f"| {name} | {value} |" for name, value in told.items()]
    lines += ["", "## Where it is from", "", "| corpus | licence | dialogues |", "|---|---|---|"]
    for origin in card["origins"]:
        named = [origin[name] or "not named" for name in ("corpus", "licence")]
        lines.append(f"| {' | '.join(named)} | {origin['dialogues']} |")
    lines += ["", "| file of records | lines | sha256 |", "|---|---|---|"]
    lines += [f"| {file['file']} | {file['lines']} | {file['sha256'][:16]} |" for file in card["sources"]]
    for name, table in card["labels"].items():
        lines += ["", f"## {_TABLES[name]}", "", f"| {name} | count |", "|---|---|"]
        ordered = sorted(table.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"| {label} | {count} |" for label, count in ordered]
    if card["not_understood"]:
        lines += ["", "## Labels that nobody understands", "", "| field | label | count |", "|---|---|---|"]
        for name, table in card["not_understood"].items():
            lines += [f"| {name} | {label} | {count} |" for label, count in table.items()]
    lines += ["", "## Left out", ""]
    lines += ["| reason | dialogues |", "|---|---|"] if card["quarantine"] else ["Nothing."]
    lines += [f"| {code} | {count} |" for code, count in card["quarantine"].items()]
    return "\n".join(lines) + "\n"


def _identity(of: Mapping[str, Any] | None) -> str:
    return "none" if of is None else ", ".join(f"{name} {value}" for name, value in of.items())
