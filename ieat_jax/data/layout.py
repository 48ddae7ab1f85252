"""From dialogues to arrays: a row's tokens, what is supervised in them, the teacher's stream, Speak's sequence.

The tokens are a tree (`data/tree.py`). With internalisation every answer that thinks has a twin branch with an empty
think block, whose teacher it is. A row can hold several dialogues, each with segment ids of its own: they do not see
each other.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ieat_jax.audio.codec import GROUP_SIZE
from ieat_jax.config.sections import Shapes
from ieat_jax.data.arrays import Clip, Lists, to_arrays
from ieat_jax.data.batch import END_OF_TURN, FORMAT, NOT_SUPERVISED, RESPONSE, SEGMENT_KINDS, Batch
from ieat_jax.data.tree import add_user, open_answer, open_dialogue
from ieat_jax.errors import UserError
from ieat_jax.text.chat import ChatFormat

Encode = Callable[[str], list[int]]  # text -> token ids


class LayoutError(UserError):
    """A dialogue that does not fit the configured shapes; `code` is a short word for counting."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:  # errors travel between processes, so they must unpickle
        return type(self), (self.code, str(self))


@dataclasses.dataclass(frozen=True)
class TurnPlan:
    """One turn as it is to be laid out, every random choice already made."""

    clip: Clip | None  # what the student hears; None: it reads `text`
    text: str | tuple[str, ...]  # what the student reads when there is no clip; pieces become tokens one by one
    teacher_text: str | tuple[str, ...]  # what the teacher reads
    thinking: dict[str, str]  # segment -> sentence, in order; empty = empty think block
    response: str
    style: int = -1  # index into STYLES
    units: Sequence[int] | np.ndarray | None = None  # of the spoken reply
    supervised: bool = True  # False: later turns see it, and nothing is learned from it


@dataclasses.dataclass(frozen=True)
class AudioPlaces:
    """How the audio positions of a row are counted."""

    per_clip: int  # A, positions of a clip's own window
    shared: bool = False  # all clips stand in one window
    stride: int = 1  # frames of a position of the LLM, in a window that they share


@dataclasses.dataclass(frozen=True)
class LayoutOptions:
    """What a stage wants in its rows."""

    teacher: bool = False  # a teacher stream (stage align)
    speech: bool = False  # Speak's sequence
    internalise: bool = False  # twin branches with an empty think block
    internalise_units: bool = False  # which are spoken too
    unit_end: int = 0  # the codec's end id


