"""Devices that are not here, as their compilers describe them: libtpu's topologies, and hosts of GPUs."""

from __future__ import annotations

import os
from typing import Any

from ieat_jax.costs.hardware import Chip, TopologyError, chip_of

MEMORY_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # of a GPU's memory that JAX takes at start

# What XLA has to know of a GPU (GpuTargetConfigProto): an SXM board of compute capability 9.0.
HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 minor: 0 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{name}"
"""


def describe_topology(name: str, slices: int = 1) -> Any:
    """The devices of a topology, or of several slices of it: of a TPU's, or hosts of GPUs.

    Raises:
        TopologyError: unknown, or its compiler is not installed.
    """
    from jax.experimental import topologies

    chip = chip_of(name)
    if chip.gpu:
        target = HOPPER.format(bandwidth=int(chip.hbm_bandwidth), memory=chip.hbm, name=chip.name)
        shape = f"{slices}x1x{name.partition(':')[2]}"  # slices, hosts of a slice, devices of a host
        described = {"platform": "cuda", "target_config": target, "topology": shape}
    else:
        described = {"platform": "tpu"} | ({"num_slices": slices} if slices > 1 else {})
    extra, compiler = ("gpu", "GPU") if chip.gpu else ("tpu", "TPU")
    try:
        return topologies.get_topology_desc(topology_name=name, **described)
    except Exception as error:
        text = str(error).splitlines()[0]
        if any(word in text.lower() for word in ("libtpu", "plugin", "unknown backend", "not implemented")):
            raise TopologyError(
                f"--topology={name}: the {compiler} compiler is missing ({text}); install it: "
                f"pip install 'ieat_jax[{extra}]'"
            ) from error
        raise TopologyError(f"--topology={name}: the {compiler} compiler does not know this shape ({text})") from error


def compile_options(chip: Chip) -> dict[str, Any]:
    """Without a GPU no kernels can be tried out, so that cuBLAS takes all matrix products."""
    return {"xla_gpu_enable_triton_gemm": False} if chip.gpu else {}


def usable_memory(chip: Chip) -> float:
    """Bytes that a program may take; of a GPU, what JAX takes of it at start: three quarters unless told otherwise.

    Raises:
        TopologyError: the environment variable that tells it is not a number.
    """
    if not chip.gpu:
        return float(chip.hbm)
    share = os.environ.get(MEMORY_SHARE, "0.75")
    try:
        return chip.hbm * float(share)
    except ValueError as error:
        raise TopologyError(f"{MEMORY_SHARE}={share}: must be a number, the share of a GPU's memory to take") from error
