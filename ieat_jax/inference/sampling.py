"""How the next text token and the next group of speech units are chosen from logits.

Text: repetition penalty, temperature, top-k, nucleus, in the order transformers applies them. Units:
repetition-aware sampling (VALL-E 2, as CosyVoice runs it): draw from the nucleus of all ids; an id that occurs in the
recent window is drawn again from the full distribution. Every row has its own random key, so a row's reply does not
depend on the rows beside it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ieat_jax.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """Sampling of text tokens. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep every token."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        check_numbers("sampling: ", self)
        _check_range("temperature", self.temperature, self.temperature >= 0, "at least 0 (0 = greedy)")
        _check_range("top_k", self.top_k, self.top_k >= 0, "at least 0 (0 = no limit)")
        _check_range("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]")
        _check_range("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0 (1 = none)")


@dataclass(frozen=True)
class UnitSampling:
    """Repetition-aware sampling of speech units. `temperature` 0 is greedy; `window` 0 = no repetition check."""

    temperature: float = 0.0
    top_k: int = 25
    top_p: float = 0.8
    window: int = 10

    def __post_init__(self):
        check_numbers("sampling: unit ", self)
        _check_range("unit temperature", self.temperature, self.temperature >= 0, "at least 0 (0 = greedy)")
        _check_range("unit top_k", self.top_k, self.top_k >= 0, "at least 0 (0 = no limit)")
        _check_range("unit top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]")
        _check_range("unit window", self.window, self.window >= 0, "at least 0 (0 = no repetition check)")


def check_numbers(before: str, made: Any) -> None:
    """Refuse fields of a dataclass that are no numbers; those whose default is whole have to be so.

    Raises:
        UserError: names the field.
    """
    for item in dataclasses.fields(made):
        value, whole = getattr(made, item.name), isinstance(item.default, int)
        fits = isinstance(value, int | np.integer) or (isinstance(value, float | np.floating) and not whole)
        if isinstance(value, bool) or not fits:
            raise UserError(f"{before}{item.name} is {value!r:.40}; it must be a {'whole ' if whole else ''}number")


def _check_range(name: str, value: float, fine: bool, allowed: str) -> None:
    if not fine:
        raise UserError(f"sampling: {name} is {value}; it must be {allowed}")


def row_keys(seed: int, rows: jax.Array) -> jax.Array:
    """One key per row number [B], independent of how the rows are put into batches."""
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(rows)


def keep_nucleus(logits: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """[..., V] -> the same with all but the `top_k` best inside the `top_p` nucleus at -inf."""
    size = logits.shape[-1]
    if top_k == 0 and top_p >= 1.0:
        return logits
    top_k = size if top_k == 0 else min(top_k, size)
    best, _ = jax.lax.top_k(logits, top_k)
    inside = _inside_nucleus(jax.nn.softmax(best, axis=-1), top_p)
    lowest = jnp.min(jnp.where(inside, best, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= lowest, logits, -jnp.inf)


def _inside_nucleus(mass: jax.Array, top_p: float) -> jax.Array:
    """Probabilities [..., K], largest first -> which are of the smallest set that reaches `top_p`."""
    return jnp.cumsum(mass, axis=-1) - mass < top_p if top_p < 1.0 else jnp.ones(mass.shape, bool)


def _draw_unit(keys: jax.Array, logits: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Logits [B,U] -> ids [B] out of the `top_k` best, as far as they are inside the nucleus.

    The nucleus is that of all U ids, as CosyVoice draws: unlike in text, its mass is not that of the `top_k` alone. Of
    equal ids the lower ones are kept, so that there are never more than `top_k`.
    """
    size = logits.shape[-1]
    best, ids = jax.lax.top_k(logits, min(top_k, size) if top_k else size)
    mass = jnp.exp(best - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
    place = jax.vmap(jax.random.categorical)(keys, jnp.where(_inside_nucleus(mass, top_p), best, -jnp.inf))
    return jnp.take_along_axis(ids, place[:, None], axis=-1)[:, 0].astype(jnp.int32)


def penalise_seen(logits: jax.Array, seen: jax.Array, penalty: float) -> jax.Array:
    """Repetition penalty of CTRL: ids already `seen` [B,V] lose, whatever the sign of their logit."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def sample_text(keys: jax.Array, logits: jax.Array, seen: jax.Array | None, sampling: Sampling) -> jax.Array:
    """Logits [B,V] -> token ids [B]."""
    logits = logits.astype(jnp.float32)
    if sampling.repetition_penalty != 1.0:
        logits = penalise_seen(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = keep_nucleus(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def sample_units(
    keys: jax.Array, logits: jax.Array, recent: jax.Array, end_id: int, sampling: UnitSampling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits [B,4,U] and the last units [B,window] (-1 none) -> group [B,4] (-1 from the end on), ended [B], recent.

    Heads are read in order. Speech ends at the first head whose best id is an end id, or that samples one (`end_id`
    and above: they stand for no sound, so unlike the official decoder we also end when the lower of the two is
    sampled). Units before it are kept.
    """
    ended = jnp.zeros_like(logits[:, 0, 0], bool)
    group = []
    for head in range(logits.shape[1]):
        head_logits = logits[:, head].astype(jnp.float32)
        unit = jnp.argmax(head_logits, axis=-1).astype(jnp.int32)
        ended = ended | (unit >= end_id)
        if sampling.temperature > 0.0:
            head_logits = head_logits / sampling.temperature
            head_keys = jax.vmap(lambda key, head=head: jax.random.split(jax.random.fold_in(key, head)))(keys)
            unit = _draw_unit(head_keys[:, 0], head_logits, sampling.top_k, sampling.top_p)
            if sampling.window:
                again = jax.vmap(jax.random.categorical)(head_keys[:, 1], head_logits).astype(jnp.int32)
                unit = jnp.where((recent == unit[:, None]).any(axis=1), again, unit)
            ended = ended | (unit >= end_id)
        unit = jnp.where(ended, -1, unit)
        if sampling.window:
            recent = jnp.where(ended[:, None], recent, jnp.concatenate([recent[:, 1:], unit[:, None]], axis=1))
        group.append(unit)
    return jnp.stack(group, axis=1), ended, recent
