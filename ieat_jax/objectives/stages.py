"""The table of stages: what each reads and hears, its losses, and the function of (model, batch) to named losses.

    write   CE(text)                                       a from-scratch LLM learns to read, think and answer
    align   kl KL_T(teacher || student) + eot KL at the end of turn + ce CE(y) + attribute CE(emotion | pooled audio)
    joint   ce CE(text) + units CE(units, 4 heads) + internalise KL + internalise_units KL + consistency

The teacher of `align` is the same LLM without LoRA, which reads the transcript and what the user feels; that of `joint`
is the model itself with its thinking, for the same answer behind an empty think block. The consistency term is ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from ieat_jax.config.sections import ObjectiveConfig, RunConfig
from ieat_jax.data.batch import END_OF_TURN, NOT_SUPERVISED, RESPONSE, SEGMENT_KINDS, Batch
from ieat_jax.errors import ConfigError
from ieat_jax.model.adapters import adapter_stride
from ieat_jax.model.llm import pick_rows
from ieat_jax.model.lora import strip_lora
from ieat_jax.model.sight import Sight
from ieat_jax.model.speak import Speak
from ieat_jax.model.unified import UnifiedModel
from ieat_jax.objectives.losses import (
    Parts,
    Sum,
    chunked_losses,
    class_loss,
    kind_table,
    kl_divergence,
    look_up,
    pooled,
    segment_report,
    weighted,
)
from ieat_jax.objectives.own import Forward, own_losses

Objective = Callable[[UnifiedModel, Batch], Parts]
# What `text_part` reports beside the losses, unweighted.
REPORTED = ("ce_response", *(f"ce_{name}" for name in SEGMENT_KINDS))
Heard = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage is."""

    hears: bool  # the student gets the user's audio; else it reads what a teacher would be told
    taught: bool  # a teacher reads the words and what the user feels, in a stream of its own
    twins: bool  # an answer without thinking may learn from the same answer with it
    speaks: bool  # replies are spoken, where the model has Speak
    losses: tuple[str, ...]  # factors of `config.objective` that count
    function: Callable[[UnifiedModel, Batch, ObjectiveConfig], tuple[Parts, Forward]]


def stage_of(config: RunConfig) -> Stage:
    """Return the stage that a run trains.

    Raises:
        ConfigError: there is no such stage, it hears but rows hold no clips, or all of its losses are switched off.
    """
    if config.stage not in STAGES:
        raise ConfigError(f"config.stage: must be one of {', '.join(STAGES)}, not {config.stage!r}")
    stage = STAGES[config.stage]
    if stage.hears and not config.data.shapes.clips:
        raise ConfigError(f"config.data.shapes.clips: must be at least 1 in stage {config.stage}, which hears")
    _check_window(config)
    if not any(getattr(config.objective, name) for name in stage.losses):
        names = ", ".join(f"config.objective.{name}" for name in stage.losses)
        raise ConfigError(f"stage {config.stage}: every loss is switched off; set one of {names} above 0")
    return stage


def _check_window(config: RunConfig) -> None:
    """Raise where clips are to share a window that they cannot share, which is known from the recipe alone.

    Raises:
        ConfigError: names the field.
    """
    frames, listen = config.data.shapes.frames, config.model.listen
    stride = adapter_stride(listen.adapter)
    if frames and not listen.masked:
        raise ConfigError(
            f"config.data.shapes.frames = {frames}: clips share a window, for which the encoder must see each alone; "
            "set config.model.listen.padding='masked', or frames = 0"
        )
    if frames % stride:
        raise ConfigError(
            f"config.data.shapes.frames = {frames}: must be a multiple of {stride}, the frames of one position of the "
            "LLM"
        )


def make_objective(config: RunConfig) -> tuple[Objective, Mapping[str, float]]:
    """Return the objective of a run's stage, and the factors that its losses are added up with.

    Raises:
        ConfigError: there is no such stage, all of its losses are switched off, or a user's own cannot be used. When it
            is called: a factor above 0 whose loss the stage does not compute, or a user's own that fails.
    """
    stage, settings = stage_of(config), config.objective
    factors = {name: getattr(settings, name) for name in stage.losses}
    own, own_factors = own_losses(settings, config.stage, REPORTED)

    def objective(model: UnifiedModel, batch: Batch) -> Parts:
        parts, forward = stage.function(model, batch, settings)
        _check_computed(config.stage, factors, parts, forward)
        return parts | {name: loss(model, batch, forward) for name, loss in own.items()}

    return objective, factors | own_factors


