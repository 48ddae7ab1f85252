"""Planned rows made of records: audio read, thinking worded, everything laid out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ieat_jax.audio.files import AudioError
from ieat_jax.audio.logmel import clip_log_mel
from ieat_jax.data.arrays import Clip
from ieat_jax.data.batch import Batch
from ieat_jax.data.injection import privileged, thinking, told_pieces
from ieat_jax.data.labels import EMOTIONS, STYLES
from ieat_jax.data.layout import LayoutError, TurnPlan, lay_out
from ieat_jax.data.memory import ArrayMemory
from ieat_jax.data.records import Record, Turn
from ieat_jax.data.sources.retry import retried
from ieat_jax.data.sources.source import Source
from ieat_jax.data.sources.store import DataError
from ieat_jax.packing.plan import Choices, Piece, Plan, choices, picker
from ieat_jax.packing.signs import Signs
from ieat_jax.packing.spec import RowSpec
from ieat_jax.packing.tables import THINKING_MODES

Hear = Callable[[int], np.ndarray]  # turn of a record, from 0 -> log-mel of its clip


@dataclasses.dataclass(frozen=True)
class Bad:
    """A record whose sound turned out to be bad when it was read."""

    source: str
    record: str
    code: str
    message: str
    epoch: int = 0
    turns: int = 0  # that are not trained for it here


@dataclasses.dataclass(frozen=True)
class Row:
    """A row, and the records that are not whole in it."""

    batch: Batch  # without a batch dimension
    bad: tuple[Bad, ...] = ()


class TurnMaker:
    """Makes the turns of records, and rows of them."""

    def __init__(self, spec: RowSpec):
        self.spec = spec
        self._choices = functools.lru_cache(8)(self._drawn)  # a dialogue's turns are asked for one after the other

    def turn(self, record: Record, index: int, hear: Hear, example: int, *, supervised: bool = True) -> TurnPlan:
        """One turn of a record as example `example` has it.

        Raises:
            LayoutError: it lacks what a row needs of it.
            AudioError: its sound cannot be used.
            DataError: the storage of its sound fails.
        """
        spec, turn = self.spec, record.turns[index]
        if not turn.response_text:
            raise LayoutError("no_response", f"{record.dialogue_id}: turn {turn.turn_id} has no response_text")
        drawn = self._choices(example, len(record.turns))
        mode, removed, draws = drawn.modes[index], drawn.removed[index], drawn.draws[index]
        thought: dict[str, str] = {}
        if spec.chat.thinks and int(mode) in THINKING_MODES:
            thought = thinking(record, index, picker(draws, told=False))
            thought = {name: sentence for name, sentence in thought.items() if name in spec.injection.segments}
            thought = dict(list(thought.items())[int(removed) :])
        known = privileged(record, index, picker(draws, told=True)) if spec.privileged else ()
        told = told_pieces(turn.text, known, record.language)
        units = turn.units if spec.options.speech and turn.units is not None and len(turn.units) else None
        return TurnPlan(
            clip=self._clip(turn, record, hear, supervised) if spec.user == "audio" else None,
            text=told,
            teacher_text=told,
            thinking=thought,
            response=turn.response_text,
            style=STYLES.index(turn.response_emotion) if turn.response_emotion in STYLES else -1,
            units=units,
            supervised=supervised,
        )

    def dialogue(self, record: Record, hear: Hear, example: int) -> list[TurnPlan]:
        """All turns of a record."""
        return [self.turn(record, index, hear, example) for index in range(len(record.turns))]

    def lay_out(self, dialogues: Sequence[Sequence[TurnPlan]]) -> tuple[Batch, list[int]]:
        """As `layout.lay_out`: the row, and how many turns of each dialogue are in it."""
        spec = self.spec
        return lay_out(
            dialogues,
            spec.chat,
            spec.shapes,
            spec.options,
            frames=spec.frames,
            mels=spec.num_mels,
            positions_per_clip=spec.clip_positions(spec.frames),
            stride=spec.stride,
        )

    def mel(self, waveform: np.ndarray) -> np.ndarray:
        """The log-mel of a clip, as `turn` hears it."""
        spec = self.spec
        return clip_log_mel(waveform, num_mels=spec.num_mels, window_seconds=spec.clip_seconds, behind=spec.behind)

    def _drawn(self, example: int, turns: int) -> Choices:
        return choices(self.spec, np.full(turns, example), np.arange(turns))

    def _clip(self, turn: Turn, record: Record, hear: Hear, supervised: bool) -> Clip:
        if turn.audio is None:
            raise LayoutError("no_audio", f"{record.dialogue_id}: turn {turn.turn_id} has no split_audio_file")
        mel = retried(lambda: hear(turn.turn_id - 1), f"{record.dialogue_id}: turn {turn.turn_id}")
        emotion = EMOTIONS.index(turn.emotion) if supervised and turn.emotion in EMOTIONS else -1
        behind = self.spec.behind or 0
        frames = len(mel) - behind
        return Clip(mel, self.spec.clip_positions(frames), emotion, self.spec.clip_slot(frames), behind)


class RowMaker:
    """Makes the rows of a plan. What its sizes could not show, sound that cannot be decoded, costs turns of the row."""

    def __init__(self, sources: Sequence[Source], spec: RowSpec, plan: Plan, signs: Signs | None = None):
        self.sources, self.spec, self.plan, self.signs = sources, spec, plan, signs or Signs()
        self.turns = TurnMaker(spec)
        self._mel = ArrayMemory(self._load_mel)  # decoding is not free

    def __reduce__(self) -> tuple[Any, ...]:  # another process has a memory of its own
        return type(self), (self.sources, self.spec, self.plan, self.signs)

    def __call__(self, index: int) -> Row:
        """The row of a global row index.

        Raises:
            DataError: the storage of a recording fails, or its sound changed since it was measured.
        """
        made, bad = self.pieces(index)
        self.signs.at("")
        batch, kept = self.turns.lay_out([turns for _, turns in made])
        for (piece, turns), count in zip(made, kept, strict=True):
            if count < len(turns):
                source = self.sources[piece.source]
                raise DataError(
                    f"{source.place(piece.record)} takes more of a row than when the "
                    "records were measured: its sound was replaced while the run goes on; start the run again"
                )
        return Row(batch, tuple(bad))

    def pieces(self, index: int) -> tuple[list[tuple[Piece, list[TurnPlan]]], list[Bad]]:
        """What the row of a global row index is laid out from, dialogue by dialogue, and what is not whole in it.

        Raises:
            DataError: the storage of a recording fails.
        """
        made, bad = [], []
        epoch = self.plan.epoch(index)
        for piece in self.plan.row(index):
            turns, fault = self._piece(piece, epoch)
            bad += [] if fault is None else [fault]
            if any(turn.supervised for turn in turns):
                made.append((piece, turns))
        return made, bad

    def _piece(self, piece: Piece, epoch: int) -> tuple[list[TurnPlan], Bad | None]:
        """The turns of a piece: without history up to a bad turn, or without a bad turn and what follows it."""
        source = self.sources[piece.source]
        self.signs.at(f"{source.name}: record {piece.record + 1}")
        record = source.record(piece.record)
        hear = functools.partial(self._mel, piece.source, piece.record)
        turns: list[TurnPlan] = []
        fault = None
        for index in range(piece.context, piece.last + 1):
            supervised = index >= piece.first
            self.signs.at(f"{source.name}: {record.dialogue_id}: turn {index + 1}")
            try:
                turn = self.turns.turn(record, index, hear, piece.example, supervised=supervised)
            except AudioError as error:
                lost = piece.last + 1 - index if supervised else 0
                message = f"{source.place(piece.record)}: turn {index + 1}: {error}"
                if lost > 1:
                    message += f"; turns {index + 1} to {piece.last + 1} are left out"
                fault = Bad(source.key, record.dialogue_id, error.code, message, epoch, lost)
                if supervised:
                    break
                turns = []
            else:
                turns.append(turn)
        return turns, fault

    def _load_mel(self, source: int, record: int, turn: int) -> np.ndarray:
        return self.turns.mel(self.sources[source].waveform(record, turn, self.turns.spec.clip_seconds))
