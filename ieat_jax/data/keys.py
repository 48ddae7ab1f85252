"""Keys of a record that nobody reads: in our objects those that are not ours, elsewhere those that miss one of ours.

A misspelt key loses what it holds, and the record looks as if that had not been annotated. Keys beside ours are
HumDial's or a user's own, and are kept as they are; only one that looks like a slip of the pen is told.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# What may stand in each object. A table is an object or a list of such; None is a value, of which nothing is asked.
EMOTION = {"label": None, "intensity": None, "source": None, "raw": None}
CAUSE = {"text": None, "evidence": {"turn_id": None, "quote": None}, "source": None}
THINK = {"text": None, "template": None}
RESPONSE = {"emotion": None, "units": None, "source": None}
HEARD = {"tone": None, "tone_source": None, "events": None, "events_source": None}
NOTES = {**HEARD, "translation": None, "words": None, "words_emotion": None}
IEAT = {"emotion": EMOTION, "cause": CAUSE, "think": THINK, "response": RESPONSE, **NOTES}
READ = {"language": None, "kind": None, "speaker": None, "codec": None}
# The rest of ieat_meta is kept for whoever counts: where a record comes from, who speaks, what of which dialogue.
KEPT = (
    "corpus", "licence", "split", "humdial", "spoken_by", "gender", "age", "sentence", "take", "session", "dialogue",
    "place_in_dialogue", "sentiment", "opening", "choice",
)  # fmt: skip
META = {**READ, **dict.fromkeys(KEPT)}
TURN = {
    "turn_id": None, "text": None, "input_text": None, "emotion": None, "input_emotion": None, "response_text": None,
    "split_audio_file": None, "response_audio": None, "ieat": IEAT,
}  # fmt: skip
DIALOGUE = {"dialogue_id": None, "turns": TURN, "ieat_meta": META}
SHOWN = 5  # keys per sentence
OPEN = ("dialogue", "turn")  # objects with keys of others beside ours
# Of `ieat.think.template`: what `injection.py` knows of a turn.
SLOTS = (
    "transcript", "tone", "manner", "events", "heard", "emotion", "intensity", "path", "steady", "cause", "style",
    "response_emotion",
)  # fmt: skip
SLOT = re.compile(r"\{(\w+)\}")
_ELSEWHERE = {"dialogue": {"ieat": "'ieat' of a turn"}, "turn": {"ieat_meta": "'ieat_meta' of the dialogue"}}


def unread_keys(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(where it stands, the nearest name that would be read or '') of every such key of a record, each once."""
    return tuple(dict.fromkeys(_unread(record, DIALOGUE, "dialogue", "")))


def instead_of(key: str, there: Mapping[str, Any]) -> str:
    """Complete a sentence: "; is it 'dialogeu_id'?" where an object without `key` has a key that misses it, else ''."""
    slip = next((name for name in there if name not in TURN and name not in DIALOGUE and _near(name, (key,))), None)
    return "" if slip is None else f"; is it {slip!r}?"


@dataclasses.dataclass
class Unread:
    """A count over records of the keys that nobody reads."""

    total: int = 0  # records
    having: int = 0  # that have any
    slips: int = 0  # that have one which misses a name of ours
    counts: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)  # (key, what it misses) -> records

    def add(self, unread: Sequence[tuple[str, str]]) -> None:
        """Count one record's `unread_keys`."""
        self.total += 1
        self.having += bool(unread)
        self.slips += any(near for _, near in unread)
        self.counts.update(unread)

    def sentences(self) -> list[str]:
        """Return one: "1 of 9 dialogues have keys that nobody reads: 'ieat.caus' x 1 (is it 'cause'?)"; or none."""
        if not self.counts:
            return []
        listed = ", ".join(
            f"{key[:60]!r} x {count}" + (f" (is it {near}?)" if near else "")
            for (key, near), count in self.counts.most_common(SHOWN)
        )
        more = f" and {len(self.counts) - SHOWN} more" if len(self.counts) > SHOWN else ""
        return [f"{self.having} of {self.total} dialogues have keys that nobody reads: {listed}{more}"]


def _unread(value: Any, known: Mapping[str, Any], kind: str, path: str) -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        inside = known.get(key)
        if key not in known:
            near = _ELSEWHERE.get(kind, {}).get(key) or _near(key, tuple(known))
            if near or kind not in OPEN:
                yield f"{path}{key}", near
        elif inside is not None:
            place = {"turns": "turn"}.get(key, key)
            below = "" if place == "turn" else f"{path}{key}."
            for each in item if isinstance(item, list) else (item,):
                if isinstance(each, Mapping):
                    yield from _unread(each, inside, place, below)
        elif key == "template" and isinstance(item, str):
            for slot in SLOT.findall(item):
                if slot not in SLOTS:
                    yield f"{path}{key} {{{slot}}}", _near(slot, SLOTS)


@functools.lru_cache(maxsize=4096)
def _near(key: str, known: tuple[str, ...]) -> str:
    """The name that is at most a slip or two away, in quotation marks; '' = none is."""
    written = _plain(key)
    near = {name: _plain(name) for name in known if abs(len(_plain(name)) - len(written)) < 3}
    slips, found = min(((_slips(written, plain), name) for name, plain in near.items()), default=(9, ""))
    return f"'{found}'" if slips <= (2 if len(found) > 6 else 1) else ""


def _plain(key: str) -> str:
    return re.sub(r"[\W_]", "", key.lower())


def _slips(one: str, two: str) -> int:
    """Letters left out, added, changed, or swapped with their neighbour, from one word to the other."""
    before: list[int] = []
    last = list(range(len(two) + 1))
    for row, left in enumerate(one, 1):
        line = [row]
        for column, right in enumerate(two, 1):
            cost = min(last[column] + 1, line[-1] + 1, last[column - 1] + (left != right))
            if row > 1 and column > 1 and (left, one[row - 2]) == (two[column - 2], right):
                cost = min(cost, before[column - 2] + 1)
            line.append(cost)
        before, last = last, line
    return last[-1]