def _check_computed(stage: str, factors: Mapping[str, float], parts: Parts, forward: Forward) -> None:
    """Refuse a run that would go on without a loss that it asks for."""
    absent = [f"config.objective.{name} = {by:g}" for name, by in factors.items() if by > 0 and name not in parts]
    if not absent:
        return
    reasons = [f"stage {stage} does not compute it in this run"]
    if STAGES[stage].taught and forward.teacher is None:
        reasons.append("no teacher reads along (config.data.shapes.teacher_tokens)")
    if STAGES[stage].speaks and forward.spoken is None:
        reasons.append("nothing is spoken (config.model.speak.enabled, config.data.shapes.speak)")
    raise ConfigError(
        f"{', '.join(absent)}: {': '.join(reasons)}; set the factor to 0, or switch on what the loss needs"
    )


def hear(model: UnifiedModel, batch: Batch) -> Heard | None:
    """Listen's (audio [B, C, A, D], lengths [B, C]); None for a batch without clips."""
    if not batch.mel.shape[1]:
        return None
    return model.listen(batch.mel, batch.clip_frames, batch.clip_start if batch.clip_start.shape[1] else None)


def read(model: UnifiedModel, batch: Batch, heard: Heard | None) -> tuple[jax.Array, jax.Array]:
    """Think's states and Write's states after its norm, both [B, T, D]."""
    sight = Sight(batch.positions, batch.segment_ids, batch.branch_ids)
    states = model.think(batch.tokens, sight, None if heard is None else heard[0], batch.audio_index)
    return states, model.write(states, sight)


def read_as_teacher(model: UnifiedModel, batch: Batch) -> jax.Array:
    """Write's states [B, L, D] over the teacher's stream: the same LLM, LoRA off, no gradient."""
    teacher = jax.lax.stop_gradient(strip_lora(model))
    sight = Sight(batch.teacher_positions, batch.teacher_segment_ids, batch.teacher_branch_ids)
    return teacher.write(teacher.think(batch.teacher_tokens, sight), sight)


def text_losses(
    model: UnifiedModel, batch: Batch, written: jax.Array, teacher: jax.Array | None, settings: ObjectiveConfig
) -> tuple[jax.Array, jax.Array]:
    """(CE, KL) [B, R] at the supervised positions; `teacher`: states that `teacher_at` points into."""
    student = pick_rows(written, batch.target_at)
    taught = None if teacher is None else pick_rows(teacher, batch.teacher_at)
    return chunked_losses(
        model.text_logits,
        model.write_head(),
        student,
        batch.target_ids,
        taught,
        temperature=settings.temperature,
        chunk=settings.chunk,
    )


def ce_weights(settings: ObjectiveConfig) -> jax.Array:
    """Weight of every kind of token in `ce`, before its factor: [NUM_KINDS]."""
    return kind_table(dataclasses.asdict(settings.segment_weights), form=settings.format_weight, response=1.0, end=1.0)


def kl_weights(settings: ObjectiveConfig) -> jax.Array:
    """Weight of every kind of token in `kl` of stage align, before its factor: [NUM_KINDS]."""
    thought = dict.fromkeys(SEGMENT_KINDS, settings.kl_think)
    return kind_table(thought, form=settings.kl_think, response=1.0, end=0.0)


def text_part(ce: jax.Array, batch: Batch, settings: ObjectiveConfig) -> Parts:
    """CE over thinking and response with its weights per kind, and each segment's own for the log."""
    parts = {"ce": weighted(ce, look_up(ce_weights(settings), batch.target_kind))}
    said = (batch.target_kind == RESPONSE) | (batch.target_kind == END_OF_TURN)
    return parts | {"ce_response": weighted(ce, said.astype(jnp.float32))} | segment_report(ce, batch.target_kind)


