"""Losses over a vocabulary, in chunks of positions: full logits never exist, neither student's nor teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ieat_jax.data.batch import END_OF_TURN, FORMAT, NUM_KINDS, RESPONSE, SEGMENT_KINDS
from ieat_jax.model.attention import whole
from ieat_jax.model.sharding import also, array_spec, current_mesh, lay, without

# A loss is the sum over what it counts, and how much it counted: accumulation and padding stay exact.
Sum = tuple[jax.Array, jax.Array]
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


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """[..., V] float32 and ids [...] -> [...]; targets of -1 give the loss of no class in particular: mask them."""
    picked = jax.lax.broadcasted_iota(jnp.int32, (1,) * (logits.ndim - 1) + logits.shape[-1:], logits.ndim - 1)
    chosen = jnp.sum(jnp.where(picked == targets[..., None], logits, 0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def kl_divergence(teacher: jax.Array, student: jax.Array, temperature: float) -> jax.Array:
    """KL(teacher || student) of softmax(logits / temperature), [..., V] -> [...]; no factor T^2 (Ultravox)."""
    log_p = jax.nn.log_softmax(teacher / temperature, axis=-1)
    log_q = jax.nn.log_softmax(student / temperature, axis=-1)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def chunked_losses(
    to_logits: Callable[[jax.Array], jax.Array],
    student: jax.Array,
    targets: jax.Array,
    teacher: jax.Array | None,
    *,
    teacher_logits: Callable[[jax.Array], jax.Array] | None = None,
    temperature: float,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and distillation loss at every position.

    Args:
        to_logits: states [B, r, D] -> float32 logits [B, r, ..., V]; its parameters gathered beforehand.
        student: states [B, R, D].
        targets: ids [B, R, ...], -1 = none.
        teacher: states [B, R, D], None = no distillation.
        teacher_logits: `to_logits` of the teacher if it differs.
        temperature: of the distillation.
        chunk: positions whose logits exist at a time.

    Returns:
        (CE, KL), both float32 [B, R, ...]; KL is zero without a teacher.
    """
    shape = targets.shape
    student, targets, teacher = spread(student), spread(targets), None if teacher is None else spread(teacher)
    size = student.shape[1]
    chunk = min(chunk, size)

    def losses(student: jax.Array, targets: jax.Array, *teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = to_logits(student)
        ce = cross_entropy(logits, targets)
        if not teacher:
            return ce, jnp.zeros_like(ce)
        taught = jax.lax.stop_gradient((teacher_logits or to_logits)(teacher[0]))
        return ce, kl_divergence(taught, logits, temperature)

    if chunk < size:  # logits are computed anew in the backward pass, so that none outlive their chunk
        losses = jax.checkpoint(losses)
    inputs = (student, targets) if teacher is None else (student, targets, jax.lax.stop_gradient(teacher))
    whole = size // chunk * chunk

    def cut(x: jax.Array) -> jax.Array:
        return jnp.stack([x[:, first : first + chunk] for first in range(0, whole, chunk)])

    outputs = []
    if whole // chunk == 1:
        outputs.append(losses(*(x[:, :whole] for x in inputs)))
    elif whole:
        ce, kl = jax.lax.map(lambda chunks: losses(*chunks), tuple(map(cut, inputs)))
        outputs += [(ce[i], kl[i]) for i in range(whole // chunk)]
    if whole < size:
        outputs.append(losses(*(x[:, whole:] for x in inputs)))
    ce, kl = (collect(jnp.concatenate(arrays, axis=1), shape) for arrays in zip(*outputs, strict=True))
    return ce, kl


def spread(x: jax.Array) -> jax.Array:
    """[B, R, ...] -> [B * n, R / n, ...] for n devices on the context axis: each gets a part of the positions.

    Without this all of them would compute the same logits. Unchanged where n does not divide R.
    """
    mesh = current_mesh()
    parts = 1 if mesh is None else mesh.shape["context"]
    if parts == 1 or x.shape[1] % parts:
        return x
    rows, rest = array_spec(x)[0], (None,) * (x.ndim - 1)
    x = lay(x, PartitionSpec(rows, *rest))
    shape = (x.shape[0] * parts, x.shape[1] // parts, *x.shape[2:])
    x = jnp.reshape(x, shape, out_sharding=PartitionSpec(rows, *rest))
    return lay(x, PartitionSpec(also(rows, "context"), *rest))


def collect(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`spread`'s inverse for values of `shape` [B, R, ...]."""
    if x.shape == shape:
        return x
    layout = PartitionSpec(without(array_spec(x), "context")[0], *(None,) * (x.ndim - 1))
    return jnp.reshape(lay(x, layout), shape, out_sharding=layout)


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
