"""From records to batches, without state: the global batch of step k is a pure function of (config, k).

    shuffle -> mixture by weights -> dialogues (audio, thinking) -> packed rows -> this host's rows -> batch

Every example draws its random choices from (seed, global example index), and hosts take their rows last, so the same
global batches come out for any number of hosts, and resuming needs nothing but the step.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import grain
import numpy as np

from ieat_jax.audio.codec import check_identity
from ieat_jax.audio.decode import SAMPLE_RATE, AudioError, read_audio
from ieat_jax.audio.logmel import HOP, clip_log_mel
from ieat_jax.data.batch import Batch, stack
from ieat_jax.data.emotions import EMOTIONS, STYLES
from ieat_jax.data.injection import InjectionConfig, choose_mode, privileged, thinking
from ieat_jax.data.layout import Clip, LayoutError, LayoutOptions, Shapes, TurnPlan, lay_out
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, Turn, read_records
from ieat_jax.errors import UserError
from ieat_jax.text.chat import ChatFormat

THINKING_MODES = ("explicit", "partial")
FRAMES_PER_SECOND = SAMPLE_RATE // HOP


class DataError(UserError):
    """A data recipe that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of records and its share of the mixture."""

    records: tuple[Record, ...]
    audio_root: Path
    weight: float
    name: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How examples are made of records."""

    chat: ChatFormat
    clip_seconds: float  # window of a clip
    num_mels: int
    clip_positions: Callable[[int], int]  # frames of a clip -> positions of the LLM that it takes
    shapes: Shapes
    options: LayoutOptions
    injection: InjectionConfig
    user: str  # what the student gets of the user: 'audio', or 'text' with what the teacher would be told
    pack: int  # dialogues that share a row, as far as they fit
    privileged: bool  # the teacher is told what the user feels and why
    seed: int
    balance: float = 0.0  # of emotions: 0 = as they occur, 1 = about equally often

    @property
    def frames(self) -> int:
        """Frames of a clip's window."""
        return round(self.clip_seconds * FRAMES_PER_SECOND)


class RowMaker:
    """Turns the (source, record index) pairs of a row into the row; bad records are replaced by the next good one."""

    def __init__(self, sources: Sequence[Source], recipe: Recipe, quarantine: Quarantine):
        self.sources, self.recipe, self.quarantine = sources, recipe, quarantine
        self._mel = lru_cache(maxsize=4096)(self._load_mel)  # short clips are small, and decoding is not free

    def __call__(self, row: int, keys: np.ndarray) -> Batch:
        """The row of a global row index; `keys` [dialogues, 2].

        Raises:
            QuarantineError: too many records are bad.
            DataError: no record of a source can be used.
        """
        dialogues = [self._dialogue(row * len(keys) + place, *map(int, key)) for place, key in enumerate(keys)]
        return self.lay_out(dialogues)

    def lay_out(self, dialogues: Sequence[Sequence[TurnPlan]]) -> Batch:
        """Planned dialogues as one row."""
        recipe = self.recipe
        row, _ = lay_out(
            dialogues,
            recipe.chat,
            recipe.shapes,
            recipe.options,
            frames=recipe.frames,
            mels=recipe.num_mels,
            positions_per_clip=recipe.clip_positions(recipe.frames),
        )
        return row

    def _dialogue(self, example: int, source: int, index: int) -> list[TurnPlan]:
        """The dialogue of a global example index, or the next one of its source that can be used."""
        records = self.sources[source].records
        for step in range(len(records)):
            record = records[(index + step) % len(records)]
            if record.dialogue_id in self.quarantine:
                continue
            try:
                plans = self.plan(record, self.sources[source].audio_root, example)
                self.lay_out([plans[:1]])  # too long alone: bad; too long beside others: shortened
                return plans
            except (AudioError, LayoutError) as error:
                self.quarantine.note(record.dialogue_id, error.code, str(error))
                self.quarantine.check()
        name = self.sources[source].name
        raise DataError(f"{name}: none of its {len(records)} records can be used; see the quarantine")

    def plan(self, record: Record, root: Path, example: int) -> list[TurnPlan]:
        """One record's turns, their random choices drawn from (seed, example)."""
        rng = np.random.default_rng([self.recipe.seed, example])
        return [self._plan(record, index, root, example, rng) for index in range(len(record.turns))]

    def _plan(self, record: Record, index: int, root: Path, example: int, rng: np.random.Generator) -> TurnPlan:
        recipe, turn = self.recipe, record.turns[index]
        if not turn.response_text:
            raise LayoutError("no_response", f"{record.dialogue_id}: turn {turn.turn_id} has no response_text")
        mode, dropped = choose_mode(recipe.injection, example, rng)
        if not recipe.chat.thinks:
            mode = "none"
        thought = thinking(record, index, rng)
        thought = {name: sentence for name, sentence in thought.items() if name in recipe.injection.segments}
        known = privileged(record, index, rng) if recipe.privileged else ""
        if mode == "partial":
            thought = dict(list(thought.items())[dropped:])
        told = f"{turn.text} ({known})" if known else turn.text
        units = turn.units if recipe.options.speech else None
        if units is not None and not len(units):
            units = None
        return TurnPlan(
            clip=self._clip(turn, record, root) if recipe.user == "audio" else None,
            text=told,
            teacher_text=told,
            thinking=thought if mode in THINKING_MODES else {},
            response=turn.response_text,
            style=STYLES.index(turn.response_emotion) if turn.response_emotion in STYLES else -1,
            units=units,
        )

    def _clip(self, turn: Turn, record: Record, root: Path) -> Clip:
        if turn.audio is None:
            raise LayoutError("no_audio", f"{record.dialogue_id}: turn {turn.turn_id} has no split_audio_file")
        mel = self._mel(turn.audio, root)
        return Clip(
            mel, self.recipe.clip_positions(len(mel)), EMOTIONS.index(turn.emotion) if turn.emotion in EMOTIONS else -1
        )

    def _load_mel(self, audio: str, root: Path) -> np.ndarray:
        waveform = read_audio(audio, max_seconds=self.recipe.clip_seconds, root=root)
        return clip_log_mel(waveform, num_mels=self.recipe.num_mels, window_seconds=self.recipe.clip_seconds)


