"""What a compiled program moves: collectives by kind and mesh axes, and bytes to and from HBM."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

import numpy as np

from ieat_jax.costs.hlo import CUBLAS, Array, HloError, Instruction, Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
START = "AsyncCollectiveStart"
SCATTER = "all-reduce-scatter"  # a TPU's fused reduce-scatter: an all-reduce of which each device keeps its part

# Opcodes that move nothing by themselves.
STILL = frozenset(
    """
    parameter tuple get-tuple-element bitcast constant while conditional call after-all partition-id replica-id
    copy-done slice-done async-start async-update async-done all-gather-done all-reduce-done reduce-scatter-done
    all-to-all-done collective-permute-done opt-barrier domain
    """.split()  # noqa: SIM905
)
SLICES = ("dynamic-slice", "slice", "gather")
PASSING = ("tuple", "bitcast", "get-tuple-element", "custom-call", *KINDS)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program, per device."""

    kind: str
    axes: tuple[str, ...]  # mesh axes that it goes over
    group: int  # devices that take part
    bytes: float  # all-gather: of its result; others: of its operand
    times: int  # in one run of the program
    asynchronous: bool  # other work goes on meanwhile

    @property
    def total(self) -> float:
        """Bytes in one run of the program."""
        return self.bytes * self.times

    @property
    def sent(self) -> float:
        """Bytes that leave a device in one run, over rings: Patarasuk and Yuan, 2009."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return factor * self.total


def collectives(module: Module, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """Every collective, with the mesh axes its groups span.

    Raises:
        HloError: groups in a form that is not known.
    """
    found = []
    for inner, times, asynchronous in _instances(module):
        kind = next(kind for kind in KINDS if inner.opcode.startswith(kind))
        scatter = kind == "all-reduce" and SCATTER in f"{inner.name} {inner.text}"
        group = first_group(inner.text)
        axes = axes_of(group, mesh_shape)
        if len(group) > 1:
            size = sum(array.bytes for array in _results(inner))
            if kind == "reduce-scatter":
                size *= len(group)
            found.append(Collective("reduce-scatter" if scatter else kind, axes, len(group), size, times, asynchronous))
    return found + list(_between_slices(module, mesh_shape))


def _between_slices(module: Module, mesh_shape: Mapping[str, int]) -> Iterator[Collective]:
    """What goes over the data centre's network: on a TPU, sends to the host that carry the collective's name."""
    for item, _, times in module.runs():
        kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', item.text) if item.opcode == "send" else None
        if kind:
            name = kind[1].lower().replace("_", "-")
            yield Collective(name, ("replica",), mesh_shape["replica"], item.arrays[0].bytes, times, True)


def _instances(module: Module) -> Iterator[tuple[Instruction, int, bool]]:
    """(collective, times, asynchronous), each once although a TPU spreads one over several fusions."""
    started = set()
    for item, computation, _ in module.runs():
        for name in item.called if item.opcode == "fusion" else ():
            if any(START in inner.text for inner in module.computations[name].values()):
                started |= {(computation, inner.attribute("channel_id")) for inner in _collectives(module, name)}
    for item, computation, times in module.runs():
        if _is_collective(item):
            started_early = item.opcode.endswith("-start") and '"is_sync":true' not in item.text
            yield item, times, started_early or "async_collective_name" in item.text
        for name in item.called if item.opcode == "fusion" else ():
            starts = any(START in inner.text for inner in module.computations[name].values())
            for inner in _collectives(module, name):
                if starts or (computation, inner.attribute("channel_id")) not in started:
                    marked = dataclasses.replace(inner, text=f"{inner.text} {item.name} {name}")
                    yield marked, times, starts


def _is_collective(item: Instruction) -> bool:
    return item.opcode in KINDS or item.opcode in {f"{kind}-start" for kind in KINDS}


def _results(item: Instruction) -> tuple[Array, ...]:
    """Without what else stands in a result: the operands, beside those of a collective that has only been started."""
    if item.opcode.endswith("-start") and len(item.arrays) > len(item.operands):
        return item.arrays[len(item.operands) : 2 * len(item.operands)]
    if CUBLAS in item.text:
        return item.arrays[:1]  # the other is room to work in
    return item.arrays


def _collectives(module: Module, computation: str) -> list[Instruction]:
    return [item for item in module.computations[computation].values() if _is_collective(item)]


def first_group(text: str) -> list[int]:
    """Devices of a collective's first group, as numbers in the mesh's order.

    Raises:
        HloError: the groups are written in another form.
    """
    pairs = re.search(r"source_target_pairs=\{\{([\d,{}]+)\}\}", text)
    if pairs:
        return [int(number) for number in pairs[1].split("},{")[0].split(",")]
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    if listed:
        return [int(number) for number in listed[1].split(",")]
    folded = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if folded:
        numbers = np.arange(int(folded[1]) * int(folded[2])).reshape(_ints(folded[3]))
        numbers = numbers.transpose(_ints(folded[4])) if folded[4] else numbers
        return numbers.reshape(int(folded[1]), int(folded[2]))[0].tolist()
    order = r"(?:, device_ids=\(\[([\d,]+)\]T\(([\d,]+)\)\))?"
    named = re.search(rf"replica_groups=mesh\[([^\]]*)\]{order} ?\{{([^}}]*)\}}", text)
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        over = re.findall(r"'(\w+)'", named[4])
        if ":" not in named[4] and set(over) <= set(sizes):
            numbers = np.arange(int(np.prod(list(sizes.values()))))
            if named[2]:
                numbers = numbers.reshape(_ints(named[2])).transpose(_ints(named[3]))
            numbers = numbers.reshape(list(sizes.values()))
            return numbers[tuple(slice(None) if name in over else 0 for name in sizes)].ravel().tolist()
    raise HloError(f"the groups of a collective are not understood: {text[:200]}")


def _ints(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def axes_of(group: list[int], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Mesh axes along which the devices of a group differ."""
    at = np.stack(np.unravel_index(group, tuple(mesh_shape.values())))
    return tuple(axis for axis, row in zip(mesh_shape, at, strict=True) if len(set(row.tolist())) > 1)


