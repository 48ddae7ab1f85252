"""Datasheet figures of accelerators, per device as JAX counts devices."""

from __future__ import annotations

import dataclasses
import re

from ieat_jax.errors import UserError

GIB = 1024**3


class TopologyError(UserError):
    """A topology that is unknown or can not be described on this machine."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device. Sources: cloud.google.com/tpu/docs, system architecture pages of each generation."""

    name: str
    flops: float  # bfloat16 FLOP/s
    hbm: int  # bytes
    hbm_bandwidth: float  # bytes/s
    network: float  # bytes/s that leave a device over all its links to other chips


# tpu7x: a chip is two devices, each with half of the chip's figures.
CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 16 * GIB, 0.819e12, 200e9),
    "v5p": Chip("TPU v5p", 459e12, 95 * GIB, 2.765e12, 600e9),
    "v6e": Chip("TPU v6e", 918e12, 32 * GIB, 1.640e12, 448e9),
    "tpu7x": Chip("TPU7x", 1153.5e12, 96 * GIB, 3.69e12, 600e9),
}


def chip_of(topology: str) -> Chip:
    """The chip of a topology's name, such as v5e:16x16.

    Raises:
        TopologyError: the name is not of that form, or of an unknown chip.
    """
    found = re.fullmatch(r"(\w+):\d+(x\d+){1,2}", topology)
    if not found or found[1] not in CHIPS:
        raise TopologyError(
            f"--topology={topology}: write CHIP:SHAPE with CHIP one of {', '.join(CHIPS)}, such as v5e:16x16, "
            "v5p:4x4x4 or v6e:16x16"
        )
    return CHIPS[found[1]]
