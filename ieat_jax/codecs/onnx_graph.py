"""How many codes a speech tokenizer's ONNX graph tells apart, read from its file without the onnx package.

A vector quantiser takes the nearest of its codebook: ArgMax over the products with every code. A scalar quantiser (FSQ)
counts in a number system: the sum of its digits times 1, L, L^2, ...
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

WALK = 64  # nodes that are looked at from the output backwards
SMALL = 4096  # bytes of a tensor whose numbers are read
_FLOAT, _INT32, _INT64, _DOUBLE = 1, 6, 7, 11  # TensorProto.DataType


@dataclasses.dataclass(frozen=True)
class _Tensor:
    dims: tuple[int, ...]
    values: tuple[float, ...]  # of small ones


@dataclasses.dataclass(frozen=True)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    transposed: bool  # Gemm's transB
    constant: _Tensor | None


def codebook_size(path: str | Path) -> int | None:
    """The number of codes of a tokenizer's graph, None where it cannot be told."""
    try:
        nodes, tensors, outputs = _graph(Path(path).read_bytes())
    except (ValueError, IndexError, KeyError, TypeError, struct.error):  # not what it should be: nothing is known
        return None
    makers = {name: node for node in nodes for name in node.outputs}
    tensors |= {node.outputs[0]: node.constant for node in nodes if node.constant is not None}
    nearest = next((node for node in _backwards(outputs[:1], makers) if node.kind in ("ArgMax", "ArgMin")), None)
    if nearest is not None:
        for node in _backwards(nearest.inputs, makers):
            if node.kind in ("MatMul", "Gemm") and (size := _codes(node, makers, tensors)):
                return size
        return None
    for node in _backwards(outputs[:1], makers):
        if node.kind in ("Mul", "MatMul"):
            for name in node.inputs:
                if size := _count(_values(name, makers, tensors)):
                    return size
    return None


def _values(name: str, makers: dict[str, _Node], tensors: dict[str, _Tensor]) -> tuple[float, ...]:
    """The numbers of a tensor, perhaps behind nodes that leave them as they are or raise a base to them."""
    if name in tensors:
        return tensors[name].values
    node = makers.get(name)
    if node is not None and node.kind in ("Cast", "Identity", "Reshape", "Unsqueeze"):
        return _values(node.inputs[0], makers, tensors)
    if node is not None and node.kind == "Pow":
        base, powers = (_values(each, makers, tensors) for each in node.inputs)
        return tuple(base[0] ** power for power in powers) if len(base) == 1 else ()
    return ()


def _codes(node: _Node, makers: dict[str, _Node], tensors: dict[str, _Tensor]) -> int | None:
    """Columns of the matrix that a product is made with."""
    name, transposed = node.inputs[1], node.transposed
    if name not in tensors and name in makers and makers[name].kind == "Transpose":
        name, transposed = makers[name].inputs[0], not transposed
    dims = tensors[name].dims if name in tensors else ()
    return dims[0 if transposed else 1] if len(dims) == 2 else None


def _count(values: tuple[float, ...]) -> int | None:
    """The numbers that digits with the weights 1, L, L^2, ... can write."""
    if len(values) < 2 or values[0] != 1 or values[1] < 2:
        return None
    base = values[1]
    fits = all(value == base**place for place, value in enumerate(values))
    return int(base ** len(values)) if fits else None


def _backwards(names: tuple[str, ...], makers: dict[str, _Node]) -> Iterator[_Node]:
    """The nodes that something is made by, nearest first."""
    waiting, seen = list(names), set()
    while waiting and len(seen) < WALK:
        name = waiting.pop(0)
        if name in seen or name not in makers:
            continue
        seen.add(name)
        yield makers[name]
        waiting += makers[name].inputs


def _graph(data: bytes) -> tuple[list[_Node], dict[str, _Tensor], tuple[str, ...]]:
    """(nodes, tensors by name, names of the outputs) of a ModelProto."""
    nodes, tensors, outputs = [], {}, []
    for field, value in _fields(memoryview(data)):
        if field != 7:
            continue
        for inner, content in _fields(value):
            if inner == 1:
                nodes.append(_node(content))
            elif inner == 5:
                name, tensor = _tensor(content)
                tensors[name] = tensor
            elif inner == 12:
                outputs += [bytes(text).decode() for number, text in _fields(content) if number == 1]
    return nodes, tensors, tuple(outputs)


def _node(data: memoryview) -> _Node:
    inputs, outputs, kind, transposed, constant = [], [], "", False, None
    for field, value in _fields(data):
        if field in (1, 2, 4):
            text = bytes(value).decode()
            inputs += [text] * (field == 1)
            outputs += [text] * (field == 2)
            kind = text if field == 4 else kind
        elif field == 5:
            attribute = dict(_fields(value))
            transposed |= bytes(attribute[1]) == b"transB" and bool(attribute.get(3))
            constant = _tensor(attribute[5])[1] if 5 in attribute else constant
    return _Node(kind, tuple(inputs), tuple(outputs), transposed, constant if kind == "Constant" else None)


def _tensor(data: memoryview) -> tuple[str, _Tensor]:
    name, dims, kind, values, raw = "", [], 0, [], None
    for field, value in _fields(data):
        if field == 1:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif field == 2:
            kind = value
        elif field in (5, 7):
            values += [value] if isinstance(value, int) else _varints(value) if len(value) <= SMALL else []
        elif field == 4 and not isinstance(value, int) and len(value) <= SMALL:
            values += [number for (number,) in struct.iter_unpack("<f", value)]
        elif field == 8:
            name = bytes(value).decode()
        elif field == 9 and len(value) <= SMALL:
            raw = value
    if raw is not None:
        letter = {_FLOAT: "f", _INT32: "i", _INT64: "q", _DOUBLE: "d"}.get(kind)
        values = [number for (number,) in struct.iter_unpack(f"<{letter}", raw)] if letter else []
    return name, _Tensor(tuple(dims), tuple(values))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of every field of a protobuf message; a fixed-size one as its bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        match key & 7:
            case 0:
                value, place = _varint(data, place)
            case 1 | 5 as size:
                size = 8 if size == 1 else 4
                value, place = data[place : place + size], place + size
            case 2:
                size, place = _varint(data, place)
                value, place = data[place : place + size], place + size
            case wire:
                raise ValueError(f"wire type {wire}")
        if place > len(data):
            raise ValueError("cut off")
        yield key >> 3, value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, place
        shift += 7


def _varints(data: memoryview) -> list[int]:
    values, place = [], 0
    while place < len(data):
        value, place = _varint(data, place)
        values.append(value)
    return values
