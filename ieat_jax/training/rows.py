"""The rows of a run: what its stage, model and objective ask of the examples."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ieat_jax.audio.codec import check_identity
from ieat_jax.audio.files import MIN_SECONDS, AudioError, read_audio
from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.config.sections import RunConfig, Shapes
from ieat_jax.data.arrays import Clip
from ieat_jax.data.batch import Batch, padding_like, stack
from ieat_jax.data.layout import LayoutError, LayoutOptions, TurnPlan
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, read_records
from ieat_jax.errors import ConfigError
from ieat_jax.model.adapters import adapter_length, adapter_stride, slot_length
from ieat_jax.model.config import ListenConfig
from ieat_jax.objectives.stages import stage_of
from ieat_jax.packing.rows import TurnMaker
from ieat_jax.packing.spec import RowSpec
from ieat_jax.runs.folder import Run
from ieat_jax.text.chat import ChatFormat


def layout_options(config: RunConfig, *, unit_end: int | None) -> LayoutOptions:
    """Return what a run's stage and objective want in its rows."""
    stage, objective = stage_of(config), config.objective
    return LayoutOptions(
        teacher=stage.taught and (objective.kl > 0 or objective.eot > 0),
        speech=unit_end is not None,
        internalise=stage.twins and (objective.internalise > 0 or objective.internalise_units > 0),
        internalise_units=stage.twins and objective.internalise_units > 0,
        unit_end=unit_end or 0,
    )


def row_shapes(config: RunConfig, options: LayoutOptions) -> Shapes:
    """`config.data.shapes`, with 0 for the parts of a row that the run does not have."""
    shapes = config.data.shapes
    return dataclasses.replace(
        shapes,
        teacher_tokens=shapes.teacher_tokens if options.teacher else 0,
        speak=shapes.speak if options.speech else 0,
        groups=shapes.groups if options.speech else 0,
        clips=shapes.clips if stage_of(config).hears else 0,
        frames=shapes.frames if stage_of(config).hears else 0,
    )


def make_row_spec(config: RunConfig, listen: ListenConfig, chat: ChatFormat, *, unit_end: int | None) -> RowSpec:
    """Return how the rows of a run are made; `unit_end` = the codec's end id, None = the run does not speak."""
    options = layout_options(config, unit_end=unit_end)
    return RowSpec(
        chat=chat,
        clip_seconds=listen.clip_seconds,
        num_mels=listen.encoder.num_mels,
        clip_positions=functools.partial(_positions, listen),
        clip_slot=functools.partial(_slot, listen),
        stride=adapter_stride(listen.adapter),
        shapes=row_shapes(config, options),
        options=options,
        injection=config.data.injection,
        user="audio" if stage_of(config).hears else "text",
        pack=config.data.pack,
        privileged=config.data.privileged,
        seed=config.seed,
        balance=config.data.balance,
        window=config.data.window,
        behind=listen.behind,
    )


def check_shapes(spec: RowSpec) -> None:
    """Raise where a row is too small for any turn, which is known before data or weights are read.

    Raises:
        ConfigError: the chat format alone is larger than a row; names the field.
    """
    units = np.zeros(0, np.int32) if spec.options.speech else None
    least = round(MIN_SECONDS * FRAMES_PER_SECOND)  # the shortest clip that is accepted
    mel = np.zeros((least, spec.num_mels), np.float32)
    clip = Clip(mel, spec.clip_positions(least), -1) if spec.user == "audio" else None
    turn = TurnPlan(clip=clip, text="", teacher_text="", thinking={}, response="", units=units)
    try:
        TurnMaker(spec).lay_out([[turn]])
    except LayoutError as error:
        raise ConfigError(f"no dialogue fits into a row: of a turn without a word, {error}") from error


def _slot(listen: ListenConfig, frames: int) -> int:
    return int(slot_length(listen.adapter, frames))


def _positions(listen: ListenConfig, frames: int) -> int:
    return int(adapter_length(listen.adapter, frames))


def evaluation_batches(run: Run, records: Path, audio_root: Path | None, *, batch_size: int) -> Iterator[Batch]:
    """All records in order, with full thinking and with units; the last batch is filled up with empty rows.

    Records that cannot be read or laid out are left out.
    """
    chat = ChatFormat.from_config(run.tokenizer, run.config.chat)
    unit_end = None if run.codec is None else run.codec.end_id
    spec = make_row_spec(run.config, run.config.model.listen, chat, unit_end=unit_end)
    spec = dataclasses.replace(
        spec,
        user="audio",
        injection=dataclasses.replace(spec.injection, mode="explicit"),
        options=dataclasses.replace(spec.options, teacher=False, internalise=False, internalise_units=False),
        shapes=dataclasses.replace(spec.shapes, teacher_tokens=0, clips=run.config.data.shapes.clips, frames=0),
    )
    identity = None if run.codec is None else run.codec.identity()
    quarantine = Quarantine(max_share=1.0, path=None)
    maker = TurnMaker(spec)
    root = Path(audio_root or Path(records).parent)
    rows: list[Batch] = []
    for number, record in enumerate(read_records(records, quarantine=quarantine)):
        if identity is not None and record.codec is not None:
            check_identity(record.codec, identity, where=f"{records}: {record.dialogue_id}")

        def hear(turn: int, record: Record = record) -> np.ndarray:
            waveform = read_audio(record.turns[turn].audio or "", max_seconds=spec.clip_seconds, root=root)
            return maker.mel(waveform)

        try:
            rows.append(maker.lay_out([maker.dialogue(record, hear, number)])[0])
        except (AudioError, LayoutError):
            continue
        if len(rows) == batch_size:
            yield stack(rows)
            rows = []
    if rows:
        yield stack(rows + [padding_like(rows[0])] * (batch_size - len(rows)))
