"""Text decoding: prefill, then one token per row and step through Think and Write with their caches.

All rows step together, so the token chosen in step n of any row is stored at index n. A row that has ended feeds
padding (segment 0), which the caches do not store. The same `start` / `choose` / `feed` serve the jitted batch loop
and streaming.

An end of turn is never fed. The last token of a reply that is cut at its limit is a word, and is fed before the row
ends (phase CUT), because Speak reads its state.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from ieat_jax.inference.prompt import Prompt
from ieat_jax.inference.sampling import Sampling, row_keys, sample_text
from ieat_jax.model.llm import pick_rows
from ieat_jax.model.sharding import lay, spec
from ieat_jax.model.sight import Sight
from ieat_jax.model.unified import UnifiedModel

THINK, CLOSE, RESPONSE, CUT, ENDED = range(5)


@dataclass(frozen=True)
class TextRules:
    """Token ids that steer decoding (static: part of the compiled program).

    `close` is the chat piece between thinking and response, `close_after_tag` where in it the text after `</think>`
    begins: once the model has written the tag, the rest follows from the format and is not sampled.
    """

    end: tuple[int, ...]
    think_tag: int
    close_tag: int
    close: tuple[int, ...]
    close_after_tag: int
    never: tuple[int, ...]
    max_think: int
    max_response: int
    sampling: Sampling
    seed: int

    @property
    def max_tokens(self) -> int:
        """The longest generated sequence."""
        return self.max_think + len(self.close) + self.max_response


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class TextState:
    """What text decoding carries from step to step. L = `TextRules.max_tokens`."""

    think_cache: object
    write_cache: object
    logits: jax.Array  # [B,V] for the next token
    tokens: jax.Array  # [B,L+1] chosen so far, -1 beyond; the last slot is for a step in which no row chooses
    states: jax.Array  # [B,L,D] Think states of the tokens fed so far
    step: jax.Array  # [] tokens chosen by the rows that are still running
    phase: jax.Array  # [B] THINK, CLOSE, RESPONSE, CUT or ENDED
    closing: jax.Array  # [B] next index into the closing piece, in phase CLOSE
    response_start: jax.Array  # [B] index of the first response token, -1 while thinking
    response_length: jax.Array  # [B] response tokens chosen, the end of turn included
    think_closed: jax.Array  # [B] the model closed its thinking by itself (True where it was not asked to think)
    response_ended: jax.Array  # [B] the model ended its turn by itself
    position: jax.Array  # [B] RoPE position of the next token
    seen: jax.Array  # [B,V] ids in prompt and reply, for the repetition penalty; [B,0] without one
    max_response: jax.Array  # [B]


def on_rows(x: jax.Array) -> jax.Array:
    """`x` [B,...] divided over the mesh's batch axes and nothing else, as every array that decoding carries."""
    return lay(x, spec("batch", *(None,) * (x.ndim - 1)))


def start(model: UnifiedModel, prompt: Prompt, rules: TextRules) -> tuple[TextState, jax.Array]:
    """Run the prompt: the state before the first token, and Think's states of the prompt [B,T,D]."""
    rows, length = prompt.tokens.shape
    sight = Sight(prompt.positions, prompt.segment_ids)
    audio = prompt.heard[:, None] if prompt.heard.shape[1] else None
    slots = length + rules.max_tokens
    think_cache, write_cache = model.think.new_cache(rows, slots), model.write.new_cache(rows, slots)
    states, think_cache = model.think(prompt.tokens, sight, audio, prompt.audio_index, cache=think_cache)
    written, write_cache = model.write(states, sight, cache=write_cache)
    logits = on_rows(model.text_logits(pick_rows(written, prompt.last[:, None])[:, 0]).astype(jnp.float32))
    seen = on_rows(jnp.zeros((rows, 0), bool))
    if rules.sampling.repetition_penalty != 1.0:
        is_text = (prompt.segment_ids > 0) & (prompt.audio_index < 0)
        ids = jnp.where(is_text, prompt.tokens, logits.shape[1])
        seen = jax.vmap(lambda row: jnp.zeros(logits.shape[1], bool).at[row].set(True, mode="drop"))(ids)
    zeros = jnp.zeros_like(prompt.last)
    running = jnp.where(prompt.thinks, THINK, RESPONSE)
    state = TextState(
        think_cache=think_cache,
        write_cache=write_cache,
        logits=logits,
        tokens=on_rows(jnp.full((rows, rules.max_tokens + 1), -1, jnp.int32)),
        states=on_rows(jnp.zeros((rows, rules.max_tokens, states.shape[-1]), states.dtype)),
        step=jnp.zeros((), jnp.int32),
        phase=jnp.where(prompt.active, running, ENDED),
        closing=zeros,
        response_start=jnp.where(prompt.thinks, -1, 0),
        response_length=zeros,
        think_closed=~prompt.thinks,
        response_ended=zeros > 0,
        position=prompt.next_position,
        seen=seen,
        max_response=jnp.minimum(prompt.max_response, rules.max_response),
    )
    return state, states


