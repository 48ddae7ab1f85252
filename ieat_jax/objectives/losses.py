"""Losses over a vocabulary, in chunks of positions: full logits never exist, neither student's nor teacher's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ieat_jax.data.batch import END_OF_TURN, FORMAT, NUM_KINDS, RESPONSE, SEGMENT_KINDS
from ieat_jax.model.sharding import Divided, array_spec, current_mesh, lay, spec, whole

# A loss is the sum over what it counts, and how much it counted: accumulation and padding stay exact.
Sum = tuple[jax.Array, jax.Array]
Losses = tuple[jax.Array, jax.Array]  # (CE, KL) of every position
Arrays = tuple[jax.Array, ...]
Parts = dict[str, Sum]


def kind_table(segments: Mapping[str, float], *, form: float, response: float, end: float) -> jax.Array:
    """Weight of every kind of supervised token, float32 [NUM_KINDS]."""
    table = [0.0] * NUM_KINDS
    for segment, kind in SEGMENT_KINDS.items():
        table[kind] = float(segments[segment])
    table[FORMAT], table[RESPONSE], table[END_OF_TURN] = float(form), float(response), float(end)
    return jnp.asarray(table, jnp.float32)


def look_up(table: jax.Array, kinds: jax.Array) -> jax.Array:
    """`table[kinds]` for a small table, as a comparison: partitions over any mesh."""
    return jnp.sum(jnp.where(kinds[..., None] == jnp.arange(table.shape[0]), table, 0), axis=-1)


def weighted(values: jax.Array, weights: jax.Array) -> Sum:
    """(sum of values x weights, sum of weights); a value whose weight is 0 may be anything finite."""
    return jnp.sum(values * weights), jnp.sum(weights)


def cross_entropy(logits: jax.Array, targets: jax.Array, over: str | None = None) -> jax.Array:
    """[..., V] float32 and ids [...] -> [...]; targets of -1 give the loss of no class in particular: mask them.

    `over`: the mesh axis that V is divided over, inside `jax.shard_map` (Shoeybi et al. 2019, section 3).
    """
    first = 0 if over is None else jax.lax.axis_index(over) * logits.shape[-1]
    picked = jax.lax.broadcasted_iota(jnp.int32, (1,) * (logits.ndim - 1) + logits.shape[-1:], logits.ndim - 1) + first
    chosen = _sum(jnp.where(picked == targets[..., None], logits, 0), over)
    return _log_sum_exp(logits, over) - chosen


def kl_divergence(teacher: jax.Array, student: jax.Array, temperature: float, over: str | None = None) -> jax.Array:
    """KL(teacher || student) of softmax(logits / temperature), [..., V] -> [...]; no factor T^2 (Ultravox)."""
    teacher, student = teacher / temperature, student / temperature
    log_p = teacher - _log_sum_exp(teacher, over)[..., None]
    log_q = student - _log_sum_exp(student, over)[..., None]
    return _sum(jnp.exp(log_p) * (log_p - log_q), over)


def _sum(values: jax.Array, over: str | None) -> jax.Array:
    """Over the last dimension and the devices along `over`."""
    own = jnp.sum(values, axis=-1)
    return own if over is None else jax.lax.psum(own, over)


def _log_sum_exp(logits: jax.Array, over: str | None) -> jax.Array:
    if over is None:
        return jax.nn.logsumexp(logits, axis=-1)
    largest = jax.lax.pmax(jnp.max(jax.lax.stop_gradient(logits), axis=-1), over)
    return largest + jnp.log(_sum(jnp.exp(logits - largest[..., None]), over))


def chunked_losses(
    to_logits: Callable[[jax.Array, jax.Array], jax.Array],
    head: Divided,
    student: jax.Array,
    targets: jax.Array,
    teacher: jax.Array | None,
    *,
    temperature: float,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and distillation loss at every position.

    Args:
        to_logits: (states [B, r, D], gathered head) -> float32 logits [B, r, ..., V].
        head: the parameter that makes logits of states.
        student: states [B, R, D].
        targets: ids [B, R, ...], -1 = none.
        teacher: states [B, R, D], None = no distillation.
        temperature: of the distillation.
        chunk: positions of a device whose logits exist at a time.

    Returns:
        (CE, KL), both float32 [B, R, ...]; KL is zero without a teacher.
    """
    over = "tensor" if current_mesh() is not None and "vocab" in head.names else None

    def losses(head: jax.Array, student: jax.Array, targets: jax.Array, *teacher: jax.Array) -> Losses:
        logits = to_logits(student, head)
        ce = cross_entropy(logits, targets, over)
        if not teacher:
            return ce, jnp.zeros_like(ce)
        taught = jax.lax.stop_gradient(to_logits(teacher[0], head))
        return ce, kl_divergence(taught, logits, temperature, over)

    inputs = (student, targets) if teacher is None else (student, targets, jax.lax.stop_gradient(teacher))

    def in_chunks(head: jax.Array, *inputs: jax.Array) -> Losses:
        return losses(head, *inputs) if inputs[0].shape[1] <= chunk else _in_chunks(losses, chunk, head, *inputs)

    return _on_own_positions(in_chunks, head, inputs)


