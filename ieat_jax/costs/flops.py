"""FLOPs: of a traced function (what the mathematics asks for) and of a compiled program (what the device does)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ieat_jax.costs.hlo import CUBLAS, Array, HloError, Instruction, Module, arrays_of
from ieat_jax.model.attention import CAUSAL_SCOPE

KERNEL = "tpu_custom_call"
CUDNN = 'custom_call_target="__cudnn$'  # in the text of a GPU's attention kernel; another of cuDNN's is refused
CONVOLUTION = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


def traced_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of all matrix products of `function`, over all devices; causal attention counts as half of its square.

    Arguments may be abstract. What `jax.checkpoint` recomputes is counted when it is in the function: trace one that
    recomputes nothing for the FLOPs that the mathematics asks for.
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _jaxpr_flops(jaxpr: Any) -> float:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        inner = math.prod(equation.invars[0].aval.shape[dim] for dim in contract)
        causal = 0.5 if CAUSAL_SCOPE in str(equation.source_info.name_stack) else 1.0
        return 2.0 * causal * inner * math.prod(equation.outvars[0].aval.shape)
    if name == "scan":
        return params["length"] * _jaxpr_flops(params["jaxpr"].jaxpr)
    if name == "cond":
        return max(_jaxpr_flops(branch.jaxpr) for branch in params["branches"])
    if name in ("while", "conv_general_dilated", "pallas_call"):
        raise NotImplementedError(f"FLOPs of {name} are not counted; trace the function with plain XLA attention")
    times = math.prod(params["mesh"].shape.values()) if name == "shard_map" else 1
    return times * sum(_jaxpr_flops(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> list[Any]:
    """Jaxprs that an equation runs once: of jit, remat, custom derivatives."""
    found = [params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in params]
    return [getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in found]


def compiled_flops(module: Module) -> float:
    """FLOPs of matrix products and attention kernels of one device in one run of the program."""
    return sum(times * _instruction_flops(module, item, name) for item, name, times in module.runs())


def _instruction_flops(module: Module, item: Instruction, computation: str) -> float:
    if item.opcode == "fusion":
        return sum(
            _instruction_flops(module, inner, called)
            for called in item.called
            for inner in module.computations[called].values()
        )
    if item.opcode == "convolution":
        return _convolution_flops(item, *_types(module, computation, item))
    if item.opcode == "dot":
        return _dot_flops(item, *_types(module, computation, item))
    if item.opcode == "custom-call":
        if KERNEL in item.text:
            return _kernel_flops(item)
        if CUBLAS in item.text:
            return _cublas_flops(item, *_types(module, computation, item))
        if CUDNN in item.text:
            return _cudnn_flops(item, *_types(module, computation, item))
    return 0.0


def _types(module: Module, computation: str, item: Instruction) -> list[Array]:
    return [module.computations[computation][name].arrays[0] for name in item.operands[:2]]


def _dot_flops(item: Instruction, left: Array, right: Array) -> float:
    del right
    contract = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", item.text)
    dims = [int(dim) for dim in contract[1].split(",") if dim] if contract else []
    return 2.0 * item.arrays[0].size * math.prod(left.shape[dim] for dim in dims)


def _cublas_flops(item: Instruction, left: Array, right: Array) -> float:
    del right
    contract = re.search(r'"lhs_contracting_dimensions":\[([\d",]*)\]', item.text)
    if contract is None:
        raise HloError(f"matrix product {item.name} does not say what it contracts")
    return 2.0 * item.arrays[0].size * math.prod(left.shape[int(dim)] for dim in re.findall(r"\d+", contract[1]))


def _cudnn_flops(item: Instruction, queries: Array, keys: Array) -> float:
    """Of flash attention: two products over [rows, heads, queries, keys] forward, five backward."""
    del keys
    scores = re.search(r'"intermediate_tensor_shape".*?"dimensions": ?\[([\d", ]+)\]', item.text)
    if scores is None:
        raise HloError(f"attention kernel {item.name} does not say the shape of its scores")
    half = 0.5 if re.search(r'"mask_type": ?"(PADDING_)?CAUSAL"', item.text) else 1.0
    products = 5 if "Backward" in item.attribute("custom_call_target") else 2
    return 2.0 * half * products * math.prod(map(int, re.findall(r"\d+", scores[1]))) * queries.shape[-1]


def _convolution_flops(item: Instruction, left: Array, right: Array) -> float:
    """A TPU's matrix products are convolutions, whose batch dimensions are windows that lie mostly in the padding."""
    labels = CONVOLUTION.search(item.text)
    if not labels:
        raise HloError(f"convolution {item.name} has no dim_labels")
    lhs, rhs, out = labels.groups()
    window = _window(item.text)
    flops = 2.0 * left.shape[lhs.index("b")] * right.shape[rhs.index("i")] * item.arrays[0].shape[out.index("f")]
    for number in range(len(window.get("size", ()))):
        dim = str(number)
        taps, size = right.shape[rhs.index(dim)], left.shape[lhs.index(dim)]
        flops *= _valid_taps(item.arrays[0].shape[out.index(dim)], taps, size, window, number)
    return flops / int(item.attribute("batch_group_count") or 1)


def _window(text: str) -> dict[str, list[tuple[int, ...]]]:
    found = re.search(r"window=\{([^}]*)\}", text)
    parts = (part.split("=") for part in found[1].split()) if found else ()
    return {name: [tuple(map(int, one.split("_"))) for one in value.split("x")] for name, value in parts}


def _valid_taps(count: int, taps: int, size: int, window: dict[str, list[tuple[int, ...]]], dim: int) -> int:
    """Pairs of (output position, tap) that read an element rather than padding or the holes of a dilation."""

    def field(name: str, default: int) -> int:
        return window[name][dim][0] if name in window else default

    stride, hole, spread, pad = field("stride", 1), field("lhs_dilate", 1), field("rhs_dilate", 1), field("pad", 0)
    at = np.arange(count)[:, None] * stride + np.arange(taps)[None] * spread - pad
    return int(((at >= 0) & (at <= (size - 1) * hole) & (at % hole == 0)).sum())


def _kernel_flops(item: Instruction) -> float:
    """Of a splash attention kernel: products over [queries, keys], half of them behind a causal mask.

    Forward: q k and p v. Of the backward pass, `dq`: q k, do v, ds k; `dkv`: q k, do v, p do, ds q.
    """
    operands = item.text.partition("operand_layout_constraints=")[2].partition("frontend_attributes")[0]
    heads = [(1, *array.shape)[-4:] for array in arrays_of(operands) if array.dtype in ("bf16", "f32")]
    name = item.name
    if not name.startswith("splash_mha") or len(heads) < 3:
        raise HloError(f"the FLOPs of kernel {name} are not known")
    (rows, count, queries, wide), (_, _, keys, _), (*_, narrow) = heads[:3]
    products = {"fwd": (1, 1), "dkv": (2, 2), "dq": (2, 1)}
    kind = next((kind for kind in products if f"_{kind}" in name), None)
    if kind is None:
        raise HloError(f"the FLOPs of kernel {name} are not known")
    with_keys, with_values = products[kind]
    half = 0.5 if CAUSAL_SCOPE in item.scope else 1.0
    return 2.0 * half * rows * count * queries * keys * (with_keys * wide + with_values * narrow)