def attribute_part(model: UnifiedModel, batch: Batch, heard: Heard | None) -> Sum:
    """Return the CE of the user's emotion from the mean of each clip's audio states.

    Raises:
        ValueError: the batch has no clips.
    """
    if heard is None:
        raise ValueError("a batch without clips: there is no voice to read an emotion from")
    audio, lengths = heard
    at = jnp.arange(audio.shape[2])
    if batch.clip_start.shape[1]:
        first = (batch.clip_start // adapter_stride(model.config.listen.adapter))[..., None]
        inside = ((at >= first) & (at < first + lengths[..., None])).astype(jnp.float32)
        sums = jnp.einsum("bca,bad->bcd", inside, audio[:, 0].astype(jnp.float32))
    else:
        inside = (at < lengths[..., None]).astype(jnp.float32)
        sums = jnp.einsum("bca,bcad->bcd", inside, audio.astype(jnp.float32))
    states = sums / jnp.maximum(lengths, 1)[..., None]
    return class_loss(model.emotion.attribute(states), batch.clip_emotion)


def write_parts(model: UnifiedModel, batch: Batch, settings: ObjectiveConfig) -> tuple[Parts, Forward]:
    """Text in, thinking and reply out."""
    states, written = read(model, batch, None)
    ce, _ = text_losses(model, batch, written, None, settings)
    return text_part(ce, batch, settings), Forward(states=states, written=written)


def align_parts(
    model: UnifiedModel, batch: Batch, settings: ObjectiveConfig, heard: Heard | None = None
) -> tuple[Parts, Forward]:
    """Self-distillation; `heard` replaces what Listen hears. Without a loss on text the LLM is not run at all."""
    heard = hear(model, batch) if heard is None else heard
    attribute = attribute_part(model, batch, heard)
    if not (
        settings.extra or any(getattr(settings, name) > 0 for name in STAGES["align"].losses if name != "attribute")
    ):
        return {"attribute": attribute}, Forward(heard)
    states, written = read(model, batch, heard)
    teacher = read_as_teacher(model, batch) if batch.teacher_tokens.shape[1] else None
    ce, kl = text_losses(model, batch, written, teacher, settings)
    parts = text_part(ce, batch, settings) | {"attribute": attribute}
    if teacher is not None:
        parts["kl"] = weighted(kl, look_up(kl_weights(settings), batch.teacher_kind))
        parts["eot"] = weighted(kl, (batch.teacher_kind == END_OF_TURN).astype(jnp.float32))
    return parts, Forward(heard, states, written, teacher)


def joint_parts(model: UnifiedModel, batch: Batch, settings: ObjectiveConfig) -> tuple[Parts, Forward]:
    """Text and speech together, for a model that speaks or, without Speak, for text alone."""
    heard = hear(model, batch)
    states, written = read(model, batch, heard)
    twins = settings.internalise > 0 or settings.internalise_units > 0
    ce, kl = text_losses(model, batch, written, written if twins else None, settings)
    parts = text_part(ce, batch, settings) | {"attribute": attribute_part(model, batch, heard)}
    if twins:
        parts["internalise"] = weighted(kl, (batch.teacher_kind > NOT_SUPERVISED).astype(jnp.float32))
    if model.speak is None or not batch.speak_state.shape[1]:
        return parts, Forward(heard, states, written)
    fed = model.speak.feed(states, batch.speak_state, batch.speak_units)
    sight = Sight(batch.speak_positions, batch.speak_ids)
    spoken = model.speak(fed, sight)
    parts |= unit_parts(model.speak, batch, spoken, settings, twins=twins)
    parts["consistency"] = consistency_part(model, batch, written, spoken)
    return parts, Forward(heard, states, written, spoken=spoken)


def unit_parts(speak: Speak, batch: Batch, spoken: jax.Array, settings: ObjectiveConfig, *, twins: bool) -> Parts:
    """CE of the units, mean over the heads, and KL of the twins' unit heads."""
    present = batch.unit_at >= 0
    targets = jnp.where(present[..., None], pick_rows(batch.speak_targets, batch.unit_at), -1)
    teacher_at = jnp.where(present, pick_rows(batch.speak_teacher[..., None], batch.unit_at)[..., 0], -1)
    ce, kl = chunked_losses(
        speak.unit_logits,
        speak.unit_heads(),
        pick_rows(spoken, batch.unit_at),
        targets,
        pick_rows(spoken, teacher_at) if twins else None,
        temperature=settings.temperature,
        chunk=settings.chunk,
    )
    parts = {"units": weighted(ce, (targets >= 0).astype(jnp.float32))}
    if twins:
        taught = jnp.broadcast_to((teacher_at >= 0)[..., None], kl.shape)
        parts["internalise_units"] = weighted(kl, taught.astype(jnp.float32))
    return parts


def consistency_part(model: UnifiedModel, batch: Batch, written: jax.Array, spoken: jax.Array) -> Sum:
    """One classifier of the response's style on the pooled states of text and of speech: CE on both + symmetric KL."""
    count = batch.answer_style.shape[1]
    text, has_text = pooled(written, batch.answer_ids, count)
    speech, has_speech = pooled(spoken, batch.speak_answer, count)
    from_text, from_speech = model.emotion.style(text), model.emotion.style(speech)
    present = has_text & has_speech
    on_text, weight = class_loss(from_text, batch.answer_style, present)
    on_speech, _ = class_loss(from_speech, batch.answer_style, present)
    apart = kl_divergence(from_text, from_speech, 1.0) + kl_divergence(from_speech, from_text, 1.0)
    labelled = (present & (batch.answer_style >= 0)).astype(jnp.float32)
    return on_text + on_speech + jnp.sum(apart * labelled), weight


STAGES = {
    "write": Stage(hears=False, taught=False, twins=False, speaks=False, losses=("ce",), function=write_parts),
    "align": Stage(
        hears=True,
        taught=True,
        twins=False,
        speaks=False,
        losses=("kl", "eot", "ce", "attribute"),
        function=align_parts,
    ),
    "joint": Stage(
        hears=True,
        taught=False,
        twins=True,
        speaks=True,
        losses=("ce", "units", "internalise", "internalise_units", "consistency", "attribute"),
        function=joint_parts,
    ),
}
