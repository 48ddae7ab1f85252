"""Speech decoding: Speak's prefix, then one group of 4 units per row and step, in lock-step with the text.

Speak's own sequence is prefix states, then one position per group: position `first` predicts group 1, position
`first + k` is fed group k (plus the state of the next response token while there is one) and predicts group k + 1.
`first` is the first response token's position when the think block is empty, and one earlier, the last token before
the response, after thinking (the offsets of the official decoder).
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from ieat_jax.inference.sampling import UnitSampling, row_keys, sample_units
from ieat_jax.inference.text_decode import on_rows
from ieat_jax.model.llm import pick_rows
from ieat_jax.model.sight import Sight
from ieat_jax.model.unified import UnifiedModel

# Keeps the draws of the units apart from those of the text.
_UNIT_STREAM = 0x5EA4


@dataclass(frozen=True)
class UnitRules:
    """Static settings of speech decoding."""

    end_id: int
    max_groups: int
    group_size: int
    sampling: UnitSampling
    seed: int


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class SpeechPlan:
    """Where Speak reads: indices into the row's Think states (prompt [T], then reply [L]). P = longest prefix."""

    prefix: jax.Array  # [B,P] up to and including the position that predicts the first group, -1 = padding
    prefix_length: jax.Array  # [B] 0 = the row does not speak
    text_next: jax.Array  # [B] index of the state fed together with group 1


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class SpeechState:
    """What speech decoding carries from step to step. G = `UnitRules.max_groups`."""

    cache: object
    logits: jax.Array  # [B,4,U] of the next group
    units: jax.Array  # [B,G,4], -1 beyond the end
    step: jax.Array  # [] groups chosen by the rows that are still running
    running: jax.Array  # [B]
    ended: jax.Array  # [B] the model ended its speech by itself
    recent: jax.Array  # [B,window]
    next_text: jax.Array  # [B]


def start_speech(model: UnifiedModel, states: jax.Array, plan: SpeechPlan, rules: UnitRules) -> SpeechState:
    """Run Speak over its prefix. `states` [B,T+L,D] are Think's states of the prompt followed by those of the reply."""
    rows, length = plan.prefix.shape
    no_units = on_rows(jnp.full((rows, length, rules.group_size), -1, jnp.int32))
    fed = model.speak.feed(states, plan.prefix, no_units)
    positions = on_rows(jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length)))
    segments = (positions < plan.prefix_length[:, None]).astype(jnp.int32)
    cache = model.speak.new_cache(rows, length + rules.max_groups)
    spoken, cache = model.speak(fed, Sight(positions, segments), cache=cache)
    logits = model.speak.unit_logits(pick_rows(spoken, plan.prefix_length[:, None] - 1)[:, 0])
    return SpeechState(
        cache=cache,
        logits=on_rows(logits),
        units=on_rows(jnp.full((rows, rules.max_groups, rules.group_size), -1, jnp.int32)),
        step=jnp.zeros((), jnp.int32),
        running=plan.prefix_length > 0,
        ended=plan.prefix_length < 0,
        recent=on_rows(jnp.full((rows, rules.sampling.window), -1, jnp.int32)),
        next_text=plan.text_next,
    )


def choose_group(state: SpeechState, row_numbers: jax.Array, rules: UnitRules) -> SpeechState:
    """Choose the next group of every running row."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys(rules.seed ^ _UNIT_STREAM, row_numbers), state.step)
    group, ended, recent = sample_units(keys, state.logits, state.recent, rules.end_id, rules.sampling)
    group = jnp.where(state.running[:, None], group, -1)
    step = state.step + 1
    return replace(
        state,
        units=jax.lax.dynamic_update_slice_in_dim(state.units, group[:, None], state.step, 1),
        step=step,
        running=state.running & ~ended & (step < rules.max_groups),
        ended=state.ended | (state.running & ended),
        recent=recent,
    )


def feed_group(
    model: UnifiedModel, states: jax.Array, plan: SpeechPlan, text_end: jax.Array, state: SpeechState
) -> SpeechState:
    """Feed the group that was just chosen, with the next response token's state where one is left."""
    running = state.running.astype(jnp.int32)
    group = jax.lax.dynamic_slice_in_dim(state.units, state.step - 1, 1, 1)
    index = jnp.where(state.running & (state.next_text < text_end), state.next_text, -1)
    fed = model.speak.feed(states, index[:, None], group)
    position = plan.prefix_length + state.step - 1
    sight = Sight(position[:, None], running[:, None])
    spoken, cache = model.speak(fed, sight, cache=state.cache)
    logits = on_rows(model.speak.unit_logits(spoken[:, 0]))
    return replace(state, cache=cache, logits=logits, next_text=state.next_text + running)


def decode_speech(
    model: UnifiedModel,
    states: jax.Array,
    plan: SpeechPlan,
    text_end: jax.Array,
    row_numbers: jax.Array,
    rules: UnitRules,
) -> SpeechState:
    """Decode until every row has ended its speech. `text_end` [B]: one past the last state that is fed."""
    state = choose_group(start_speech(model, states, plan, rules), row_numbers, rules)

    def body(state: SpeechState) -> SpeechState:
        return choose_group(feed_group(model, states, plan, text_end, state), row_numbers, rules)

    return jax.lax.while_loop(lambda state: jnp.any(state.running), body, state)
