"""Named machines, and what a run needs to use one: a mesh, a batch, bfloat16 and recomputation."""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from ieat_jax.config.recipes import to_section
from ieat_jax.costs.hardware import MACHINES
from ieat_jax.errors import ConfigError
from ieat_jax.model.config import ModelConfig


def use_machine(config: ConfigDict, model: ModelConfig, machine: str, *, rows_per_device: int = 1) -> None:
    """Set `config.model`, mesh and batch for a run of `model` on `machine`; '' = whatever devices there are.

    Parameters are divided over as many devices as their widths allow, the rest are replicas.

    Raises:
        ConfigError: an unknown machine.
    """
    if machine and machine not in MACHINES:
        raise ConfigError(f"there are no settings for the machine {machine!r}, only for {', '.join(MACHINES)}")
    config.model = to_section(model)
    config.model.dtype = "bfloat16"
    config.model.remat = "attention"
    if not machine:
        return
    devices = MACHINES[machine]
    widths = (model.llm.width, model.listen.encoder.width, model.listen.adapter.conv_width)
    config.mesh.fsdp = math.gcd(devices, *widths)
    config.mesh.replica = devices // config.mesh.fsdp
    config.data.batch_size = devices * rows_per_device