class _Row(Lists):
    """A row while it grows, turn by turn; what does not fit is taken back."""

    def __init__(self, chat: ChatFormat, places: AudioPlaces, options: LayoutOptions, encode: Encode):
        super().__init__()
        self.chat, self.places, self.options, self.encode = chat, places, options, encode
        self.num_branches = self.num_spoken = self.num_dialogues = 0
        self.system = range(0)  # places of Speak's system prompt of the dialogue that grows

    def open_dialogue(self) -> None:
        """Append the system prompts of another dialogue."""
        self.system = open_dialogue(self.tree, self.chat, self.num_dialogues, speech=self.options.speech)
        open_dialogue(self.teacher, self.chat, self.num_dialogues, speech=False)
        self.num_dialogues += 1

    def turn(self, plan: TurnPlan) -> None:
        """Append a user turn and, where it is supervised, its answer as branches."""
        chat = self.chat
        if plan.clip is None:
            turn_states = add_user(self.tree, chat, text=self._ids(plan.text))
        else:
            start = self.frames
            first = start // self.places.stride if self.places.shared else len(self.clips) * self.places.per_clip
            turn_states = add_user(self.tree, chat, clip=(plan.clip.positions, first))
            self.clips.append(plan.clip)
            self.starts.append(start)
        add_user(self.teacher, chat, text=self._ids(plan.teacher_text))
        if not plan.supervised:
            return
        answer = len(self.styles)
        self.styles.append(plan.style)
        said = self._branch(plan, plan.thinking, answer, turn_states)
        if self.options.internalise and plan.thinking:
            self._branch(plan, {}, answer, turn_states, teacher=said)

    def _ids(self, text: str | tuple[str, ...]) -> list[int]:
        pieces = (text,) if isinstance(text, str) else text
        return [token for piece in pieces for token in self.encode(piece)]

    def history(self, plan: TurnPlan) -> None:
        """Append a turn's reply to the trunk: what later turns see of it."""
        reply = [*self.encode(plan.response), *self.chat.response_close]
        self.tree.add(reply)
        self.teacher.add(reply)

    @property
    def frames(self) -> int:
        """Frames that are taken of a window that the clips share."""
        return self.starts[-1] + self.clips[-1].slot if self.clips else 0

    def mark(self) -> tuple[Any, ...]:
        """Where the row stands now, for `take_back`."""
        lists = tuple(len(values) for values in self.lists())
        counts = self.num_branches, self.num_spoken, self.num_dialogues, self.system
        return self.tree.mark(), self.teacher.mark(), lists, counts

    def take_back(self, mark: tuple[Any, ...]) -> None:
        """Remove everything that was added since `mark`."""
        tree, teacher, lists, counts = mark
        self.tree.take_back(tree)
        self.teacher.take_back(teacher)
        for values, size in zip(self.lists(), lists, strict=True):
            del values[size:]
        self.num_branches, self.num_spoken, self.num_dialogues, self.system = counts

    def _branch(
        self,
        plan: TurnPlan,
        thinking: dict[str, str],
        answer: int,
        turn_states: range,
        teacher: tuple[int, int] | None = None,
    ) -> tuple[int, int]:
        """Append one answer; `teacher` = the answer whose twin this is, as returned: (first target, first in Speak)."""
        chat, tree = self.chat, self.tree
        self.num_branches += 1
        branch = self.num_branches
        twin = teacher is not None
        pieces = self._thought(thinking) + self._said(plan.response)
        kinds = [kind for tokens, kind in pieces for _ in tokens]
        ids = [token for tokens, _ in pieces for token in tokens]
        opened = open_answer(tree, chat, branch, thinks=bool(thinking))
        first = tree.add(ids, branch=branch)
        tree.answers[first:] = [answer if kind == RESPONSE and not twin else -1 for kind in kinds]
        # A base without a think slot answers right behind the user's turn.
        before = first - 1 if opened else turn_states[-1]
        teacher_before = -1
        if self.options.teacher:
            header = len(self.teacher) - 1
            open_answer(self.teacher, chat, branch, thinks=bool(thinking))
            taught = self.teacher.add(ids, branch=branch)
            teacher_before = taught - 1 if opened else header
        response_target = len(self.targets) + next(i for i, kind in enumerate(kinds) if kind in (RESPONSE, END_OF_TURN))
        for offset, (token, kind) in enumerate(zip(ids, kinds, strict=True)):
            at = before if offset == 0 else first + offset - 1
            teacher_at = -1
            if teacher is not None:
                teacher_at = self.targets[teacher[0] + offset][0]
            elif teacher_before >= 0:
                teacher_at = teacher_before if offset == 0 else taught + offset - 1
            own, taught_kind = NOT_SUPERVISED if twin else kind, kind if teacher_at >= 0 else NOT_SUPERVISED
            self.targets.append((at, token, own, teacher_at, taught_kind))
        response_at = self.targets[response_target][0]  # the token before the first response token
        first_speak = self._spoken(plan, response_at, opened.start, turn_states, answer, thinking, teacher)
        return response_target, first_speak

    def _thought(self, thinking: dict[str, str]) -> list[tuple[list[int], int]]:
        """Thinking after its opening, as (tokens, kind).

        Its whole close is learned, what follows `</think>` too: decoding gives it, but decoders of others, which run an
        exported model, do not.
        """
        pieces = []
        for number, (segment, sentence) in enumerate(thinking.items()):
            text = sentence if number == 0 else " " + sentence
            pieces.append((self.encode(text), SEGMENT_KINDS[segment]))
        return [*pieces, (self.chat.think_close, FORMAT)] if thinking else []

    def _said(self, response: str) -> list[tuple[list[int], int]]:
        return [(self.encode(response), RESPONSE), ([self.chat.end_of_turn], END_OF_TURN)]

    def _spoken(
        self,
        plan: TurnPlan,
        response_at: int,
        begun: int,
        turn_states: range,
        answer: int,
        thinking: dict[str, str],
        teacher: tuple[int, int] | None,
    ) -> int:
        """Append Speak's sequence of this answer; returns where its predictions begin, -1 = not spoken.

        Its first group is predicted at the token before the response after thinking, and at the first response token
        otherwise: the offsets of the official decoder (reference: GOAT-SLM).
        """
        if (
            not self.options.speech
            or plan.units is None
            or (teacher is not None and not self.options.internalise_units)
        ):
            return -1
        response = len(self.encode(plan.response))
        until = response_at + (1 if thinking else 2)
        states = [*self.system, *turn_states, *range(begun, until)]
        text = list(range(until, response_at + 1 + response))  # the end of turn is never fed
        units = list(plan.units)
        units += [self.options.unit_end] * (GROUP_SIZE - len(units) % GROUP_SIZE)
        groups = [units[i : i + GROUP_SIZE] for i in range(0, len(units), GROUP_SIZE)]
        nothing = [-1] * GROUP_SIZE
        self.num_spoken += 1
        first = len(self.speak) + len(states) - 1
        for place, state in enumerate(states):
            predicts = place == len(states) - 1
            self._speak_position(
                state, nothing, groups[0] if predicts else nothing, place, answer if predicts else -1, teacher
            )
        for step, fed in enumerate(groups[:-1]):
            state = text[step] if step < len(text) else -1
            self._speak_position(state, fed, groups[step + 1], len(states) + step, answer, teacher)
        self.groups += range(first, first + len(groups))
        if teacher is not None and teacher[1] >= 0:
            for step in range(len(groups)):
                row = self.speak[first + step]
                self.speak[first + step] = (*row[:6], teacher[1] + step)
        return first

    def _speak_position(
        self, state: int, fed: list[int], targets: list[int], place: int, answer: int, teacher: tuple[int, int] | None
    ) -> None:
        if teacher is not None:  # a twin is taught by its teacher, not by the units
            targets, answer = [-1] * GROUP_SIZE, -1
        self.speak.append((state, fed, targets, place, self.num_spoken, answer, -1))

    def size(self) -> dict[str, int]:
        """How large the row is by now, under the names of `Shapes`."""
        return {
            "tokens": len(self.tree),
            "clips": len(self.clips),
            "targets": len(self.targets),
            "answers": len(self.styles),
            "teacher_tokens": len(self.teacher) if self.options.teacher else 0,
            "speak": len(self.speak),
            "groups": len(self.groups),
            "frames": self.frames if self.places.shared else 0,
        }

    def too_large(self, shapes: Shapes) -> dict[str, int]:
        """The sizes that are above those of `shapes`."""
        return {name: size for name, size in self.size().items() if size > getattr(shapes, name)}

    def is_full_for(self, plan: TurnPlan, shapes: Shapes) -> bool:
        """Whether a turn cannot fit for reasons that are known before its texts are tokens."""
        spoken = plan.supervised and plan.units is not None and self.options.speech
        groups = 0 if plan.units is None or not spoken else len(plan.units) // GROUP_SIZE + 1
        return (
            (plan.supervised and len(self.styles) >= shapes.answers)
            or (plan.clip is not None and len(self.clips) >= shapes.clips)
            or (plan.clip is not None and len(self.tree) + plan.clip.positions > shapes.tokens)
            or len(self.groups) + groups > shapes.groups
        )