def hbm_bytes(module: Module) -> float:
    """Bytes that one device reads from and writes to HBM in one run, on-chip memory left out.

    Counted per instruction as in XLA's own cost analysis: what a fusion takes a slice of counts as that slice, what it
    updates in place as the update.
    """
    return sum(times * _moved(module, item, name) for item, name, times in module.runs())


def _moved(module: Module, item: Instruction, computation: str) -> float:
    if item.opcode in STILL:
        return 0.0
    operands = [module.computations[computation][name] for name in item.operands]
    if item.opcode == "fusion":
        return _fusion_bytes(module, item, operands)
    written = _bytes(_results(item))
    if item.opcode in SLICES:
        return 2 * written
    if item.opcode in ("dynamic-update-slice", "scatter"):
        return 2 * _bytes(operands[-1 if item.opcode == "scatter" else 1].arrays)
    if item.opcode in ("copy-start", "slice-start"):  # (destination, source, context): what lies in HBM of the two
        read = _bytes(operands[0].arrays) if item.opcode == "copy-start" else _bytes(item.arrays[:1])
        return read + _bytes(item.arrays[:1])
    return written + sum(_bytes(operand.arrays) for operand in operands)


def _bytes(arrays: tuple[Array, ...]) -> float:
    return sum(array.bytes for array in arrays if array.in_hbm)


def _fusion_bytes(module: Module, item: Instruction, operands: list[Instruction]) -> float:
    inner = module.computations[item.called[0]]
    users: dict[str, list[Instruction]] = {}
    for one in inner.values():
        for name in one.operands:
            users.setdefault(name, []).append(one)
    total = 0.0
    for parameter in (one for one in inner.values() if one.opcode == "parameter"):
        operand = operands[int(parameter.inside)]
        total += _read(parameter, operand, users.get(parameter.name, []))
    root = next(one for one in inner.values() if one.root)
    parts = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    outputs = item.arrays if len(item.arrays) == len(parts) else (item.arrays[0],) * len(parts)
    return total + sum(_written(inner, part, output) for part, output in zip(parts, outputs, strict=True))


def _read(parameter: Instruction, operand: Instruction, users: list[Instruction]) -> float:
    if not all(array.in_hbm for array in operand.arrays[:1]):
        return 0.0
    if users and all(user.opcode in SLICES and user.operands[0] == parameter.name for user in users):
        return sum(array.bytes for user in users for array in user.arrays)
    in_place = ("dynamic-update-slice", *PASSING)
    if all(user.opcode in in_place and user.operands[0] == parameter.name for user in users):
        return 0.0
    return _bytes(operand.arrays)


def _written(inner: Mapping[str, Instruction], part: Instruction, output: Array) -> float:
    while part.opcode in ("bitcast", "convert", "copy") and part.operands:
        part = inner[part.operands[0]]
    if not output.in_hbm or part.opcode in ("parameter", "custom-call"):
        return 0.0
    if part.opcode == "dynamic-update-slice":
        return sum(array.bytes for array in inner[part.operands[1]].arrays)
    return output.bytes
