"""Losses that a user's own file adds to a stage: `config.objective.extra = (("configs/mine.py:calmness", 0.1),)`.

def calmness(model, batch, forward):
...
return total, weight  # a sum over whatever the loss counts, and how many that is
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ieat_jax.config.recipes import failed, load_function
from ieat_jax.config.sections import ObjectiveConfig
from ieat_jax.data.batch import Batch
from ieat_jax.errors import ConfigError
from ieat_jax.model.unified import UnifiedModel
from ieat_jax.objectives.losses import Sum


@dataclasses.dataclass(frozen=True)
class Forward:
    """What a stage has computed of a batch; None where it computes no such thing."""

    heard: tuple[jax.Array, jax.Array] | None = None  # Listen's (audio [B, C, A, D], lengths [B, C])
    states: jax.Array | None = None  # Think's [B, T, D]
    written: jax.Array | None = None  # Write's after its norm [B, T, D]
    teacher: jax.Array | None = None  # the teacher's, as `written` [B, L, D]
    spoken: jax.Array | None = None  # Speak's [B, S, D]


Own = Callable[[UnifiedModel, Batch, Forward], Any]


def own_losses(settings: ObjectiveConfig, known: Collection[str]) -> tuple[dict[str, Own], dict[str, float]]:
    """Return the functions of `config.objective.extra` by their names, and their factors.

    Raises:
        ConfigError: a file or function that is not there, or a name that stands twice or is one of `known`.
    """
    functions: dict[str, Own] = {}
    factors: dict[str, float] = {}
    for spec, factor in settings.extra:
        path, _, name = spec.rpartition(":")
        if name in known or name in functions:
            raise ConfigError(f"config.objective.extra: there is a loss {name} already; rename the function of {path}")
        functions[name] = _in_sentences(path, load_function(path, name))
        factors[name] = float(factor)
    return functions, factors


def _in_sentences(path: str, function: Own) -> Own:
    """The function, whose mistakes name its file and line: they are the user's to correct."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise failed(Path(path), error) from error

    return call


def measured(name: str, value: Any) -> Sum:
    """Check what a user's loss has returned: (sum, weight), two numbers.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, tuple) or [jnp.shape(part) for part in value] != [(), ()]:
        raise ConfigError(
            f"config.objective.extra: {name} returned {value!r}; it must return (sum, weight), two numbers"
        )
    return jnp.asarray(value[0], jnp.float32), jnp.asarray(value[1], jnp.float32)
