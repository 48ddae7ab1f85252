"""Reads a batch back: from the arrays that a step gets to words, with each token's place in the losses."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.config.sections import RunConfig
from ieat_jax.data.batch import END_OF_TURN, FORMAT, NOT_SUPERVISED, RESPONSE, SEGMENT_KINDS, Batch
from ieat_jax.data.injection import provenance, thinking_wordings
from ieat_jax.data.labels import EMOTIONS
from ieat_jax.data.layout import TurnPlan
from ieat_jax.data.records import Record
from ieat_jax.objectives.stages import ce_weights, kl_weights, stage_of
from ieat_jax.packing.account import fills
from ieat_jax.packing.plan import Piece
from ieat_jax.packing.rows import RowMaker
from ieat_jax.packing.sizes import BUDGETS
from ieat_jax.showing.view import GIVEN, Dialogue, Row, Sound, Span, Turn, View
from ieat_jax.text.chat import AUDIO, END, END_THINK, START, THINK, ChatFormat
from ieat_jax.training.planned import Planned

MOST_SECONDS = 3600.0  # of a clip that is played
KINDS = {number: name for name, number in SEGMENT_KINDS.items()} | {
    NOT_SUPERVISED: GIVEN, FORMAT: "format", RESPONSE: "response", END_OF_TURN: "end of turn",
}  # fmt: skip


def read_batch(read: Planned, step: int, rows: int, *, recipe: str) -> View:
    """The batch of `step` (from 1), of which the first `rows` rows are made and read back.

    Raises:
        DataError: the storage of a recording fails.
    """
    config, plan = read.config, read.plan
    size = config.data.batch_size
    first = (step - 1) * size
    maker = RowMaker(read.parts.sources, read.spec, plan)
    sums = sum(part for _, part in plan.account(first, first + size))
    stage = stage_of(config)
    return View(
        recipe=recipe,
        stage=config.stage,
        step=step,
        steps=config.train.steps,
        epoch=plan.epoch(first) + 1,
        batch_size=size,
        fill=fills(np.asarray(sums), read.spec.shapes),
        losses={name: getattr(config.objective, name) for name in stage.losses},
        rows=[_RowReader(read, maker, first + number).row(number + 1) for number in range(min(rows, size))],
    )


@dataclasses.dataclass(frozen=True)
class _Tables:
    """Kind of token -> weight in each loss, factors included."""

    own: Mapping[str, np.ndarray]  # by `target_kind`
    taught: Mapping[str, np.ndarray]  # by `teacher_kind`

    @classmethod
    def of(cls, config: RunConfig) -> _Tables:
        objective, stage = config.objective, stage_of(config)
        own = {"ce": objective.ce * np.asarray(ce_weights(objective))}
        taught = {}
        if stage.taught:
            taught["kl"] = objective.kl * np.asarray(kl_weights(objective))
            taught["eot"] = objective.eot * (np.arange(len(taught["kl"])) == END_OF_TURN)
        if stage.twins:
            taught["internalise"] = objective.internalise * np.ones(len(own["ce"]))
        return cls(own, taught)

    def weights(self, own: int, taught: int) -> dict[str, float]:
        """Of a token with these kinds."""
        found = {name: float(table[own]) for name, table in self.own.items() if own != NOT_SUPERVISED}
        return found | {name: float(table[taught]) for name, table in self.taught.items() if taught != NOT_SUPERVISED}


class _Stream:
    """A sequence of tokens of a row, the student's or the teacher's, taken apart dialogue by dialogue."""

    def __init__(self, chat: ChatFormat, tokens: np.ndarray, segments: np.ndarray, branches: np.ndarray,
                 audio: np.ndarray | None = None):  # fmt: skip
        self.chat, self.tokens, self.segments, self.branches = chat, tokens, segments, branches
        self.audio = np.full_like(tokens, -1) if audio is None else audio
        named = {chat.tokenizer.token_id(name): name for name in (AUDIO, START, END, THINK, END_THINK)}
        self.names = {token: name for token, name in named.items() if token is not None}
        (start,) = (token for token, name in self.names.items() if name == START)
        self._starts = (tokens == start) & (self.audio < 0)
        self._head = len(chat.user_close) - chat.user_close.index(start)  # of the assistant's header

    def written(self, places: Sequence[int]) -> str:
        """The text of tokens, control tokens by their names."""
        parts = []
        for control, group in itertools.groupby(places, lambda at: int(self.tokens[at]) in self.names):
            ids = [int(self.tokens[at]) for at in group]
            parts += [self.names[token] for token in ids] if control else [self.chat.tokenizer.decode(ids)]
        return "".join(parts)

    def system(self, segment: int) -> str:
        """What a system prompt says: the first message of a segment."""
        places = np.flatnonzero((self.segments == segment) & (self.branches == 0))
        until = next((i for i, at in enumerate(places) if i and self._starts[at]), len(places))
        text = self.written(places[:until].tolist()).removeprefix(f"{START}system\n")
        return text.rstrip("\n").removesuffix(END)

    def turns(self, segment: int) -> Iterator[tuple[list[int], list[int], list[list[int]]]]:
        """(places of what the user says, of the reply as history, of each branch) of every turn of a dialogue."""
        places = np.flatnonzero(self.segments == segment)
        trunk = places[self.branches[places] == 0]
        begins = [i for i, at in enumerate(trunk) if self._starts[at]]  # system, then user and assistant by turns
        users = begins[1::2]
        for number, begin in enumerate(users):
            end = users[number + 1] if number + 1 < len(users) else len(trunk)
            header = begins[2 + 2 * number] + self._head
            said = trunk[begin + len(self.chat.user_open) : header - len(self.chat.user_close)]
            until = trunk[end] if end < len(trunk) else places[-1] + 1
            inside = places[(places > trunk[header - 1]) & (places < until) & (self.branches[places] > 0)].tolist()
            branches = [list(group) for _, group in itertools.groupby(inside, lambda at: self.branches[at])]
            yield said.tolist(), trunk[header:end].tolist(), branches


class _RowReader:
    """Reads one row."""

    def __init__(self, read: Planned, maker: RowMaker, index: int):
        self.read, self.maker, self.index = read, maker, index
        self.made = maker(index)
        self.batch: Batch = self.made.batch
        batch, chat = self.batch, read.spec.chat
        self.student = _Stream(chat, batch.tokens, batch.segment_ids, batch.branch_ids, batch.audio_index)
        self.teacher = None
        if batch.teacher_tokens.shape[0]:
            streams = batch.teacher_tokens, batch.teacher_segment_ids, batch.teacher_branch_ids
            self.teacher = _Stream(chat, *streams)
        self.tables = _Tables.of(read.config)
        kept = batch.target_at >= 0
        kinds = zip(batch.target_at[kept], batch.target_kind[kept], batch.teacher_kind[kept], strict=True)
        self.kinds = {
            int(at) + 1: (int(own), int(taught)) for at, own, taught in kinds
        }  # of the token that is predicted
        self.clips = self.answers = 0

    def row(self, number: int) -> Row:
        """The row as a view; `number`: within its batch."""
        pieces, _ = self.maker.pieces(self.index)
        dialogues = [self._dialogue(place, piece, turns) for place, (piece, turns) in enumerate(pieces)]
        return Row(number, self._fill(), tuple(dialogues), tuple(bad.message for bad in self.made.bad))

    def _fill(self) -> dict[str, tuple[int, int]]:
        batch, shapes = self.batch, self.read.spec.shapes
        clips = int((batch.clip_frames > 0).sum())
        used = {
            "tokens": (batch.segment_ids > 0).sum(),
            "clips": clips,
            "targets": (batch.target_at >= 0).sum(),
            "answers": batch.answer_ids.max(initial=-1) + 1,
            "teacher_tokens": (batch.teacher_segment_ids > 0).sum(),
            "speak": (batch.speak_ids > 0).sum(),
            "groups": (batch.unit_at >= 0).sum(),
            "frames": 0,
        }
        if batch.clip_start.shape[0] and clips:
            used["frames"] = batch.clip_start[clips - 1] + self.read.spec.clip_slot(int(batch.clip_frames[clips - 1]))
        return {name: (int(used[name]), getattr(shapes, name)) for name in BUDGETS if getattr(shapes, name)}

    def _dialogue(self, place_in_row: int, piece: Piece, plans: Sequence[TurnPlan]) -> Dialogue:
        source = self.read.parts.sources[piece.source]
        record = source.record(piece.record)
        segment = 2 * place_in_row + 1
        speech = [segment + 1] if (self.batch.segment_ids == segment + 1).any() else []
        first = piece.first - sum(not plan.supervised for plan in plans)  # bad sound may have cost history before
        taught = list(self.teacher.turns(segment)) if self.teacher is not None else []
        turns = []
        for number, (said, reply, branches) in enumerate(self.student.turns(segment)):
            teacher = self.teacher.written(taught[number][0]) if self.teacher is not None else None
            hear = functools.partial(source.waveform, piece.record, first + number, MOST_SECONDS)
            sound = self._sound(record, first + number, hear, said) if plans[number].clip else None
            turns.append(self._turn(record, first + number, plans[number], said, reply, branches, teacher, sound))
        return Dialogue(
            name=record.dialogue_id,
            source=source.place(piece.record).removesuffix(f": {record.dialogue_id}"),
            example=piece.example,
            tokens=int(np.isin(self.batch.segment_ids, [segment, segment + 1]).sum()),
            system=tuple(self.student.system(each) for each in (segment, *speech)),
            turns=tuple(turns),
            of=len(record.turns),
        )

    def _turn(
        self,
        record: Record,
        index: int,
        plan: TurnPlan,
        said: list[int],
        reply: list[int],
        branches: list[list[int]],
        teacher: str | None,
        sound: Sound | None,
    ) -> Turn:
        spec, turn = self.read.spec, record.turns[index]
        mode, groups = "", 0
        if plan.supervised:
            possible = [name for name in thinking_wordings(record, index) if name in spec.injection.segments]
            mode = "empty" if not plan.thinking else "explicit" if len(plan.thinking) == len(possible) else "partial"
            groups = int((self.batch.speak_answer == self.answers).sum())
            self.answers += 1
        units = 0 if plan.units is None or not plan.supervised else len(plan.units)
        return Turn(
            number=turn.turn_id,
            supervised=plan.supervised,
            said=turn.text,
            sound=sound,
            read="" if sound else self.student.written(said),
            taught=teacher,
            mode=mode if spec.chat.thinks else "",
            answer=self._spans(branches[0]) if branches else (),
            twin=self._spans(branches[1]) if len(branches) > 1 else (),
            history=self.student.written(reply).rstrip("\n").removesuffix(END),
            style=turn.response_emotion or "",
            units=units,
            groups=groups,
            sources=provenance(record, index),
        )

    def _sound(self, record: Record, index: int, hear: Callable[[], np.ndarray], places: list[int]) -> Sound:
        batch, number = self.batch, self.clips
        self.clips += 1
        frames = int(batch.clip_frames[number])
        window = f"window {number + 1}"
        if batch.clip_start.shape[0]:
            start = int(batch.clip_start[number])
            window = f"frames {start} to {start + frames - 1} of the shared window"
        emotion = int(batch.clip_emotion[number])
        return Sound(
            path=record.turns[index].audio or "",
            hear=hear,
            seconds=frames / FRAMES_PER_SECOND,
            places=range(int(places[0]), int(places[-1]) + 1),
            window=window,
            emotion=EMOTIONS[emotion] if emotion >= 0 else "",
        )

    def _spans(self, places: list[int]) -> tuple[Span, ...]:
        """A branch as stretches that are treated alike."""
        nothing = (NOT_SUPERVISED, NOT_SUPERVISED)
        spans = []
        for kinds, group in itertools.groupby(places, lambda at: self.kinds.get(int(at), nothing)):
            inside = list(group)
            kind = KINDS[kinds[0] or kinds[1]]
            spans.append(Span(self.student.written(inside), kind, len(inside), self.tables.weights(*kinds)))
        return tuple(spans)