class HostRows(grain.MapDataset):
    """The rows of one host of every global batch, in order."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, host: int, hosts: int):
        super().__init__(parent)
        self._batch, self._local, self._host = batch_size, batch_size // hosts, host

    def __len__(self) -> int:
        return len(self._parent) // self._batch * self._local

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        step, row = divmod(index, self._local)
        return self._parent[step * self._batch + self._host * self._local + row]


def make_batches(
    sources: Sequence[Source],
    recipe: Recipe,
    quarantine: Quarantine,
    *,
    batch_size: int,
    steps: int,
    host: int = 0,
    hosts: int = 1,
) -> grain.MapDataset:
    """A dataset whose element k is this host's part of the global batch of step k, for `steps` steps.

    Raises:
        DataError: no records, or a batch that does not divide over the hosts.
    """
    if recipe.pack < 1:
        raise DataError(f"config.data.pack = {recipe.pack}: a row holds at least 1 dialogue")
    if batch_size % hosts:
        raise DataError(
            f"config.data.batch_size = {batch_size} does not divide over {hosts} processes; choose a multiple of them"
        )
    needed = steps * batch_size * recipe.pack
    parts = []
    for number, source in enumerate(sources):
        if not source.records:
            raise DataError(f"{source.name}: holds no usable record")
        repeats = balanced(source.records, recipe.balance)
        keys = [(number, index) for index, count in enumerate(repeats) for _ in range(count)]
        epochs = needed // len(keys) + 1  # of each alone as many as the whole run could ask for
        parts.append(grain.MapDataset.source(keys).seed(recipe.seed + number).shuffle().repeat(epochs))
    mixed = parts[0]
    if len(parts) > 1:
        mixed = grain.MapDataset.mix(parts, weights=[source.weight for source in sources])
    rows = mixed.batch(recipe.pack, batch_fn=np.asarray).map_with_index(RowMaker(sources, recipe, quarantine))
    return HostRows(rows, batch_size, host, hosts).batch(batch_size // hosts, batch_fn=stack).slice(slice(steps))


def balanced(records: Sequence[Record], balance: float) -> list[int]:
    """How often each record comes up in an epoch: (records of the most frequent emotion / of its own) ** balance.

    A dialogue counts for the emotion of its last turn; rounded, and at most 20.
    """
    labels = [record.turns[-1].emotion for record in records]
    counts = Counter(labels)
    most = max(counts.values())
    return [min(round((most / counts[label]) ** balance), 20) for label in labels]


def prefetched(batches: grain.MapDataset, first: int, *, threads: int = 2, buffer: int = 4) -> Iterator[Batch]:
    """The batches from step `first` on, read ahead by threads."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
    return iter(batches.slice(slice(first, len(batches))).to_iter_dataset(options))


def open_sources(settings: Any, quarantine: Quarantine, *, codec: dict | None = None) -> list[Source]:
    """Read `config.data.sources`: {name: {records, audio_root, weight}}; a weight of 0 leaves a source out.

    `codec`: identity of the codec that the run speaks with; units of another one are refused.
    """
    sources = []
    for name, entry in sorted(settings.items()):
        if not entry.weight > 0:
            if entry.weight < 0:
                raise DataError(f"config.data.sources.{name}.weight = {entry.weight} must not be negative")
            continue
        path = Path(entry.records)
        records = tuple(read_records(path, quarantine=quarantine))
        quarantine.expect(len(records))
        for record in records:
            if codec is not None and record.codec is not None:
                check_identity(record.codec, codec, where=f"{path}: {record.dialogue_id}")
        root = Path(entry.audio_root) if entry.audio_root else path.parent
        sources.append(Source(records, root, float(entry.weight), str(path)))
    if not sources:
        raise DataError("config.data.sources names no records with a weight above 0; give at least one")
    return sources
