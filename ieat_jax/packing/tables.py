"""What is known of a source's turns before anything is decoded: counts of tokens, lengths of clips, and what is bad."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator

import numpy as np

from ieat_jax.audio.files import SAMPLE_RATE, AudioError
from ieat_jax.audio.logmel import clip_frames
from ieat_jax.data.injection import BRACKETS, INJECTION_MODES
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.index import Index
from ieat_jax.data.sources.retry import PASSING, retried
from ieat_jax.data.sources.source import Source
from ieat_jax.data.sources.store import ArrayStore, DataError
from ieat_jax.packing.counts import open_counts
from ieat_jax.packing.sizes import BUDGETS, SLOTS, TOLD, Counts, room, turn_sizes
from ieat_jax.packing.spec import RowSpec

THINKING_MODES = tuple(INJECTION_MODES.index(name) for name in ("explicit", "partial"))
CHUNK = 1 << 16  # turns that are looked at together


@dataclasses.dataclass(frozen=True)
class Clips:
    """What the clips of a source take of a row, of their lengths."""

    index: Index
    measured: np.ndarray | None  # [n] samples, where looking again gave others than the index has
    seconds: float  # window of a clip
    positions: np.ndarray  # [frames + 1] of the LLM, by frames; all 0 for a reader of text
    slots: np.ndarray  # [frames + 1] frames in a window that clips share, by frames
    behind: int | None = None  # see `RowSpec`

    @property
    def samples(self) -> np.ndarray:
        """Samples of the clips of all turns, as in an index: [n]."""
        return self.index["samples"] if self.measured is None else self.measured

    def __call__(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(positions, slots) of turns."""
        samples = self.samples[at]
        frames = clip_frames(np.maximum(samples, 1), window_seconds=self.seconds, behind=self.behind)
        frames = np.where(samples > 0, frames, 0)
        return self.positions[frames], self.slots[frames]


@dataclasses.dataclass(frozen=True)
class Tables:
    """Counts of all turns of a source: record i has the turns offsets[i] to offsets[i + 1].

    Of all that is large, only the places on disk are in memory, or travel to another process.
    """

    index: Index
    stored: ArrayStore  # see `counts.py`
    clips: Clips
    broken: np.ndarray  # [n] turns that cannot be trained
    usable: np.ndarray  # records with a turn that can be

    @property
    def offsets(self) -> np.ndarray:
        """Where the turns of the records begin: [records + 1]."""
        return self.index["offsets"]

    @property
    def sentences(self) -> np.ndarray:
        """Tokens as first and as later sentence, 0 = absent: [n, slots, wordings, 2]."""
        return self.stored["sentences"]

    def __len__(self) -> int:
        """How many turns."""
        return len(self.broken)

    def counts(self, at: np.ndarray, thought: np.ndarray, told: np.ndarray) -> Counts:
        """Counts of the turns `at`, with the tokens of the sentences that were drawn for them."""
        text, reply, units = self.stored["text"][at], self.stored["reply"][at], self.index["units"][at]
        positions, slots = self.clips(at)
        return Counts(*(each.astype(np.int64) for each in (text, told, thought, reply, positions, units, slots)))


def make_tables(source: Source, spec: RowSpec, quarantine: Quarantine) -> Tables:
    """Count all turns of a source; bad ones are noted in the quarantine.

    Raises:
        DataError: no turn of the source can be used, or its storage fails.
        QuarantineError: too many records are bad.
    """
    index = source.index
    clips = _clips(source, spec)
    broken = np.zeros(len(clips.samples), bool)
    bad = _unheard(clips, spec)
    for at in np.flatnonzero(bad | ~index["answered"]):
        _note_lacking(source, spec, quarantine, int(at), unheard=bool(bad[at]))
        broken[at] = True
    tables = Tables(index, open_counts(source, spec), clips, broken, np.arange(0))
    _note_long(tables, source, spec, quarantine)
    quarantine.check()
    usable = np.flatnonzero(np.add.reduceat(~broken, tables.offsets[:-1]) > 0) if len(broken) else np.arange(0)
    if not len(usable):
        raise DataError(f"{source.name}: none of its {len(source)} records can be used; see the quarantine")
    return dataclasses.replace(tables, usable=usable.astype(np.uint32))


