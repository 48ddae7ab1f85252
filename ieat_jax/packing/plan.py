"""Which turns share row i, decided from sizes alone before anything is decoded: a pure function of (seed, i).

An epoch is divided into windows of about `window` examples (dialogues). All random choices of a window's turns are
drawn, each as a function of (seed, example, turn); a dialogue longer than a row is cut into pieces; and the pieces are
packed into rows. Where the rows of a window begin depends on all windows before it, so a run that goes on is told
(`Position`): nothing else is remembered.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ieat_jax.data.chance import Pick, uniform
from ieat_jax.data.injection import choose_modes
from ieat_jax.packing.account import COLUMNS, MODES
from ieat_jax.packing.best_fit import best_fit_decreasing
from ieat_jax.packing.mixture import Mixture
from ieat_jax.packing.sizes import BUDGETS, SLOTS, TOLD, TurnSizes, room, turn_sizes
from ieat_jax.packing.spec import RowSpec
from ieat_jax.packing.tables import THINKING_MODES, Tables, brackets, segments_shown, sentence_count

ORDER = 2  # of the examples; another number: a run of before would go on with other batches
HISTORY = 0.5  # of a row's room that unsupervised history takes at most, where a dialogue goes on in another row
_MODE_DRAWS = 3


class Piece(NamedTuple):
    """Turns of a dialogue that stand in one row: `first` to `last` supervised, from `context` on as history."""

    example: int
    source: int
    record: int
    context: int
    first: int
    last: int


class Position(NamedTuple):
    """Where the rows of a run stand: step `step` begins with row `row`; window `window` begins with row `before`."""

    step: int = 0
    row: int = 0
    window: int = 0
    before: int = 0


@dataclasses.dataclass(frozen=True)
class Window:
    """The rows of a window, and what each amounts to: `account` [rows, columns]."""

    epoch: int
    rows: tuple[tuple[Piece, ...], ...]
    account: np.ndarray


@dataclasses.dataclass(frozen=True)
class Choices:
    """The random choices of turns [n]: uniform draws for the paraphrase of every slot, and the mode."""

    draws: np.ndarray  # [n, slots]
    modes: np.ndarray
    removed: np.ndarray


def choices(spec: RowSpec, examples: np.ndarray, turns: np.ndarray) -> Choices:
    """Draw for turns [n] of examples [n], each by itself."""
    slots = np.arange(len(SLOTS) + _MODE_DRAWS)
    draws = uniform(spec.seed, examples[:, None], turns[:, None], slots)
    modes, removed = choose_modes(spec.injection, examples, draws[:, len(SLOTS) :].T)
    return Choices(draws[:, : len(SLOTS)], modes, removed)


def picker(draws: np.ndarray, told: bool) -> Pick:
    """The drawn paraphrases of a turn, from its `draws` [slots]."""

    def pick(name: str, count: int) -> int:
        return int(draws[SLOTS.index(f"told_{name}" if told else name)] * count)

    return pick


class Plan:
    """The rows of a run. Can be called from any thread."""

    def __init__(self, mixture: Mixture, tables: Sequence[Tables], spec: RowSpec, position: Position | None = None):
        self.mixture, self.tables, self.spec = mixture, tables, spec
        self.position = position = position or Position()
        self._room, self._brackets, self._shown = room(spec), brackets(spec), segments_shown(spec)
        self.windows = -(-mixture.epoch // spec.window)  # of an epoch
        self._starts = [position.before]  # of the rows of the windows from position.window on
        self._lock = threading.RLock()
        self.window = functools.lru_cache(maxsize=64)(self._planned)  # by its number

    def __reduce__(self) -> tuple[Any, ...]:  # another process plans by itself
        return type(self), (self.mixture, self.tables, self.spec, self.position)

    def row(self, index: int) -> tuple[Piece, ...]:
        """The pieces of a row."""
        window, first = self._find(index)
        return self.window(window).rows[index - first]

    def epoch(self, index: int) -> int:
        """The epoch of a row."""
        return self._find(index)[0] // self.windows

    def account(self, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """What the rows `first` to `last` - 1 amount to: (epoch, sums [columns]) of each epoch among them."""
        while first < last:
            number, start = self._find(first)
            window = self.window(number)
            end = min(last - start, len(window.rows))
            yield window.epoch, window.account[first - start : end].sum(axis=0)
            first = start + end

    def at(self, step: int, batch_size: int) -> Position:
        """The position of a later step, from which a run can go on."""
        row = self.position.row + (step - self.position.step) * batch_size
        window, before = self._find(row)
        return Position(step, row, window, before)

    def _find(self, index: int) -> tuple[int, int]:
        """(number of the window that holds a row, its first row)."""
        if index < self._starts[0]:
            raise IndexError(f"row {index} lies before row {self._starts[0]}, where this plan begins")
        with self._lock:
            while index >= self._starts[-1]:
                number = self.position.window + len(self._starts) - 1
                self._starts.append(self._starts[-1] + len(self.window(number).rows))
            place = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.position.window + place, self._starts[place]

    def _planned(self, number: int) -> Window:
        """Plan the window `number`."""
        epoch, part = divmod(number, self.windows)
        first, last = (epoch * self.mixture.epoch + self.mixture.epoch * k // self.windows for k in (part, part + 1))
        turns = _Turns(self, np.arange(first, last), self.mixture.keys(first, last))
        pieces, sizes, account = turns.pieces()
        packed = best_fit_decreasing(sizes, self._room)
        order = np.random.default_rng([self.spec.seed, number]).permutation(len(packed))
        rows = tuple(tuple(pieces[place] for place in sorted(packed[row])) for row in order)
        sums = np.stack([account[packed[row]].sum(axis=0) for row in order])
        sums[:, COLUMNS.index("rows")] = 1
        sums[0, COLUMNS.index("quarantined")] += int(turns.broken.sum())
        return Window(epoch, rows, sums)


class _Turns:
    """The turns of a window's dialogues, with their choices drawn and their sizes known."""

    def __init__(self, plan: Plan, examples: np.ndarray, keys: np.ndarray):
        self.plan, self.examples, self.keys = plan, examples, keys
        spans = [(int(source), self._span(source, record)) for source, record in keys]
        self.offsets = np.concatenate([[0], np.cumsum([len(at) for _, at in spans])])
        self.sizes, self.modes, self.broken = self._measure(spans)

    def _span(self, source: int, record: int) -> np.ndarray:
        offsets = self.plan.tables[source].offsets
        return np.arange(offsets[record], offsets[record + 1])

    def _measure(self, spans: list[tuple[int, np.ndarray]]) -> tuple[TurnSizes, np.ndarray, np.ndarray]:
        """Sizes, modes and faults of all turns, source by source."""
        plan, spec = self.plan, self.plan.spec
        total = int(self.offsets[-1])
        example = np.repeat(self.examples, np.diff(self.offsets))
        turn = np.concatenate([np.arange(len(at)) for _, at in spans])
        drawn = choices(spec, example, turn)
        source = np.concatenate([np.full(len(at), number) for number, at in spans])
        at = np.concatenate([at for _, at in spans])
        sizes: TurnSizes | None = None
        modes, broken = np.zeros(total, np.int64), np.zeros(total, bool)
        for number, table in enumerate(plan.tables):
            here = np.flatnonzero(source == number)
            if not len(here):
                continue
            sentences = table.sentences[at[here]]
            thinking, told = sentences[:, : -len(TOLD)], sentences[:, -len(TOLD) :]
            present = (thinking[..., 0, 0] > 0) & plan._shown
            rank = np.cumsum(present, axis=1) - 1
            shows = np.isin(drawn.modes[here], THINKING_MODES)
            kept = present & (rank >= drawn.removed[here, None]) & shows[:, None]
            draws = drawn.draws[here]
            thought = sentence_count(thinking, kept, draws[:, : -len(TOLD)])
            known = told[..., 0, 0] > 0
            heard = sentence_count(told, known, draws[:, -len(TOLD) :]) + known.any(axis=1) * plan._brackets
            measured = turn_sizes(table.counts(at[here], thought, heard), spec)
            if sizes is None:
                width = len(measured.opening)
                sizes = TurnSizes(measured.opening, *(np.zeros((total, width), np.int64) for _ in range(3)))
            for whole, part in zip(sizes[1:], measured[1:], strict=True):
                whole[here] = part
            partial = kept.sum(axis=1) < present.sum(axis=1)
            explicit, some, empty = range(len(MODES))  # as shown
            modes[here] = np.where(thought == 0, empty, np.where(partial, some, explicit))
            broken[here] = table.broken[at[here]]
        assert sizes is not None
        return sizes, modes, broken

    def pieces(self) -> tuple[list[Piece], np.ndarray, np.ndarray]:
        """The pieces of all dialogues in their order, the size of each [n, budgets + 1], and what it counts."""
        opening, user, history, answer = self.sizes
        begins, ends = self.offsets[:-1], self.offsets[1:]
        whole = opening + np.add.reduceat(user + history + answer, begins) - history[ends - 1]
        uncut = (whole <= self.plan._room).all(axis=1) & ~np.logical_or.reduceat(self.broken, begins)
        spans: list[tuple[int, int, int, int]] = []  # dialogue, context, first, last
        for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            if uncut[number]:
                spans.append((number, 0, 0, end - begin - 1))
                continue
            here = slice(begin, end)
            found = cut(opening, user[here], history[here], answer[here], self.plan._room, self.broken[here])
            spans += [(number, *span) for span in found]
        dialogue, context, first, last = np.array(spans, np.int64).reshape(-1, 4).T
        past, answers, modes = (_summed(part) for part in (user + history, answer, np.eye(len(MODES))[self.modes]))
        start, begun, over = (begins[dialogue] + at for at in (context, first, last + 1))
        sizes = opening + past[over] - past[start] - history[over - 1] + answers[over] - answers[begun]
        account = np.zeros((len(spans), len(COLUMNS)), np.int64)
        account[:, : len(BUDGETS)] = sizes[:, : len(BUDGETS)]
        account[:, COLUMNS.index("dialogues")] = np.diff(dialogue, prepend=-1) > 0
        account[:, COLUMNS.index("turns")] = last - first + 1
        account[:, COLUMNS.index("context")] = first - context
        account[:, -len(MODES) :] = modes[over] - modes[begun]
        examples, keys = self.examples.tolist(), self.keys.tolist()
        pieces = [Piece(examples[n], *keys[n], *span) for n, *span in spans]
        return pieces, sizes, account


