"""Low-rank adapters next to linear kernels: add, strip (the teacher), merge (for export)."""

from __future__ import annotations

import functools
import math
import re
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from ieat_jax.model.config import LoraConfig, ModelConfigError
from ieat_jax.model.layers import Linear, normal
from ieat_jax.model.names import named_modules

Model = TypeVar("Model", bound=nnx.Module)


def copy(model: Model) -> Model:
    """The same arrays in new module objects."""
    return jax.tree.map(lambda x: x, model)


def add_lora(model: Model, config: LoraConfig, key: jax.Array) -> Model:
    """`model` with `lora_a` (random) and `lora_b` (zero) at every linear layer whose path matches `config.pattern`.

    Raises:
        ModelConfigError: the pattern matches nothing.
    """
    model = copy(model)
    linears = {path: layer for path, layer in named_modules(model).items() if isinstance(layer, Linear)}
    matched = {path: layer for path, layer in linears.items() if re.fullmatch(config.pattern, path)}
    if not matched:
        known = ", ".join(list(linears)[:3])
        raise ModelConfigError(
            f"config.model.lora.pattern: {config.pattern!r} matches no linear layer; layers are named like {known}"
        )
    for number, layer in enumerate(matched.values()):
        _adapt(layer, config, jax.random.fold_in(key, number))
    return model


def _adapt(layer: Linear, config: LoraConfig, key: jax.Array) -> None:
    inputs = len(layer.in_names)
    shape = layer.kernel.shape
    stacked = shape[: len(shape) - inputs - len(layer.out_names)]
    ins, outs = shape[len(stacked) : len(stacked) + inputs], shape[len(stacked) + inputs :]
    lead = (None,) * len(stacked)
    stddev = 1 / math.sqrt(math.prod(ins))
    layer.lora_a = normal(key, (*stacked, *ins, config.rank), (*lead, *layer.in_names, None), stddev)
    layer.lora_b = normal(key, (*stacked, config.rank, *outs), (*lead, None, *layer.out_names), 0.0)
    layer.lora_scale = config.alpha / config.rank


def strip_lora(model: Model) -> Model:
    """The same model without its LoRA parameters: what distillation takes as teacher."""
    model = copy(model)
    for layer in named_modules(model).values():
        if isinstance(layer, Linear):
            layer.lora_a, layer.lora_b = None, None
    return model


def merge_lora(model: Model) -> Model:
    """The same function without LoRA parameters: each kernel gets lora_scale * a b added."""
    model = copy(model)
    for layer in named_modules(model).values():
        if isinstance(layer, Linear) and layer.lora_a is not None:
            product = functools.partial(jnp.tensordot, axes=1)
            if layer.kernel.ndim > len(layer.in_names) + len(layer.out_names):
                product = jax.vmap(product)
            update = product(layer.lora_a.get_value(), layer.lora_b.get_value())
            layer.kernel = nnx.Param(layer.kernel.get_value() + layer.lora_scale * update)
            layer.lora_a, layer.lora_b = None, None
    return model
