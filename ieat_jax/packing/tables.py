"""What is known of a source's turns before anything is decoded: counts of tokens, lengths of clips, and what is bad."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ieat_jax.audio.files import AudioError, count_samples
from ieat_jax.audio.logmel import clip_frames
from ieat_jax.data.injection import BRACKETS, INJECTION_MODES, joined, thinking_wordings, told_wordings
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, Turn
from ieat_jax.data.sources.jsonl import DataError, Source
from ieat_jax.packing.sizes import BUDGETS, SLOTS, TOLD, Counts, room, turn_sizes
from ieat_jax.packing.spec import RowSpec

WORDINGS = 3  # most paraphrases of a sentence
THINKING_MODES = tuple(INJECTION_MODES.index(name) for name in ("explicit", "partial"))
PAUSES = (0.1, 1.0, 5.0)  # seconds before a read that failed is tried again
PASSING = ("unreadable",)  # codes of faults that may pass: of the storage, not of the file


@dataclasses.dataclass(frozen=True)
class Tables:
    """Counts of all turns of a source: record i has the turns offsets[i] to offsets[i + 1]."""

    offsets: np.ndarray  # [records + 1]
    text: np.ndarray  # [n] tokens
    reply: np.ndarray  # [n] tokens
    positions: np.ndarray  # [n] of the clip; 0 for a reader of text
    units: np.ndarray  # [n]
    slots: np.ndarray  # [n] frames of the clip in a window that clips share
    sentences: np.ndarray  # [n, slots, wordings, 2] tokens as first and as later sentence; 0 = absent
    broken: np.ndarray  # [n] turns that cannot be trained
    usable: np.ndarray  # records with a turn that can be

    def counts(self, at: np.ndarray, thought: np.ndarray, told: np.ndarray) -> Counts:
        """Counts of the turns `at`, with the tokens of the sentences that were drawn for them."""
        return Counts(self.text[at], told, thought, self.reply[at], self.positions[at], self.units[at], self.slots[at])


def place(source: Source, record: Record) -> str:
    """Where a record stands, for messages: file, line, id."""
    return f"{source.name}:{record.line}: {record.dialogue_id}"


def retried(read: Callable[[], Any], what: str) -> Any:
    """The result of a read, tried again where its storage fails for a moment.

    Raises:
        AudioError: the file itself is bad.
        DataError: the storage fails again and again; names what was to be read.
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except AudioError as error:
            if error.code not in PASSING:
                raise
            if pause is None:
                raise DataError(
                    f"{what}: {error}; {len(PAUSES) + 1} tries failed. The run ends here, since leaving out what "
                    "another try can read would give other batches; start the same command again to go on"
                ) from error
            time.sleep(pause)
    raise AssertionError("the last try raises")


def make_tables(source: Source, spec: RowSpec, quarantine: Quarantine) -> Tables:
    """Count all turns of a source; bad ones are noted in the quarantine.

    Raises:
        DataError: no turn of the source can be used, or its storage fails.
        QuarantineError: too many records are bad.
    """
    count = functools.lru_cache(1 << 16)(lambda text: len(spec.chat.tokenizer.encode(text)))
    lengths = [len(record.turns) for record in source.records]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    text, reply, positions, units, slots = (np.zeros(offsets[-1], np.int64) for _ in range(5))
    sentences = np.zeros((offsets[-1], len(SLOTS), WORDINGS, 2), np.int32)
    broken = np.zeros(offsets[-1], bool)
    for number, record in enumerate(source.records):
        for index, turn in enumerate(record.turns):
            at = int(offsets[number]) + index
            text[at], reply[at] = count(turn.text), count(turn.response_text)
            units[at] = 0 if turn.units is None else len(turn.units)
            _count_sentences(sentences[at], record, index, spec, count)
            if spec.user == "audio" and turn.audio is not None:
                try:
                    frames = _frames(turn.audio, source, spec, f"{place(source, record)}: turn {turn.turn_id}")
                    positions[at], slots[at] = spec.clip_positions(frames), spec.clip_slot(frames)
                except AudioError as error:
                    broken[at] = True
                    quarantine.note(record.dialogue_id, error.code, f"{place(source, record)}: {error}", source.key)
            for code, message in _lacks(turn, spec):
                broken[at] = True
                quarantine.note(record.dialogue_id, code, f"{place(source, record)}: {message}", source.key)
    tables = Tables(offsets, text, reply, positions, units, slots, sentences, broken, np.arange(0))
    _note_long(tables, source, spec, quarantine)
    quarantine.check()
    usable = np.flatnonzero(np.add.reduceat(~broken, offsets[:-1]) > 0) if len(broken) else np.arange(0)
    if not len(usable):
        raise DataError(f"{source.name}: none of its {len(source.records)} records can be used; see the quarantine")
    return dataclasses.replace(tables, usable=usable)


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


