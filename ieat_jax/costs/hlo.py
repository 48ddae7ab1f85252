"""The text of an optimised HLO module as computations and instructions, and how often each computation runs.

A loop's body is written once and runs many times, which XLA's own cost analysis does not see: everything here is
multiplied by trip counts, which are read off the loops' conditions.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

from ieat_jax.errors import UserError

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "token": 0, "opaque": 0}  # others: the number in the name / 8

CUBLAS = 'custom_call_target="__cublas$'  # in the text of a GPU's matrix product

_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations)=\{?%([\w.\-]+)")


class HloError(UserError):
    """Text that is not understood: a figure made of it would be wrong."""


@dataclasses.dataclass(frozen=True)
class Array:
    """Type of one array."""

    dtype: str
    shape: tuple[int, ...]
    in_hbm: bool  # False: in on-chip memory (S(1)) or elsewhere

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Without the padding of tiles."""
        width = BYTES.get(self.dtype)
        if width is None:
            digits = re.search(r"\d+", self.dtype)
            width = int(digits[0]) / 8 if digits else 0
        return self.size * width


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of the result; several for a tuple
    operands: tuple[str, ...]
    text: str  # all after the operands
    root: bool
    inside: str = ""  # between the operands' brackets: the value of a constant, the number of a parameter

    @property
    def called(self) -> tuple[str, ...]:
        """Names of computations that it calls."""
        return tuple(_CALLED.findall(self.text))

    def attribute(self, name: str) -> str | None:
        """Text of `name=...` up to the next comma or space."""
        found = re.search(rf"\b{name}=([^\s,]+)", self.text)
        return found[1] if found else None

    @property
    def scope(self) -> str:
        """Where in the program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""


class Module:
    """Computations by name, each a dictionary of instructions in order."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] | None = None
        for line in _joined(text):
            if line.startswith(("%", "ENTRY ")) and line.endswith("{"):
                name = line.removeprefix("ENTRY ").removeprefix("%").split(" ", 1)[0]
                current = self.computations.setdefault(name, {})
                if line.startswith("ENTRY "):
                    self.entry = name
            elif current is not None and (found := _INSTRUCTION.match(line)):
                instruction = _instruction(found[2], found[3], root=bool(found[1]))
                current[instruction.name] = instruction
        if not self.entry:
            raise HloError("no ENTRY computation in the compiled program")

    def root(self, computation: str) -> Instruction:
        """The instruction whose value a computation returns."""
        return next(item for item in self.computations[computation].values() if item.root)

    def runs(self) -> Iterator[tuple[Instruction, str, int]]:
        """(instruction, its computation, how often it runs) of all that run by themselves: not inside a fusion.

        Raises:
            HloError: a loop whose trip count cannot be read, or a conditional.
        """
        stack = [(self.entry, 1)]
        while stack:
            name, times = stack.pop()
            for item in self.computations[name].values():
                yield item, name, times
                if item.opcode == "while":
                    condition, body = item.attribute("condition"), item.attribute("body")
                    trips = self.trip_count(item, name, condition.lstrip("%"))
                    stack.append((body.lstrip("%"), times * trips))
                elif item.opcode == "conditional":
                    raise HloError(f"{item.name}: how often each branch of a conditional runs cannot be read")
                elif item.opcode in ("call", "async-start"):
                    stack += [(called, times) for called in item.called]

    def trip_count(self, loop: Instruction, computation: str, condition: str) -> int:
        """How often a counting loop runs.

        Raises:
            HloError: the loop does not count from a constant to a constant.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text)
        if known:
            return int(known[1])
        items = self.computations[condition]
        test = self.root(condition)
        if test.opcode != "compare" or "direction=LT" not in test.text:
            raise HloError(f"loop {loop.name}: its condition is not `counter < constant`")
        limits = [items[name] for name in test.operands if items[name].opcode == "constant"]
        counters = [items[name] for name in test.operands if items[name].opcode == "get-tuple-element"]
        if len(limits) != 1 or len(counters) != 1:
            raise HloError(f"loop {loop.name}: its condition does not compare a counter with a constant")
        start = self._start(loop, computation, int(counters[0].attribute("index")))
        return int(limits[0].inside) - start

    def _start(self, loop: Instruction, computation: str, index: int) -> int:
        """First value of a loop's counter."""
        items = self.computations[computation]
        value = items[loop.operands[0]]
        if value.opcode == "tuple":
            value = items[value.operands[index]]
        while value.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
            value = items[value.operands[0]]
        if value.opcode != "constant":
            raise HloError(f"loop {loop.name}: its counter does not begin with a constant but with {value.opcode}")
        return int(value.inside)


def _joined(text: str) -> Iterator[str]:
    """Lines of a module; what continues an instruction (a kernel's metadata) is put on its line."""
    whole = ""
    for line in text.splitlines():
        begins = line.startswith(("  %", "  ROOT %", "%", "ENTRY ", "}", "HloModule")) or not line
        if begins:
            if whole:
                yield whole
            whole = line
        else:
            whole += " " + line.strip()
    if whole:
        yield whole


def _instruction(name: str, rest: str, *, root: bool) -> Instruction:
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    types, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    close = _closing(f"({rest}") - 1
    inside, tail = rest[:close], rest[close + 1 :]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, opcode.strip(), arrays_of(types), operands, tail, root, inside)


def _closing(text: str) -> int:
    """Where the bracket that `text` begins with is closed."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place
    raise HloError(f"a bracket is not closed: {text[:80]}")


def arrays_of(types: str) -> tuple[Array, ...]:
    """The arrays of an HLO type."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(types):
        shape = tuple(int(size) for size in dims.split(",") if size)
        found.append(Array(dtype, shape, in_hbm=re.search(r"S\(\d+\)", layout) is None))
    return tuple(found)