def _among(token: jax.Array, ids: tuple[int, ...]) -> jax.Array:
    return jnp.any(token[:, None] == jnp.asarray(ids, jnp.int32), axis=1)


def choose(state: TextState, row_numbers: jax.Array, rules: TextRules) -> TextState:
    """Choose the next token of every running row and move its phase on.

    Thinking that reaches its limit, or that the model tries to end by ending its turn, is closed for it and flagged
    (`think_closed`): a reply is still given. Think tags and turn headers cannot be sampled inside a response, so no
    think block is ever left in one.
    """
    thinking, closing, responding = (state.phase == phase for phase in (THINK, CLOSE, RESPONSE))
    vocabulary = jnp.arange(state.logits.shape[1])
    never = _among(vocabulary, (*rules.never, rules.think_tag))
    banned = never[None] | (responding[:, None] & (vocabulary == rules.close_tag)[None])
    keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys(rules.seed, row_numbers), state.step)
    seen = state.seen if rules.sampling.repetition_penalty != 1.0 else None
    sampled = sample_text(keys, jnp.where(banned, -jnp.inf, state.logits), seen, rules.sampling)

    cut = thinking & ((state.step >= rules.max_think) | _among(sampled, rules.end))
    closes = thinking & ~cut & (sampled == rules.close_tag)
    index = jnp.where(closing, state.closing, 0)
    token = sampled
    for place, following_token in enumerate(rules.close):
        token = jnp.where((closing | cut) & (index == place), following_token, token)
    following = jnp.where(closes, rules.close_after_tag, index + 1)
    leaving = closing | cut | closes
    opened = leaving & (following >= len(rules.close))

    response_length = state.response_length + responding
    ends = responding & _among(token, rules.end)
    cut_off = responding & ~ends & (response_length >= state.max_response)
    phase = jnp.where(leaving, jnp.where(opened, RESPONSE, CLOSE), state.phase)
    phase = jnp.where(cut_off, CUT, jnp.where(ends | (state.phase == CUT), ENDED, phase))
    token = jnp.where(state.phase < CUT, token, -1)
    if seen is not None:
        seen = seen | (vocabulary == token[:, None])
    return replace(
        state,
        tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, token[:, None], state.step, 1),
        step=state.step + 1,
        phase=phase,
        closing=following,
        response_start=jnp.where(opened, state.step + 1, state.response_start),
        response_length=response_length,
        think_closed=state.think_closed | closes,
        response_ended=state.response_ended | ends,
        seen=state.seen if seen is None else seen,
    )


def feed(model: UnifiedModel, state: TextState) -> TextState:
    """Feed the token that was just chosen (an end of turn is never fed) and compute the next logits."""
    running = (state.phase != ENDED).astype(jnp.int32)
    token = jax.lax.dynamic_slice_in_dim(state.tokens, state.step - 1, 1, 1)
    sight = Sight(state.position[:, None], running[:, None])
    states, think_cache = model.think(jnp.maximum(token, 0), sight, cache=state.think_cache)
    written, write_cache = model.write(states, sight, cache=state.write_cache)
    logits = on_rows(model.text_logits(written[:, 0]).astype(jnp.float32))
    return replace(
        state,
        think_cache=think_cache,
        write_cache=write_cache,
        logits=logits,
        states=jax.lax.dynamic_update_slice_in_dim(state.states, states, state.step - 1, 1),
        position=state.position + running,
    )


def decode_text(model: UnifiedModel, prompt: Prompt, rules: TextRules) -> tuple[TextState, jax.Array]:
    """Decode until every row has ended: the final state and the prompt's Think states [B,T,D]."""
    state, prompt_states = start(model, prompt, rules)
    state = choose(state, prompt.row_numbers, rules)

    def body(state: TextState) -> TextState:
        return choose(feed(model, state), prompt.row_numbers, rules)

    return jax.lax.while_loop(lambda state: jnp.any(state.phase != ENDED), body, state), prompt_states
