"""What records are good for: how many a stage can use, why not the others, and what in their texts is suspicious."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

from ieat_jax.data.records import Record, Turn
from ieat_jax.objectives.stages import STAGES

# Stage -> what every turn of a dialogue has to have, and what one of them has to have.
NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    name: (("audio" if stage.hears else "text", "reply"), ("units",) if stage.speaks else ())
    for name, stage in STAGES.items()
}
# Tags that are read as words: a reply's thinking would be spoken, a placeholder stands for nothing.
_TAG = re.compile(r"</?think(?:ing)?>|<\|[^<>|]{1,40}\|>|</?(?:audio|speech|sound|image|video)>", re.IGNORECASE)


class Usable:
    """A count over records, for every stage."""

    def __init__(self) -> None:
        self.total = 0
        self.usable: Counter[str] = Counter()
        self.reasons: dict[str, Counter[str]] = {stage: Counter() for stage in NEEDS}
        self.tags: Counter[tuple[str, str]] = Counter()  # (where, tag) -> turns

    def add(self, record: Record | None, unreadable: Collection[str] = ()) -> None:
        """Count a record; None is one that cannot be read. `unreadable`: audio paths that cannot be used."""
        self.total += 1
        for stage, (every, one) in NEEDS.items():
            lacks = ["not a record"] if record is None else _lacks(record, every, one, unreadable)
            self.usable[stage] += not lacks
            self.reasons[stage].update(lacks)
        for turn in () if record is None else record.turns:
            for where, text in (("text", turn.text), ("reply", turn.response_text), ("thinking", turn.think_text)):
                self.tags.update((where, tag.lower()) for tag in set(_TAG.findall(text or "")))

    def sentences(self) -> list[str]:
        """For people: "0 of 1 usable for align: no audio, no reply", one for each stage, and what is suspicious."""
        said = []
        for stage, reasons in self.reasons.items():
            counted = (
                (reason, "" if count == self.total else f" x {count}") for reason, count in reasons.most_common()
            )
            listed = ", ".join(map("".join, counted))
            said.append(f"{self.usable[stage]} of {self.total} usable for {stage}" + (f": {listed}" if listed else ""))
        for (where, tag), count in sorted(self.tags.items()):
            said.append(f"warning: {tag} stands in {count} x {where}: it would be read, written and spoken as words")
        return said

    def good(self) -> bool:
        """Whether a stage can use all of the records, and nothing is suspicious."""
        return self.total in self.usable.values() and not self.tags

    def bad_share(self, stage: str) -> float:
        """The share of the records that a stage cannot use."""
        return 1 - self.usable[stage] / self.total if self.total else 0.0


def _lacks(record: Record, every: tuple[str, ...], one: tuple[str, ...], unreadable: Collection[str]) -> list[str]:
    """What a record lacks: "no reply", where it has turns with one "not every reply"."""
    lacks = []
    for name in (*every, *one):
        has = [_has(turn, name, unreadable) for turn in record.turns]
        if not any(has):
            unusable = name == "audio" and any(turn.audio for turn in record.turns)
            lacks.append("no usable audio" if unusable else f"no {name}")
        elif name in every and not all(has):
            lacks.append(f"not every turn has {name}")
    return lacks


def _has(turn: Turn, name: str, unreadable: Collection[str]) -> bool:
    match name:
        case "text":
            return bool(turn.text.strip())
        case "reply":
            return bool(turn.response_text.strip())
        case "audio":
            return turn.audio is not None and turn.audio not in unreadable
        case _:
            return turn.units is not None and len(turn.units) > 0
