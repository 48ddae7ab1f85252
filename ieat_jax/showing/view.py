"""What is to be seen of a batch: rows, their dialogues and turns, and every stretch of text with its loss weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# Controls but the newline; marks of direction; separators of lines that are none.
_STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
GIVEN = "given"  # is read, and nothing is learned from it


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch of tokens that are treated alike."""

    text: str
    kind: str  # GIVEN, a segment of thinking, 'format', 'response', 'end of turn'
    tokens: int
    weights: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  # loss -> weight of each token, factor included

    @property
    def weight(self) -> float:
        """The weights of all losses together."""
        return sum(self.weights.values())


@dataclasses.dataclass(frozen=True)
class Sound:
    """A clip as the student hears it."""

    path: str
    hear: Callable[[], np.ndarray]  # its waveform at 16 kHz; raises AudioError
    seconds: float
    places: range  # of its positions among the tokens of the row
    window: str  # which frames of which window it takes
    emotion: str  # that the attribute loss asks for; '' = none


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a dialogue in a row."""

    number: int
    supervised: bool  # False: later turns read it, and nothing is learned from it
    said: str  # its transcript, which is no part of a batch that hears
    sound: Sound | None
    read: str  # what the student reads of the user
    taught: str | None  # what the teacher reads of the user; None = no teacher reads along
    mode: str  # explicit, partial, empty; '' of a format that does not think
    answer: tuple[Span, ...]  # thinking and reply, as they are learned
    twin: tuple[Span, ...]  # the same reply behind an empty think block
    history: str  # the reply as later turns read it; '' = no turn follows in this row
    style: str
    units: int  # of the spoken reply
    groups: int  # of units that are predicted
    sources: Mapping[str, str]  # segment -> where its label comes from


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """The part of a dialogue that stands in a row."""

    name: str
    source: str  # its file and line
    example: int  # of the run
    tokens: int
    system: tuple[str, ...]  # what the model is told at first; then what Speak is told
    turns: tuple[Turn, ...]
    of: int  # turns of the whole dialogue


@dataclasses.dataclass(frozen=True)
class Row:
    """One row."""

    number: int  # within the batch, from 1
    fill: Mapping[str, tuple[int, int]]  # budget -> (used, of)
    dialogues: tuple[Dialogue, ...]
    bad: tuple[str, ...]  # sentences on records that are not whole in it


@dataclasses.dataclass(frozen=True)
class View:
    """A batch, or its first rows."""

    recipe: str
    stage: str
    step: int
    steps: int
    epoch: int
    batch_size: int
    fill: Mapping[str, float]  # of all rows of the batch: budget -> share
    losses: Mapping[str, float]  # factors of the stage's losses
    rows: Sequence[Row]


def weights_in_words(span: Span) -> str:
    """'ce 1, kl 0.5'; 'weight 0' of what is marked as supervised and counts nothing; '' of what is given."""
    if span.kind == GIVEN:
        return ""
    return ", ".join(f"{name} {value:g}" for name, value in span.weights.items() if value) or "weight 0"


def plain(text: str) -> str:
    """Text without characters that steer a terminal or turn the order of what follows; each becomes its name."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
