"""What a data set holds, counted: for its card, and for what nobody understands in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ieat_jax.data.records import Record
from ieat_jax.data.understood import Labels

TABLES = ("emotion", "intensity", "style", "language", "kind", "origin")


class Tally:
    """Counts over records, which can be added to one another."""

    def __init__(self) -> None:
        self.tables: dict[str, Counter[str]] = {name: Counter() for name in TABLES}
        self.counts: Counter[str] = Counter()
        self.labels = Labels()
        self.codecs: list[list[Any]] = []  # [identity, the first dialogue that has its units]

    def add(self, record: Record, clip_seconds: float, reply_seconds: float) -> None:
        """Count a record."""
        meta = record.raw.get("ieat_meta") or {}
        origin = "\t".join(str(meta.get(name) or "") for name in ("corpus", "licence"))
        self.tables["origin"][origin] += 1
        self.tables["language"][record.language] += 1
        if record.kind:
            self.tables["kind"][record.kind] += 1
        self.counts.update(
            dialogues=1, turns=len(record.turns), milliseconds=round(1000 * clip_seconds),
            reply_milliseconds=round(1000 * reply_seconds),
        )  # fmt: skip
        for turn in record.turns:
            self.tables["emotion"][turn.emotion or "unknown"] += 1
            for name, label in (("intensity", turn.intensity), ("style", turn.response_emotion)):
                if label is not None:
                    self.tables[name][label] += 1
            self.counts.update(
                clips=turn.audio is not None,
                replies=bool(turn.response_text),
                spoken=turn.units is not None,
                units=0 if turn.units is None else len(turn.units),
                causes=turn.cause is not None,
                thinking=bool(turn.think_text or turn.think_template),
            )
        if record.codec is not None and all(record.codec != codec for codec, _ in self.codecs):
            self.codecs.append([record.codec, record.dialogue_id])
        self.labels.add(record)

    def as_json(self) -> dict[str, Any]:
        """All of it, for `merge`."""
        unread = self.labels.unread
        keys = sorted([*key, count] for key, count in unread.counts.items())
        return {
            "tables": self.tables,
            "counts": self.counts,
            "codecs": self.codecs,
            "given": self.labels.given,
            "strange": self.labels.strange,
            "unread": [unread.total, unread.having, unread.slips, keys],
        }

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what `as_json` of another one gave."""
        for name, table in other["tables"].items():
            self.tables[name].update(table)
        self.counts.update(other["counts"])
        for codec, first in other["codecs"]:
            if all(codec != known for known, _ in self.codecs):
                self.codecs.append([codec, first])
        self.labels.given.update(other["given"])
        for name, table in other["strange"].items():
            self.labels.strange[name].update(table)
        unread = self.labels.unread
        total, having, slips, counts = other["unread"]
        unread.total, unread.having, unread.slips = unread.total + total, unread.having + having, unread.slips + slips
        unread.counts.update({(key, near): count for key, near, count in counts})
