"""A run in shapes alone: model, optimiser state and batch as they would lie on a mesh, without a number in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.config.sections import RunConfig
from ieat_jax.data.arrays import empty_row
from ieat_jax.data.batch import Batch
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.partition import Arrays, split
from ieat_jax.model.sharding import placed
from ieat_jax.objectives.stages import make_objective, stage_of
from ieat_jax.training.optimizer import abstract_state, make_optimizer
from ieat_jax.training.placement import batch_spec
from ieat_jax.training.rows import layout_options, row_shapes
from ieat_jax.training.step import TrainState, compiler_options, make_step


def abstract_batch(config: RunConfig, mesh: Mesh) -> Batch:
    """A batch of a run's configuration; `config.model.speak.enabled` decides whether stage joint has units in it."""
    listen = config.model.listen
    speaks = stage_of(config).speaks and config.model.speak.enabled
    shapes = row_shapes(config, layout_options(config, unit_end=0 if speaks else None))
    row = empty_row(shapes, frames=round(listen.clip_seconds * FRAMES_PER_SECOND), mels=listen.encoder.num_mels)
    fields = {}
    for name in Batch.__dataclass_fields__:
        value = getattr(row, name)
        shape = (config.data.batch_size, *np.shape(value))
        fields[name] = placed(jax.ShapeDtypeStruct(shape, value.dtype), NamedSharding(mesh, batch_spec(name, shape)))
    return Batch(**fields)


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """The training step of a run and its arguments."""

    function: Callable[..., Any]  # (state, frozen, batch) -> (state, metrics), jitted
    state: TrainState
    frozen: Arrays
    batch: Batch

    @property
    def arguments(self) -> tuple[TrainState, Arrays, Batch]:
        """Of the function, in order."""
        return self.state, self.frozen, self.batch


def abstract_step(config: RunConfig, mesh: Mesh) -> AbstractStep:
    """The step that `training.loop` would run for this configuration on this mesh, which need not be of this machine.

    Raises:
        UserError: a size that does not divide over the mesh, or a mistake in the configuration.
    """
    objective, factors = make_objective(config)
    model = abstract_model(config.model, mesh)
    trainable, frozen = split(model, config.optimizer.rules)
    optimizer, _ = make_optimizer(config.optimizer, config.train.steps, trainable)
    with jax.set_mesh(mesh):
        state = TrainState(trainable, abstract_state(optimizer, trainable))
    options = compiler_options(config.train.compiler_options, mesh)
    function = make_step(model, objective, factors, optimizer, accumulate=config.train.accumulate, options=options)
    return AbstractStep(function, state, frozen, abstract_batch(config, mesh))
