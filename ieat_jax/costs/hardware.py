"""The one table of hardware: chips and their peak rates, slices of Cloud TPUs, the machines that recipes name.

    python -m ieat_jax.costs.hardware slice v5e-256     # one line of words, for the launch scripts
    python -m ieat_jax.costs.hardware slices            # the line of every slice

A slice's line: its name, what Cloud TPU calls it, the software of its hosts, what GKE calls the chip, the topology, how
many hosts it has, and how many chips each of them. Launchers run where nothing is installed, so that this module and
all it imports need the standard library alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re

from ieat_jax.cli import exit_with, parser_of
from ieat_jax.errors import UserError

GIB = 1024**3
GPUS_OF_A_HOST = 8


class TopologyError(UserError):
    """A topology that is unknown or cannot be described on this machine."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device. Sources: cloud.google.com/tpu/docs, architecture page of each generation; NVIDIA's datasheets."""

    name: str
    flops: float  # bfloat16 FLOP/s, dense
    hbm: int  # bytes
    hbm_bandwidth: float  # bytes/s
    network: float  # bytes/s that leave a device over all its links to other chips; GPU: NVLink, one direction
    gpu: bool = False


# tpu7x: a chip is two devices, each with half of the chip's figures. GPUs: SXM boards, memory as the driver reports it.
CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 16 * GIB, 0.819e12, 200e9),
    "v5p": Chip("TPU v5p", 459e12, 95 * GIB, 2.765e12, 600e9),
    "v6e": Chip("TPU v6e", 918e12, 32 * GIB, 1.640e12, 448e9),
    "tpu7x": Chip("TPU7x", 1153.5e12, 96 * GIB, 3.69e12, 600e9),
    "h100": Chip("NVIDIA H100 80GB HBM3", 989e12, 84_942_979_072, 3.35e12, 450e9, gpu=True),
    "h200": Chip("NVIDIA H200 141GB HBM3e", 989e12, 151_397_597_184, 4.8e12, 450e9, gpu=True),
}


@dataclasses.dataclass(frozen=True)
class Generation:
    """How Google Cloud rents one generation of TPUs."""

    cloud: str  # accelerator type, without the number
    software: str  # runtime version of a TPU VM
    gke: str  # value of the node label cloud.google.com/gke-tpu-accelerator
    cores: int  # of a chip, where the number in a slice's name counts cores: 2, else 1
    largest_host: int  # chips of the largest single host; several hosts have four each
    topologies: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
    *("4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16", "16x16x24"),
)
GENERATIONS = {
    "v5e": Generation("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 1, 8, _FLAT),
    "v5p": Generation("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", 2, 4, _CUBES),
    "v6e": Generation("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", 1, 8, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A Cloud TPU slice that can be rented: chips joined by their own network."""

    chip: str  # a key of CHIPS
    topology: str  # such as 4x4x8

    @property
    def chips(self) -> int:
        """How many there are in the slice; each is one device to JAX."""
        return math.prod(map(int, self.topology.split("x")))

    @property
    def number(self) -> int:
        """What its name counts: chips, or cores."""
        return self.chips * GENERATIONS[self.chip].cores

    @property
    def name(self) -> str:
        """As recipes and launchers call it, such as v5p-256."""
        return f"{self.chip}-{self.number}"

    @property
    def hosts(self) -> int:
        """How many machines its chips sit in."""
        return 1 if self.chips <= GENERATIONS[self.chip].largest_host else self.chips // 4

    def line(self) -> str:
        """Its words for the launch scripts, as the text of this module lists them."""
        kind = GENERATIONS[self.chip]
        words = (self.name, f"{kind.cloud}-{self.number}", kind.software, kind.gke, self.topology, self.hosts)
        return " ".join(map(str, (*words, self.chips // self.hosts)))


SLICES = {
    one.name: one for chip, kind in GENERATIONS.items() for one in (Slice(chip, shape) for shape in kind.topologies)
}
# Machines for which recipes have settings, and how many devices each has.
MACHINES = {name: SLICES[name].chips for name in ("v5e-256", "v5p-128", "v6e-256")} | {"8xH100": GPUS_OF_A_HOST}


def chip_of(topology: str) -> Chip:
    """Return the chip of a topology's name, such as v5e:16x16 or h100:8.

    Raises:
        TopologyError: the name is not of that form, or of an unknown chip.
    """
    name, _, shape = topology.partition(":")
    chip = CHIPS.get(name)
    form = rf"[1-{GPUS_OF_A_HOST}]" if chip and chip.gpu else r"\d+(x\d+){1,2}"
    if chip is None or not re.fullmatch(form, shape):
        raise TopologyError(
            f"--topology={topology}: write CHIP:SHAPE with CHIP one of {', '.join(CHIPS)}, such as v5e:16x16, "
            f"v5p:4x4x4 or v6e:16x16; of GPUs, SHAPE is how many of one host's {GPUS_OF_A_HOST}, such as h100:8"
        )
    return chip


def slice_of(name: str) -> Slice:
    """Return the slice of a name, such as v5e-256.

    Raises:
        TopologyError: there is no such slice.
    """
    if name not in SLICES:
        raise TopologyError(f"--accelerator {name} is not known; one of: {' '.join(SLICES)}")
    return SLICES[name]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("costs.hardware", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("slice", help="the line of one slice").add_argument("name", help="such as v5e-256")
    commands.add_parser("slices", help="the line of every slice")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print lines of the table; returns the exit code."""
    arguments = _parser().parse_args(argv)
    chosen = [slice_of(arguments.name)] if arguments.command == "slice" else SLICES.values()
    print(*(each.line() for each in chosen), sep="\n")
    return 0


if __name__ == "__main__":
    exit_with(main)