def _on_own_positions(function: Callable[..., Losses], head: Divided, inputs: Arrays) -> Losses:
    """`function(gathered head, *inputs)`, each device for its own part of the positions of inputs [B, R, ...].

    A device adds up the gradient of the head by itself over all chunks; then the devices' are summed and divided at
    once. Positions that do not divide over the mesh's context axis are computed by all devices along it.
    """
    mesh = current_mesh()
    if mesh is None:
        return function(head.gather(), *inputs)
    divides = inputs[0].shape[1] % mesh.shape["context"] == 0
    layout, afterwards = spec("batch", "sequence" if divides else None), array_spec(inputs[1])

    def run(part: jax.Array, *inputs: jax.Array) -> Losses:
        return function(head.gather_manually(part, ("replica", "context") if divides else ("replica",)), *inputs)

    layouts = (spec(*head.names), *(layout,) * len(inputs))
    mapped = jax.shard_map(run, in_specs=layouts, out_specs=(layout, layout))
    inputs = tuple(lay(x, PartitionSpec(*layout, *(None,) * (x.ndim - 2))) for x in inputs)
    ce, kl = mapped(head.cast(), *inputs)
    return lay(ce, afterwards), lay(kl, afterwards)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_chunks(losses: Callable[..., Losses], chunk: int, head: jax.Array, *inputs: jax.Array) -> Losses:
    """`losses(head, *inputs)` for arrays [B, R, ...], `chunk` positions at a time.

    Differentiable in the head and the first input. The backward pass computes logits anew: none outlive their chunk.
    """
    chunks, rest = _cut(inputs, chunk)
    ce, kl = _join(jax.lax.map(lambda arrays: losses(head, *arrays), chunks), losses(head, *rest) if rest else None)
    return ce, kl


def _in_chunks_forward(losses: Callable[..., Losses], chunk: int, head: jax.Array, *inputs: jax.Array) -> Any:
    return _in_chunks(losses, chunk, head, *inputs), (head, inputs)


def _in_chunks_backward(losses: Callable[..., Losses], chunk: int, saved: Any, cotangents: Losses) -> Any:
    head, inputs = saved

    def add(so_far: jax.Array, arrays: Arrays) -> tuple[jax.Array, Arrays]:
        states, *constant, ce, kl = arrays
        pull = jax.vjp(lambda head, states: losses(head, states, *constant), head, states)[1]
        of_head, of_states = pull((ce, kl))
        return so_far + of_head, (of_states,)

    chunks, rest = _cut((*inputs, *cotangents), chunk)
    # Plain zeros need nothing, so that a TPU's scheduler allocates them, as large as the head, before all else.
    of_head, of_chunks = jax.lax.scan(add, 0 * head, chunks)
    of_rest = None
    if rest:
        of_head, of_rest = add(of_head, rest)
    return of_head, *_join(of_chunks, of_rest), *(None for _ in inputs[1:])


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)


def _cut(arrays: Arrays, chunk: int) -> tuple[Arrays, Arrays | None]:
    """Arrays [B, R, ...] -> (whole chunks [n, B, chunk, ...], what is left [B, R % chunk, ...] or None)."""
    rows, size = arrays[0].shape[:2]
    end = size // chunk * chunk
    chunks = tuple(jnp.reshape(x[:, :end], (rows, end // chunk, chunk, *x.shape[2:])) for x in arrays)
    rest = tuple(x[:, end:] for x in arrays) if end < size else None
    return tuple(jnp.swapaxes(x, 0, 1) for x in chunks), rest


def _join(chunks: Arrays, rest: Arrays | None) -> Arrays:
    """`_cut` undone."""
    wholes = tuple(jnp.reshape(jnp.swapaxes(x, 0, 1), (x.shape[1], -1, *x.shape[3:])) for x in chunks)
    return wholes if rest is None else tuple(jnp.concatenate(pair, axis=1) for pair in zip(wholes, rest, strict=True))


def total(parts: Parts, factors: Mapping[str, float], weights: Mapping[str, jax.Array] | None = None) -> jax.Array:
    """Sum of factor x (sum / weight) over the parts that have a factor.

    `weights`: divide by these instead of the parts' own, which makes losses of several batches add up to that of all.
    """
    value = jnp.float32(0)
    for name, factor in factors.items():
        if factor and name in parts:
            amount, weight = parts[name]
            weight = weight if weights is None else weights[name]
            value += factor * amount / jnp.maximum(weight, 1e-9)
    return value


def segment_report(values: jax.Array, kinds: jax.Array) -> Parts:
    """Loss of each kind of think segment by itself, unweighted, for the log."""
    return {f"ce_{name}": weighted(values, (kinds == kind).astype(jnp.float32)) for name, kind in SEGMENT_KINDS.items()}


def pooled(states: jax.Array, groups: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Mean of states [B, T, D] over each group of `groups` [B, T] (0..count-1, -1 = none).

    Returns:
        (means float32 [B, K, D], whether the group has any member [B, K]).
    """
    states, groups = whole(states), whole(groups)
    member = (groups[:, None] == jnp.arange(count)[None, :, None]).astype(jnp.float32)
    sums = jnp.einsum("bkt,btd->bkd", member, states.astype(jnp.float32))
    sizes = jnp.sum(member, axis=-1)
    return sums / jnp.maximum(sizes, 1)[..., None], sizes > 0


def class_loss(logits: jax.Array, labels: jax.Array, present: Any = True) -> Sum:
    """Cross-entropy of logits [..., classes] where labels [...] are among the classes and `present` holds."""
    counts = (labels >= 0) & (labels < logits.shape[-1]) & present
    return weighted(cross_entropy(logits.astype(jnp.float32), labels), counts.astype(jnp.float32))