def sentence_count(sentences: np.ndarray, kept: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Tokens of the drawn paraphrases of turns: [n].

    `sentences` [n, s, wordings, 2], `kept` [n, s] those that are shown, `draws` [n, s] uniform in [0, 1).
    """
    wordings = (sentences[..., 0] > 0).sum(axis=2)
    drawn = (draws * np.maximum(wordings, 1)).astype(np.int64)
    later = np.cumsum(kept, axis=1) > 1
    counts = np.take_along_axis(sentences, drawn[:, :, None, None], axis=2)[:, :, 0]
    return (np.where(later, counts[..., 1], counts[..., 0]) * kept).sum(axis=1)


def brackets(spec: RowSpec) -> int:
    """Tokens around what a teacher is told."""
    return sum(len(spec.chat.tokenizer.encode(bracket)) for bracket in BRACKETS)


def segments_shown(spec: RowSpec) -> np.ndarray:
    """Which of the slots of thinking a run may show: [segments]."""
    return np.array([spec.chat.thinks and name in spec.injection.segments for name in SLOTS[: -len(TOLD)]])


def largest_sizes(tables: Tables, spec: RowSpec, at: np.ndarray | None = None) -> np.ndarray:
    """What turns take of every budget alone in a row, with the most that may be drawn for them: [n, budgets + 1].

    `at`: the turns; None = all.
    """
    at = np.arange(len(tables)) if at is None else at
    most = tables.stored["most"][at]
    told = most[:, -len(TOLD) :].sum(axis=1)
    told = told + (told > 0) * brackets(spec)
    thought = (most[:, : -len(TOLD)] * segments_shown(spec)).sum(axis=1)
    if spec.injection.mode not in ("schedule", "explicit", "partial"):
        thought = np.zeros_like(thought)
    largest = np.zeros((len(at), len(BUDGETS) + 1), np.int64)
    for shown in (thought, np.zeros_like(thought)):
        sizes = turn_sizes(tables.counts(at, shown, told), spec)
        largest = np.maximum(largest, sizes.opening + sizes.user + sizes.answer)
    return largest


def chunks(tables: Tables) -> Iterator[np.ndarray]:
    """The turns that can be trained, a part at a time."""
    for first in range(0, len(tables), CHUNK):
        yield first + np.flatnonzero(~tables.broken[first : first + CHUNK])


def _clips(source: Source, spec: RowSpec) -> Clips:
    """What clips take; where storage failed when a clip was measured, it is measured now."""
    measured, faults = None, source.index.facts["faults"]
    hears = spec.user == "audio"
    passing = [-1 - number for number, code in enumerate(faults) if code in PASSING]
    if hears and passing:
        measured = np.array(source.index["samples"])
        for at in np.flatnonzero(np.isin(measured, passing)):
            number, turn = _turn(source, int(at))
            with contextlib.suppress(AudioError):  # which is noted with the others
                measured[at] = retried(
                    functools.partial(source.samples, number, turn, spec.clip_seconds),
                    f"{source.place(number)}: turn {turn + 1}",
                )
    of = [
        (spec.clip_positions(frames), spec.clip_slot(frames)) if frames else (0, 0) for frames in range(spec.frames + 1)
    ]
    positions, slots = np.array(of, np.int64).T if hears else np.zeros((2, spec.frames + 1), np.int64)
    return Clips(source.index, measured, spec.clip_seconds, positions, slots, spec.behind)


def _unheard(clips: Clips, spec: RowSpec) -> np.ndarray:
    """Which turns have no clip that can be heard: [n]."""
    if spec.user != "audio":
        return np.zeros(len(clips.samples), bool)
    return (clips.samples <= 0) | (clips.samples > spec.clip_seconds * SAMPLE_RATE)


def _turn(source: Source, at: int) -> tuple[int, int]:
    """(record, turn of it from 0) of a turn of the source."""
    offsets = source.index["offsets"]
    number = int(np.searchsorted(offsets, at, side="right")) - 1
    return number, at - int(offsets[number])


def _note_lacking(source: Source, spec: RowSpec, quarantine: Quarantine, at: int, *, unheard: bool) -> None:
    """Note a turn that lacks what is trained of it."""
    number, turn = _turn(source, at)
    record, place = source.record(number), source.place(number)
    found = record.turns[turn]
    if unheard and found.audio is not None:
        what = f"{place}: turn {turn + 1}"
        try:
            retried(functools.partial(source.samples, number, turn, spec.clip_seconds), what)
        except AudioError as error:
            quarantine.note(record.dialogue_id, error.code, f"{place}: {error}", source.key)
        else:
            if source.index["samples"][at] <= 0:
                raise DataError(f"{what}: {found.audio} was changed while the run began; start the run again")
            message = f"{place}: {found.audio}: longer than {spec.clip_seconds:g} s, by a part of a sample [too_long]"
            quarantine.note(record.dialogue_id, "too_long", message, source.key)
    if not found.response_text:
        message = f"{place}: turn {turn + 1} has no response_text"
        quarantine.note(record.dialogue_id, "no_response", message, source.key)
    elif unheard and found.audio is None:
        message = f"{place}: turn {turn + 1} has no split_audio_file"
        quarantine.note(record.dialogue_id, "no_audio", message, source.key)


def _note_long(tables: Tables, source: Source, spec: RowSpec, quarantine: Quarantine) -> None:
    """Set aside the turns that are larger than a row by themselves."""
    limits = room(spec)
    long: dict[int, np.ndarray] = {}
    for part in chunks(tables):
        sizes = largest_sizes(tables, spec, part)
        long |= {int(part[row]): sizes[row] for row in np.flatnonzero((sizes > limits).any(axis=1))}
    count = Counter(_turn(source, at)[0] for at in long)
    for at, largest in long.items():
        number, turn = _turn(source, at)
        column = int(np.flatnonzero(largest > limits)[0])
        message = (
            f"{source.place(number)}: turn {turn + 1} alone needs up to {largest[column]} {BUDGETS[column]}, "
            f"config.data.shapes.{BUDGETS[column]} is {limits[column]}; raise it"
            + (f" ({count[number]} of its turns are as long)" if count[number] > 1 else "")
        )
        quarantine.note(source.record(number).dialogue_id, "too_long", message, source.key)
        tables.broken[at] = True
