"""The objective of each stage: a function of (model, batch) to named losses, and how the losses are added up.

    write   CE(text)                                       a from-scratch LLM learns to read, think and answer
    align   kl KL_T(teacher || student) + eot KL at the end of turn + ce CE(y) + attribute CE(emotion | pooled audio)
    joint   ce CE(text) + units CE(units, 4 heads) + internalise KL + internalise_units KL + consistency

The teacher of `align` is the same LLM without LoRA, which reads the transcript and what the user feels; that of `joint`
is the model itself with its thinking, for the same answer behind an empty think block. Sources and choices: reference
`objectives.md`; the consistency term is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ieat_jax.data.batch import END_OF_TURN, NOT_SUPERVISED, RESPONSE, Batch
from ieat_jax.errors import UserError
from ieat_jax.model.llm import pick_rows
from ieat_jax.model.lora import strip_lora
from ieat_jax.model.sight import Sight
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

STAGES = ("write", "align", "joint")
FACTORS = {
    "write": ("ce",),
    "align": ("kl", "eot", "ce", "attribute"),
    "joint": ("ce", "units", "internalise", "internalise_units", "consistency", "attribute"),
}
Objective = Callable[[UnifiedModel, Batch], Parts]
Heard = tuple[jax.Array, jax.Array]


def make_objective(stage: str, settings: Any) -> tuple[Objective, Mapping[str, float]]:
    """The objective of a stage under `config.objective`, and the factors its losses are added up with."""
    if stage not in STAGES:
        raise UserError(f"config.stage: {stage!r} is not one of {', '.join(STAGES)}")
    functions = {"write": write_parts, "align": align_parts, "joint": joint_parts}
    factors = {name: float(settings[name]) for name in FACTORS[stage]}
    for name, factor in factors.items():
        if factor < 0:
            raise UserError(f"config.objective.{name} = {factor}: a loss factor must not be negative")
    if not any(factors.values()):
        names = ", ".join(f"config.objective.{name}" for name in factors)
        raise UserError(f"stage {stage}: every loss is switched off; set one of {names} above 0")
    return lambda model, batch: functions[stage](model, batch, settings), factors


def hear(model: UnifiedModel, batch: Batch) -> Heard | None:
    """Listen's (audio [B, C, A, D], lengths [B, C]); None for a batch without clips."""
    return model.listen(batch.mel, batch.clip_frames) if batch.mel.shape[1] else None


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
    model: UnifiedModel, batch: Batch, written: jax.Array, teacher: jax.Array | None, settings: Any
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


def text_part(ce: jax.Array, batch: Batch, settings: Any) -> Parts:
    """CE over thinking and response with its weights per kind, and each segment's own for the log."""
    table = kind_table(settings.segment_weights, form=settings.format_weight, response=1.0, end=1.0)
    parts = {"ce": weighted(ce, look_up(table, batch.target_kind))}
    said = (batch.target_kind == RESPONSE) | (batch.target_kind == END_OF_TURN)
    return parts | {"ce_response": weighted(ce, said.astype(jnp.float32))} | segment_report(ce, batch.target_kind)


def attribute_part(model: UnifiedModel, batch: Batch, heard: Heard) -> Sum:
    """CE of the user's emotion from the mean of each clip's audio states."""
    audio, lengths = heard
    inside = (jnp.arange(audio.shape[2]) < lengths[..., None]).astype(jnp.float32)
    sums = jnp.einsum("bca,bcad->bcd", inside, audio.astype(jnp.float32))
    states = sums / jnp.maximum(lengths, 1)[..., None]
    return class_loss(model.emotion.attribute(states), batch.clip_emotion)


def write_parts(model: UnifiedModel, batch: Batch, settings: Any) -> Parts:
    """Text in, thinking and reply out."""
    _, written = read(model, batch, None)
    ce, _ = text_losses(model, batch, written, None, settings)
    return text_part(ce, batch, settings)


def align_parts(model: UnifiedModel, batch: Batch, settings: Any, heard: Heard | None = None) -> Parts:
    """Self-distillation; `heard` replaces what Listen hears. Without a loss on text the LLM is not run at all."""
    heard = hear(model, batch) if heard is None else heard
    attribute = attribute_part(model, batch, heard)
    if not (settings.ce > 0 or settings.kl > 0 or settings.eot > 0):
        return {"attribute": attribute}
    _, written = read(model, batch, heard)
    teacher = read_as_teacher(model, batch) if batch.teacher_tokens.shape[1] else None
    ce, kl = text_losses(model, batch, written, teacher, settings)
    parts = text_part(ce, batch, settings) | {"attribute": attribute}
    if teacher is not None:
        thought = dict.fromkeys(settings.segment_weights, settings.kl_think)
        table = kind_table(thought, form=settings.kl_think, response=1.0, end=0.0)
        parts["kl"] = weighted(kl, look_up(table, batch.teacher_kind))
        parts["eot"] = weighted(kl, (batch.teacher_kind == END_OF_TURN).astype(jnp.float32))
    return parts


def joint_parts(model: UnifiedModel, batch: Batch, settings: Any) -> Parts:
    """Text and speech together, for a model that speaks or, without Speak, for text alone."""
    heard = hear(model, batch)
    states, written = read(model, batch, heard)
    twins = settings.internalise > 0 or settings.internalise_units > 0
    ce, kl = text_losses(model, batch, written, written if twins else None, settings)
    parts = text_part(ce, batch, settings) | {"attribute": attribute_part(model, batch, heard)}
    if twins:
        parts["internalise"] = weighted(kl, (batch.teacher_kind > NOT_SUPERVISED).astype(jnp.float32))
    if model.speak is None or not batch.speak_state.shape[1]:
        return parts
    fed = model.speak.feed(states, batch.speak_state, batch.speak_units)
    sight = Sight(batch.speak_positions, batch.speak_ids)
    spoken = model.speak(fed, sight)
    parts |= unit_parts(model, batch, spoken, settings, twins=twins)
    parts["consistency"] = consistency_part(model, batch, written, spoken)
    return parts


def unit_parts(model: UnifiedModel, batch: Batch, spoken: jax.Array, settings: Any, *, twins: bool) -> Parts:
    """CE of the units, mean over the heads, and KL of the twins' unit heads."""
    present = batch.unit_at >= 0
    targets = jnp.where(present[..., None], pick_rows(batch.speak_targets, batch.unit_at), -1)
    teacher_at = jnp.where(present, pick_rows(batch.speak_teacher[..., None], batch.unit_at)[..., 0], -1)
    ce, kl = chunked_losses(
        model.speak.unit_logits,
        model.speak.unit_heads(),
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