def _summed(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, ... n of `values` [n, k]: [n + 1, k]."""
    return np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])


def cut(
    opening: np.ndarray,
    user: np.ndarray,
    history: np.ndarray,
    answer: np.ndarray,
    room: np.ndarray,
    broken: np.ndarray,
) -> Iterator[tuple[int, int, int]]:
    """(context, first, last) of the pieces of a dialogue: every turn that is not broken is supervised in one of them.

    A piece that goes on begins with unsupervised history: with all of it where everything that is left of the dialogue
    fits beside it, else with as many turns as fit into a share HISTORY of a row. A broken turn ends what comes before
    it: later turns do not have it, or what stands before it, as history. Sizes are those of `TurnSizes`, of one
    dialogue; each turn alone fits into `room`.
    """
    count, first, since = len(user), 0, 0  # `since`: where usable history begins
    past, answers = _summed(user + history), _summed(answer)

    def size(context: int, first: int, last: int) -> np.ndarray:
        turns = past[last + 1] - past[context] - history[last]
        return opening + turns + answers[last + 1] - answers[first]

    def fits(context: int, first: int, last: int) -> bool:
        return bool((size(context, first, last) <= room).all())

    while first < count:
        if broken[first]:
            first += 1
            since = first
            continue
        end = first
        while end + 1 < count and not broken[end + 1]:
            end += 1
        context = since
        if not fits(since, first, end):
            share = [(past[first] - past[turn] <= HISTORY * room).all() for turn in range(since, first)]
            context = since + share.index(True) if True in share else first
            while not fits(context, first, first):
                context += 1
        last = first
        while last < end and fits(context, first, last + 1):
            last += 1
        yield context, first, last
        first = last + 1
