"""How a row is made of records: what a run asks of it, and the making."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.audio.logmel import FRAMES_PER_SECOND, clip_log_mel
from ieat_jax.config.sections import Shapes
from ieat_jax.data.arrays import Clip
from ieat_jax.data.batch import Batch
from ieat_jax.data.injection import InjectionConfig, choose_mode, privileged, thinking
from ieat_jax.data.labels import EMOTIONS, STYLES
from ieat_jax.data.layout import Encode, LayoutError, LayoutOptions, TurnPlan, check_alone, lay_out
from ieat_jax.data.memory import ArrayMemory
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, Turn
from ieat_jax.data.sources.jsonl import DataError, Source
from ieat_jax.text.chat import ChatFormat

THINKING_MODES = ("explicit", "partial")


@dataclasses.dataclass(frozen=True)
class RowSpec:
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

    def __init__(self, sources: Sequence[Source], spec: RowSpec, quarantine: Quarantine):
        self.sources, self.spec, self.quarantine = sources, spec, quarantine
        self._mel = ArrayMemory(self._load_mel)  # decoding is not free

    def __call__(self, row: int, keys: np.ndarray) -> Batch:
        """The row of a global row index; `keys` [dialogues, 2].

        Raises:
            QuarantineError: too many records are bad.
            DataError: no record of a source can be used.
        """
        encode = functools.cache(self.spec.chat.tokenizer.encode)
        dialogues = [
            self._dialogue(row * len(keys) + place, int(source), int(index), encode)
            for place, (source, index) in enumerate(keys)
        ]
        return self.lay_out(dialogues, encode)

    def lay_out(self, dialogues: Sequence[Sequence[TurnPlan]], encode: Encode | None = None) -> Batch:
        """Planned dialogues as one row; `encode` as in `layout.lay_out`.

        Raises:
            LayoutError: not even the first turn of the first dialogue fits.
        """
        spec = self.spec
        row, _ = lay_out(
            dialogues,
            spec.chat,
            spec.shapes,
            spec.options,
            frames=spec.frames,
            mels=spec.num_mels,
            positions_per_clip=spec.clip_positions(spec.frames),
            encode=encode,
        )
        return row

    def _dialogue(self, example: int, source: int, index: int, encode: Encode) -> list[TurnPlan]:
        """The dialogue of a global example index, or the next one of its source that can be used."""
        records = self.sources[source].records
        for step in range(len(records)):
            record = records[(index + step) % len(records)]
            if record.dialogue_id in self.quarantine:
                continue
            try:
                plans = self.plan(record, self.sources[source].audio_root, example)
                # Too long alone: bad; too long beside others: shortened.
                check_alone(plans[0], self.spec.chat, self.spec.shapes, self.spec.options, encode)
                return plans
            except (AudioError, LayoutError) as error:
                self.quarantine.note(record.dialogue_id, error.code, str(error))
                self.quarantine.check()
        name = self.sources[source].name
        raise DataError(f"{name}: none of its {len(records)} records can be used; see the quarantine")

    def plan(self, record: Record, root: Path, example: int) -> list[TurnPlan]:
        """One record's turns, their random choices drawn from (seed, example)."""
        rng = np.random.default_rng([self.spec.seed, example])
        return [self._plan(record, index, root, example, rng) for index in range(len(record.turns))]

    def _plan(self, record: Record, index: int, root: Path, example: int, rng: np.random.Generator) -> TurnPlan:
        spec, turn = self.spec, record.turns[index]
        if not turn.response_text:
            raise LayoutError("no_response", f"{record.dialogue_id}: turn {turn.turn_id} has no response_text")
        mode, dropped = choose_mode(spec.injection, example, rng)
        if not spec.chat.thinks:
            mode = "none"
        thought = thinking(record, index, rng)
        thought = {name: sentence for name, sentence in thought.items() if name in spec.injection.segments}
        known = privileged(record, index, rng) if spec.privileged else ""
        if mode == "partial":
            thought = dict(list(thought.items())[dropped:])
        told = f"{turn.text} ({known})" if known else turn.text
        units = turn.units if spec.options.speech else None
        if units is not None and not len(units):
            units = None
        return TurnPlan(
            clip=self._clip(turn, record, root) if spec.user == "audio" else None,
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
            mel, self.spec.clip_positions(len(mel)), EMOTIONS.index(turn.emotion) if turn.emotion in EMOTIONS else -1
        )

    def _load_mel(self, audio: str, root: Path) -> np.ndarray:
        waveform = read_audio(audio, max_seconds=self.spec.clip_seconds, root=root)
        return clip_log_mel(waveform, num_mels=self.spec.num_mels, window_seconds=self.spec.clip_seconds)
