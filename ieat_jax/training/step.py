"""One optimiser update: loss and gradients of what trains, over one or several micro-batches, then AdamW."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ieat_jax.data.batch import Batch
from ieat_jax.errors import ConfigError
from ieat_jax.model.partition import Arrays, join
from ieat_jax.model.sharding import array_spec, out_sharding
from ieat_jax.objectives.losses import Parts, total
from ieat_jax.objectives.stages import Objective
from ieat_jax.training.optimizer import OptimizerState, apply_gradients

Metrics = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What changes from step to step; frozen parameters stand beside it."""

    trainable: Arrays
    optimizer: OptimizerState


def compiler_options(lines: Sequence[str], mesh: jax.sharding.Mesh) -> dict[str, str]:
    """`config.train.compiler_options`, lines of name=value, as `jax.jit` takes them.

    Raises:
        ConfigError: an option that the compiler for the mesh's devices does not know.
    """
    options = dict(line.partition("=")[::2] for line in lines)
    probe = jax.jit(lambda: jnp.float32(0), out_shardings=jax.NamedSharding(mesh, jax.P()), compiler_options=options)
    try:
        if options:
            probe.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"config.train.compiler_options: {str(error).splitlines()[0]}") from error
    return options


def make_step(
    template: Any,
    objective: Objective,
    factors: Mapping[str, float],
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    options: Mapping[str, str] | None = None,
) -> Callable[[TrainState, Arrays, Batch], tuple[TrainState, Metrics]]:
    """The jitted function (state, frozen, batch) -> (state, metrics); the state is donated.

    `template`: the model's structure. With `accumulate` = n the batch is taken in n micro-batches one after the other,
    whose losses are divided by what the whole batch counts: as exact as one large batch. `options` are the compiler's.
    Metrics: 'parts' {name: (sum, weight)}, 'loss', and those of `apply_gradients`.
    """

    def loss(trainable: Arrays, frozen: Arrays, batch: Batch, weights: Any) -> tuple[jax.Array, Parts]:
        parts = objective(join(template, trainable, frozen), batch)
        return total(parts, factors, weights), parts

    def step(state: TrainState, frozen: Arrays, batch: Batch) -> tuple[TrainState, Metrics]:
        gradients = jax.value_and_grad(loss, has_aux=True)
        if accumulate == 1:
            (value, parts), grads = gradients(state.trainable, frozen, batch, None)
        else:
            micro = split_batch(batch, accumulate)
            # XLA drops all of this but the counting of what is supervised.
            counted = jax.lax.map(
                lambda part: _weights(objective(join(template, state.trainable, frozen), part)), micro
            )
            weights = jax.tree.map(lambda weight: jnp.sum(weight, axis=0), counted)

            def add(carry: Any, part: Batch) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, carry, gradients(state.trainable, frozen, part, weights)), None

            first = jax.tree.map(lambda x: x[0], micro)
            shapes = jax.eval_shape(gradients, state.trainable, frozen, first, weights)
            ((value, parts), grads), _ = jax.lax.scan(add, jax.tree.map(_zeros, shapes), micro)
        trainable, optimizer_state, info = apply_gradients(optimizer, grads, state.optimizer, state.trainable)
        return TrainState(trainable, optimizer_state), {"loss": value, "parts": parts, **info}

    return jax.jit(step, donate_argnums=0, compiler_options=dict(options or {}))


def _weights(parts: Parts) -> dict[str, jax.Array]:
    return {name: weight for name, (_, weight) in parts.items()}


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    layout = getattr(shape.sharding, "spec", None)
    return jnp.zeros(shape.shape, shape.dtype, out_sharding=None if layout is None else out_sharding(layout))


def split_batch(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; every device keeps its own rows."""

    def split(x: jax.Array) -> jax.Array:
        layout = array_spec(x)
        rows = jax.sharding.PartitionSpec(layout[0], None, *layout[1:])
        x = jnp.reshape(x, (x.shape[0] // count, count, *x.shape[1:]), out_sharding=out_sharding(rows))
        return jnp.moveaxis(x, 1, 0)

    return jax.tree.map(split, batch)
