"""Losses that a user's own file adds to a stage: `config.objective.extra = (("configs/mine.py:calmness", 0.1),)`.

def calmness(model, batch, forward):
...
return total, weight  # a sum over whatever the loss counts, and how many that is
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ieat_jax.config.recipes import load_function
from ieat_jax.config.sections import ObjectiveConfig, Shapes
from ieat_jax.data.batch import Batch
from ieat_jax.errors import ConfigError, UserError
from ieat_jax.model.unified import UnifiedModel
from ieat_jax.objectives.losses import Sum


@dataclasses.dataclass(frozen=True)
class Forward:
    """What a stage has computed of a batch; None where it computes no such thing."""

    heard: tuple[jax.Array, jax.Array] | None = None  # align, joint: Listen's (audio [B, C, A, D], lengths [B, C])
    states: jax.Array | None = None  # Think's [B, T, D]
    written: jax.Array | None = None  # Write's after its norm [B, T, D]
    teacher: jax.Array | None = None  # align: the teacher's, as `written` [B, L, D]
    spoken: jax.Array | None = None  # joint, with Speak: Speak's [B, S, D]


Own = Callable[[UnifiedModel, Batch, Forward], Sum]
_CALL = "(model, batch, forward)"
# What training logs beside the losses: a loss of such a name would overwrite it.
LOGGED = (
    "step", "loss", "grad_norm", "learning_rate", "skipped", "skipped_steps", "bad_records", "step_seconds",
    "data_seconds", "compute_seconds", "tokens_per_second", "audio_seconds_per_second", "dialogues", "turns",
    "context_turns", "quarantined_turns", *(f"think_{mode}" for mode in ("explicit", "partial", "empty")),
    *(f"fill_{item.name}" for item in dataclasses.fields(Shapes)),
)  # fmt: skip


def own_losses(
    settings: ObjectiveConfig, stage: str, known: Collection[str]
) -> tuple[dict[str, Own], dict[str, float]]:
    """Return the functions of `config.objective.extra` by their names, and their factors; calling one checks it.

    `known`: names that the stage logs already.

    Raises:
        ConfigError: a file or function that is not there, one that cannot be called with (model, batch, forward), or a
            name that stands twice, is a factor of `config.objective`, or is logged already.
    """
    functions: dict[str, Own] = {}
    factors: dict[str, float] = {}
    taken = {*known, *LOGGED, *(item.name for item in dataclasses.fields(ObjectiveConfig))}
    for spec, factor in settings.extra:
        path, _, name = spec.rpartition(":")
        if name in functions:
            raise ConfigError(f"config.objective.extra: {name} stands twice; rename the function of {path}")
        if name in taken:
            raise ConfigError(
                f"config.objective.extra: {name} of {path}: training has a figure or a factor of that name already; "
                "rename the function"
            )
        functions[name] = _checked(load_function(path, name), path, name, stage)
        factors[name] = float(factor)
    return functions, factors


def own_contents(settings: ObjectiveConfig) -> dict[str, str]:
    """Return {FILE.py:NAME: a hash of what its file says}, of the files of `config.objective.extra`.

    A function may use all that stands beside it. Only `get_config` does not count, where the file is the recipe: what
    it returns is compared field by field.
    """
    return {spec: _content(Path(spec.rpartition(":")[0])) for spec, _ in settings.extra}


def _content(path: Path) -> str:
    content = path.read_bytes()
    lines = content.splitlines()
    for node in reversed(ast.parse(content).body):
        if isinstance(node, ast.FunctionDef) and node.name == "get_config":
            del lines[node.lineno - 1 : node.end_lineno]
    return hashlib.sha256(b"\n".join(filter(None, map(bytes.rstrip, lines)))).hexdigest()[:16]


def _checked(function: Callable[..., Any], path: str, name: str, stage: str) -> Own:
    """The function, with what it raises and returns checked: whatever is wrong with it is an error for people."""
    where = f"config.objective.extra: {path}: {name}"
    try:
        signature: Any = inspect.signature(function)
    except ValueError:  # what has no signature is called as it is
        signature = None
    try:
        if signature is not None:
            signature.bind(None, None, None)
    except TypeError as error:
        raise ConfigError(f"{where}{signature} has to take {_CALL}") from error

    def checked(model: UnifiedModel, batch: Batch, forward: Forward) -> Sum:
        try:
            value = function(model, batch, forward)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{where}{_line(path, error)}: {_said(error)}. {_usable(stage, forward)}") from error
        return _measured(where, value)

    return checked


def _line(path: str, error: BaseException) -> str:
    """Where in the file the error was raised: the last of its lines that took part."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == Path(path)]
    return f", line {lines[-1]}" if lines else ""


def _said(error: BaseException) -> str:
    """The first line of an error; JAX's go on for pages."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}".rstrip(".")


def _usable(stage: str, forward: Forward) -> str:
    """What a function may read of `forward` in a stage."""
    names = [item.name for item in dataclasses.fields(forward)]
    there = [name for name in names if getattr(forward, name) is not None]
    absent = [name for name in names if name not in there]
    return (
        f"In stage {stage} it may use forward.{', forward.'.join(there)}"
        + (f"; {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} None" if absent else "")
        + "; the model and the fields of the batch (ieat_jax/data/batch.py) are always there"
    )


def _measured(where: str, value: Any) -> Sum:
    """Check what a user's loss has returned: (sum, weight), two numbers.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)):
        return jnp.asarray(value[0], jnp.float32), jnp.asarray(value[1], jnp.float32)
    raise ConfigError(f"{where} returned {_shown(value)}; it has to return (sum, weight), two numbers")


def _is_number(value: Any) -> bool:
    if not isinstance(value, bool | int | float | np.ndarray | np.generic | jax.Array):
        return False
    return jnp.shape(value) == () and not jnp.issubdtype(jnp.result_type(value), jnp.complexfloating)


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        inside = ", ".join(map(_shown, value))
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, jax.Array):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    return f"{value!r:.80}"
