"""Datasheet figures of accelerators, per device as JAX counts devices."""

from __future__ import annotations

import dataclasses
import re

from ieat_jax.errors import UserError

GIB = 1024**3


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
GPUS_OF_A_HOST = 8


def chip_of(topology: str) -> Chip:
    """The chip of a topology's name, such as v5e:16x16 or h100:8.

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
