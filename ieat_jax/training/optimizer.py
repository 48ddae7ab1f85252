"""The optimiser: which parameters train by regex, AdamW over those alone, and steps that skip non-finite gradients.

Trainable parameters, gradients and optimiser state are flat dictionaries by parameter name. A frozen parameter has
neither gradient nor state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from ieat_jax.config.sections import OptimizerConfig
from ieat_jax.model.partition import Arrays


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Return the learning rate of update 0, 1, ...: warm-up, then the schedule, which ends at `total_steps`.

    A warm-up that would take more than half of the run takes half of it.
    """
    warmup = min(config.warmup_steps, total_steps // 2)
    peak, rest = config.learning_rate, total_steps - warmup
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, config.final_fraction),
        "linear": lambda: optax.linear_schedule(peak, peak * config.final_fraction, rest),
    }[config.schedule]()
    # The first update of a warm-up has a learning rate above 0: (step + 1) / warmup_steps.
    warm = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([warm, after], [warmup]) if warmup else after


class OptimizerState(NamedTuple):
    """Optax's state for the trainable parameters, and the count of skipped steps."""

    inner: optax.OptState
    bad_steps: jax.Array  # int32: steps skipped so far
    bad_in_a_row: jax.Array  # int32: of those, since the last good one


def make_optimizer(
    config: OptimizerConfig, total_steps: int, trainable: Iterable[str]
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW with clipping, and its schedule. `trainable` are names; parameters are dictionaries with these keys.

    Its state is an `OptimizerState`. Make it with `init_state` and step with `apply_gradients`, which skips non-finite
    gradients.
    """
    names = list(trainable)
    schedule = make_schedule(config, total_steps)
    # The rules were checked by `split` against all parameters; here a rule may well match none of the trainable.
    scale = {name: next(value for rule, value in config.rules if re.fullmatch(rule, name)) for name in names}
    decayed = {name: not re.fullmatch(config.no_decay, name) for name in names}
    parts = [
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, decayed) if config.weight_decay else optax.identity(),
        optax.stateless(lambda updates, _: {name: scale[name] * update for name, update in updates.items()}),
        optax.scale_by_learning_rate(schedule),
    ]
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    chain = optax.chain(clip, *parts)  # `updates_done` reads the second state

    def init(parameters: Arrays) -> OptimizerState:
        return OptimizerState(chain.init(parameters), jnp.int32(0), jnp.int32(0))

    def update(grads: Arrays, state: OptimizerState, parameters: Arrays) -> tuple[Arrays, OptimizerState]:
        updates, inner = chain.update(grads, state.inner, parameters)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformation(init, update), schedule


def apply_gradients(
    optimizer: optax.GradientTransformation, grads: Arrays, state: OptimizerState, parameters: Arrays
) -> tuple[Arrays, OptimizerState, dict[str, jax.Array]]:
    """One update under jit: (parameters, state, {'grad_norm', 'skipped', 'bad_in_a_row'}).

    If the gradient is not finite anywhere, parameters and optimiser state stay the same bits, and the step is counted.
    """
    norm = optax.tree.norm(grads)
    good = jnp.isfinite(norm)
    updates, new = optimizer.update(grads, state, parameters)
    chosen, inner = jax.tree.map(
        lambda after, before: jnp.where(good, after, before),
        (optax.apply_updates(parameters, updates), new.inner),
        (parameters, state.inner),
    )
    bad = 1 - good.astype(jnp.int32)
    state = OptimizerState(inner, state.bad_steps + bad, (state.bad_in_a_row + 1) * bad)
    info = {"grad_norm": norm, "skipped": bad, "bad_in_a_row": state.bad_in_a_row}
    return chosen, state, info


def too_many_bad_steps(state: OptimizerState, config: OptimizerConfig) -> bool:
    """Whether training should stop: `max_bad_steps` steps in a row had a non-finite gradient. Waits for the device."""
    return int(state.bad_in_a_row) >= config.max_bad_steps


def updates_done(state: OptimizerState) -> jax.Array:
    """int32: updates applied so far, which is where the schedule stands; skipped steps do not count."""
    return state.inner[1].count


def abstract_state(optimizer: optax.GradientTransformation, parameters: Mapping[str, Any]) -> OptimizerState:
    """Shapes of the state for (abstract) parameters; moments lie as their parameters, scalars on all devices."""
    shapes = jax.eval_shape(optimizer.init, dict(parameters))
    scalar = _replicated(next(iter(parameters.values())).sharding)

    def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = getattr(path[-1], "key", None)
        sharding = parameters[name].sharding if name in parameters else scalar
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, shapes)


def _replicated(sharding: Sharding) -> Sharding:
    return NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding


def init_state(optimizer: optax.GradientTransformation, parameters: Arrays) -> OptimizerState:
    """The state before the first update. Without explicit shardings jit would put the moments on one device."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(optimizer, parameters))
    return jax.jit(optimizer.init, out_shardings=shardings)(parameters)