def lay_out(
    dialogues: Sequence[Sequence[TurnPlan]],
    chat: ChatFormat,
    shapes: Shapes,
    options: LayoutOptions,
    *,
    frames: int,
    mels: int,
    positions_per_clip: int,
    stride: int = 1,
    encode: Encode | None = None,
) -> tuple[Batch, list[int]]:
    """Dialogues -> (a row: a `Batch` without its first dimension, turns of each that are in it).

    A dialogue that does not fit into what is left keeps its first turns, perhaps none; the first dialogue keeps one at
    least. `frames` = F, `mels` = M, `positions_per_clip` = A, `stride` = frames of a position
    in a window that clips share; `encode` = the tokenizer's, with a memory where texts are
    asked for again.

    Raises:
        LayoutError: not even the first turn of the first dialogue fits; names the size and its config field.
    """
    places = AudioPlaces(positions_per_clip, bool(shapes.frames), stride)
    row = _Row(chat, places, options, encode or functools.cache(chat.tokenizer.encode))
    counts: list[int] = []
    for turns in dialogues:
        if row.num_dialogues == 0:
            _check_alone(turns[0], row, shapes)
        counts.append(_append(turns, row, shapes))
    return to_arrays(row, shapes, teacher=options.teacher, frames=frames, mels=mels), counts


def _check_alone(plan: TurnPlan, row: _Row, shapes: Shapes) -> None:
    empty = row.mark()
    row.open_dialogue()
    row.turn(plan)
    for name, size in row.too_large(shapes).items():
        raise LayoutError(
            "too_long",
            f"the first turn alone needs {size} {name}, config.data.shapes.{name} is {getattr(shapes, name)}; raise it",
        )
    row.take_back(empty)


def _append(turns: Sequence[TurnPlan], row: _Row, shapes: Shapes) -> int:
    """Append as many first turns of a dialogue as fit; returns how many."""
    fits = row.mark()  # the row that is left when the next turn does not fit
    row.open_dialogue()
    for number, plan in enumerate(turns):
        if row.is_full_for(plan, shapes):
            row.take_back(fits)
            return number
        if number:
            row.history(turns[number - 1])
        row.turn(plan)
        if row.too_large(shapes):
            row.take_back(fits)
            return number
        fits = row.mark()
    return len(turns)
