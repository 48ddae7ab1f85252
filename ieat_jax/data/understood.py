"""Which labels of records nobody understands: counted, reported, and refused where they are more than a share.

And which keys nobody reads (`keys.py`), which are told beside them, but may be a user's own.

A label that is not understood counts as unknown, so that its sentence is left out of the thinking. Without a count, a
corpus in a spelling of its own would train without a single emotion, and say nothing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ieat_jax.data.keys import Unread
from ieat_jax.data.labels import EMOTIONS, INTENSITIES, STYLES
from ieat_jax.data.records import Record
from ieat_jax.errors import UserError

SHOWN = 5  # spellings per sentence
# field -> (its name with article, who carries it, what is understood)
_FIELDS = {
    "emotion": ("an emotion", "turns", EMOTIONS),
    "style": ("a style of the reply", "turns", STYLES),
    "intensity": ("an intensity", "turns", INTENSITIES),
    "language": ("a language", "dialogues", ("a code such as en or zh-CN",)),
}


class LabelError(UserError):
    """More labels than accepted are in a spelling that nobody understands."""


@dataclasses.dataclass
class Labels:
    """A count over records: per field, how many carry it, and the spellings that are not understood."""

    given: Counter[str] = dataclasses.field(default_factory=Counter)
    strange: dict[str, Counter[str]] = dataclasses.field(default_factory=lambda: {name: Counter() for name in _FIELDS})
    unread: Unread = dataclasses.field(default_factory=Unread)

    def add(self, record: Record) -> None:
        """Count one record. A label that says by itself that nothing is known is not counted."""
        for name, raw in (*record.strange, *(pair for turn in record.turns for pair in turn.strange)):
            self.given[name] += 1
            self.strange[name][raw] += 1
        self.given["language"] += not record.strange
        self.unread.add(record.unread)
        for turn in record.turns:
            self.given["emotion"] += turn.emotion is not None
            self.given["style"] += turn.response_emotion is not None
            self.given["intensity"] += turn.intensity is not None

    def sentences(self) -> list[str]:
        """One per field of which something is not understood: "3 of 9 turns carry an emotion nobody understands"."""
        return [self._sentence(name) for name, found in self.strange.items() if found]

    def report(self) -> dict[str, Any]:
        """What there is to be told, as JSON holds it: [field, not understood, of how many, sentence], and of keys."""
        counts = ((name, found.total(), self.given[name]) for name, found in self.strange.items() if found)
        return {"labels": [[*each, self._sentence(each[0])] for each in counts], "keys": self.unread.sentences()}

    def check(self, max_share: float, where: object) -> None:
        """Refuse what is too much.

        Raises:
            LabelError: more than `max_share` of those that carry a field carry one that nobody understands.
        """
        told_of_report(self.report(), max_share, where)

    def _sentence(self, name: str) -> str:
        label, carriers, _ = _FIELDS[name]
        found = self.strange[name]
        listed = ", ".join(f"{raw[:40]!r} x {count}" for raw, count in found.most_common(SHOWN))
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"{found.total()} of {self.given[name]} {carriers} carry {label} nobody understands: {listed}{more}"


def told_of(records: Iterable[Record], max_share: float, where: object) -> list[str]:
    """Sentences for people about what means nothing in `records`, before they are used: labels and keys.

    Raises:
        LabelError: labels nobody understands are more than `max_share` of their field; `where` names the records.
    """
    labels = Labels()
    for record in records:
        labels.add(record)
    return told_of_report(labels.report(), max_share, where)


def told_of_report(report: Mapping[str, Any], max_share: float, where: object) -> list[str]:
    """The same, of a `Labels.report` that was kept.

    Raises:
        LabelError: as above.
    """
    for name, count, given, sentence in report["labels"]:
        if count > max_share * given:
            raise LabelError(
                f"{where}: {sentence}, more than the accepted share of {max_share:g}. Understood are "
                f"{', '.join(_FIELDS[name][2])} and their usual spellings (ieat_jax/data/labels.py): write those, "
                "or null where it is unknown"
            )
    return [f"{sentence}; they count as unknown" for *_, sentence in report["labels"]] + report["keys"]