def _count_sentences(out: np.ndarray, record: Record, index: int, spec: RowSpec, count: Callable[[str], int]) -> None:
    found: dict[str, Sequence[str]] = {}
    if spec.chat.thinks:
        found |= thinking_wordings(record, index)
    if spec.privileged:
        found |= {f"told_{name}": wordings for name, wordings in told_wordings(record, index).items()}
    for slot, wordings in found.items():
        language = record.language if slot.startswith("told_") else ""
        for number, sentence in enumerate(wordings):
            _, later = joined((sentence, sentence), language)
            out[SLOTS.index(slot), number] = count(sentence), count(later)


def _frames(audio: str, source: Source, spec: RowSpec, what: str) -> int:
    def read() -> int:
        return count_samples(audio, max_seconds=spec.clip_seconds, root=source.audio_root)

    return clip_frames(retried(read, what), window_seconds=spec.clip_seconds)


def _lacks(turn: Turn, spec: RowSpec) -> Iterable[tuple[str, str]]:
    if not turn.response_text:
        yield "no_response", f"turn {turn.turn_id} has no response_text"
    elif spec.user == "audio" and turn.audio is None:
        yield "no_audio", f"turn {turn.turn_id} has no split_audio_file"


def largest_sizes(tables: Tables, spec: RowSpec) -> np.ndarray:
    """What each turn takes of every budget alone in a row, with the most that may be drawn for it: [n, budgets + 1]."""
    most = tables.sentences.max(axis=(2, 3), initial=0)
    told = most[:, -len(TOLD) :].sum(axis=1)
    told = told + (told > 0) * brackets(spec)
    thought = (most[:, : -len(TOLD)] * segments_shown(spec)).sum(axis=1)
    if spec.injection.mode not in ("schedule", "explicit", "partial"):
        thought = np.zeros_like(thought)
    largest = np.zeros((len(told), len(BUDGETS) + 1), np.int64)
    for shown in (thought, np.zeros_like(thought)):
        sizes = turn_sizes(tables.counts(np.arange(len(told)), shown, told), spec)
        largest = np.maximum(largest, sizes.opening + sizes.user + sizes.answer)
    return largest


def _note_long(tables: Tables, source: Source, spec: RowSpec, quarantine: Quarantine) -> None:
    """Set aside the turns that are larger than a row by themselves."""
    largest, limits = largest_sizes(tables, spec), room(spec)
    count: Counter[int] = Counter()
    for turn_at in np.flatnonzero((largest > limits).any(axis=1) & ~tables.broken):
        count[int(np.searchsorted(tables.offsets, turn_at, side="right")) - 1] += 1
    for turn_at, column in zip(*np.nonzero((largest > limits) & ~tables.broken[:, None]), strict=True):
        number = int(np.searchsorted(tables.offsets, turn_at, side="right")) - 1
        record, turn = source.records[number], turn_at - tables.offsets[number]
        message = (
            f"{place(source, record)}: turn {turn + 1} alone needs up to {largest[turn_at, column]} {BUDGETS[column]}, "
            f"config.data.shapes.{BUDGETS[column]} is {limits[column]}; raise it"
            + (f" ({count[number]} of its turns are as long)" if count[number] > 1 else "")
        )
        quarantine.note(record.dialogue_id, "too_long", message, source.key)
        tables.broken[turn_at] = True
