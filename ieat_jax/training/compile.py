"""Compile a run's training step for a topology, and say what one device of it would hold, do and send."""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ieat_jax.config.sections import RunConfig
from ieat_jax.costs.flops import compiled_flops, traced_flops
from ieat_jax.costs.hardware import GIB, Chip, TopologyError, chip_of
from ieat_jax.costs.hlo import HloError, Module
from ieat_jax.costs.topology import MEMORY_SHARE, compile_options, describe_topology, usable_memory
from ieat_jax.costs.traffic import Collective, collectives, hbm_bytes
from ieat_jax.model.sharding import make_mesh
from ieat_jax.training.abstract import AbstractStep, abstract_step
from ieat_jax.training.console import working
from ieat_jax.training.placement import check_batch
from ieat_jax.training.setup import sequences

EVERYTHING_AT_ONCE = 2**30  # positions in a chunk of losses: nothing is recomputed


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one device and one step; bytes, FLOPs and seconds."""

    topology: str
    slices: int
    chip: Chip
    mesh: dict[str, int]
    stage: str
    rows: float  # of the batch, per device
    tokens: int  # of a row
    parameters: float  # trainable and frozen
    optimizer: float
    batch: float
    fits: bool
    problem: str = ""  # what the compiler says if it does not fit
    peak: float | None = None  # of HBM; None = it does not fit
    model_flops: float = 0.0  # that the mathematics asks for
    flops: float = 0.0  # that the program does, recomputation included
    moved: float = 0.0  # to and from HBM
    collectives: tuple[Collective, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def state(self) -> float:
        """Parameters and optimiser state."""
        return self.parameters + self.optimizer

    @property
    def activations(self) -> float | None:
        """Peak without parameters, optimiser state and batch: activations, gradients, gathered parameters."""
        return None if self.peak is None else self.peak - self.state - self.batch

    @property
    def useful(self) -> float:
        """Model FLOPs as a share of all."""
        return self.model_flops / self.flops if self.flops else 0.0

    @property
    def bounds(self) -> dict[str, float]:
        """Least seconds that each resource needs by the datasheet: no step is faster than the largest."""
        return {
            "compute": self.flops / self.chip.flops,
            "memory": self.moved / self.chip.hbm_bandwidth,
            "network": sum(one.sent for one in self.collectives if not self.crosses(one)) / self.chip.network,
        }

    def crosses(self, collective: Collective) -> bool:
        """Whether it goes between slices, over the data centre's network, whose speed no datasheet gives."""
        return self.slices > 1 and "replica" in collective.axes

    @property
    def mfu_bound(self) -> float:
        """Model FLOPs of a step that takes as long as its largest bound, as a share of the chip's peak."""
        longest = max(self.bounds.values())
        return self.model_flops / self.chip.flops / longest if longest else 0.0

    def traffic(self) -> dict[tuple[str, str], float]:
        """Bytes per (kind, mesh axes)."""
        found: dict[tuple[str, str], float] = {}
        for one in self.collectives:
            key = (one.kind, "+".join(one.axes) + (" (between slices)" if self.crosses(one) else ""))
            found[key] = found.get(key, 0.0) + one.total
        return dict(sorted(found.items()))

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        plain = {
            name: getattr(self, name)
            for name in ("topology", "slices", "mesh", "stage", "rows", "tokens", "fits", "problem")
        }
        memory = {
            "hbm": self.chip.hbm,
            "peak": self.peak,
            "parameters": self.parameters,
            "optimizer": self.optimizer,
            "batch": self.batch,
            "activations": self.activations,
        }
        if not self.fits:
            return plain | {"bytes": memory, "advice": list(self.advice)}
        return plain | {
            "bytes": memory,
            "model_flops": self.model_flops,
            "flops": self.flops,
            "useful_share": self.useful,
            "collective_bytes": {f"{kind} {axes}": size for (kind, axes), size in self.traffic().items()},
            "bound_seconds": self.bounds,
            "mfu_bound": self.mfu_bound,
        }


def check(config: RunConfig, topology: str, *, slices: int = 1, rows_per_device: int | None = None) -> Costs:
    """Compile the step of `config` for `topology`, or for as many slices of it.

    `rows_per_device` replaces `config.data.batch_size` by as many rows on every device (and micro-batch).

    Raises:
        UserError: an unknown topology, a mesh, batch or size that does not fit it, or a program that is not understood.
    """
    usable = usable_memory(chip_of(topology))
    mesh = make_mesh(config.mesh, describe_topology(topology, slices).devices)
    if rows_per_device is not None:
        rows = rows_per_device * mesh.shape["replica"] * mesh.shape["fsdp"] * config.train.accumulate
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=rows))
    check_batch(config.data.batch_size, config.train.accumulate, sequences(config), mesh)
    with jax.set_mesh(mesh):
        with working(f"{topology}: tracing the step", _note):
            step = abstract_step(config, mesh)
            costs = _known_before(config, topology, slices, mesh, step)
            lowered = step.function.lower(*step.arguments)
        try:
            with working(f"{topology}: compiling the step", _note):
                compiled = lowered.compile(compiler_options=compile_options(costs.chip))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise TopologyError(f"--topology={topology}: the compiler failed: {str(error)[:500]}") from error
            return dataclasses.replace(costs, problem=_shortage(str(error)), advice=advice(config, costs))
        with working(f"{topology}: counting what the model asks for", _note):
            asked = _model_flops(config, mesh)
    peak = float(compiled.memory_analysis().peak_memory_in_bytes)
    if peak > usable:  # a GPU's compiler does not mind
        problem = (
            f"needs {peak / GIB:.2f} GiB, and JAX takes {usable / GIB:.2f} of the GPU's {costs.chip.hbm / GIB:.0f}"
        )
        more = (f"{MEMORY_SHARE}=0.9 in the environment lets JAX take more",) if peak < 0.9 * costs.chip.hbm else ()
        return dataclasses.replace(costs, problem=problem, advice=(*more, *advice(config, costs)))
    try:
        module = Module(compiled.as_text())
        return dataclasses.replace(
            costs,
            fits=True,
            peak=peak,
            model_flops=asked / mesh.size,
            flops=compiled_flops(module),
            moved=hbm_bytes(module),
            collectives=tuple(collectives(module, mesh.shape)),
        )
    except HloError as error:
        raise HloError(
            f"--topology={topology}: the step compiles and needs {peak / GIB:.2f} GiB of HBM, but no other figure can "
            f"be given, because the compiled program is not understood ({error}). This version of the compiler writes "
            "it in another way: take what `pip install 'ieat_jax[tpu]'` or, for GPUs, `[gpu]` brings, or report this"
        ) from error


def _note(text: str) -> None:
    """A line that is no result."""
    print(text, file=sys.stderr, flush=True)


def _known_before(config: RunConfig, topology: str, slices: int, mesh: Mesh, step: AbstractStep) -> Costs:
    return Costs(
        topology=topology,
        slices=slices,
        chip=chip_of(topology),
        mesh=dict(mesh.shape),
        stage=config.stage,
        rows=config.data.batch_size / (mesh.shape["replica"] * mesh.shape["fsdp"]),
        tokens=config.data.shapes.tokens,
        parameters=_bytes_per_device((step.state.trainable, step.frozen)),
        optimizer=_bytes_per_device(step.state.optimizer),
        batch=_bytes_per_device(step.batch),
        fits=False,
    )


def _bytes_per_device(tree: Any) -> float:
    return float(
        sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    )


def _model_flops(config: RunConfig, mesh: Mesh) -> float:
    """FLOPs of the same step with nothing computed twice, over all devices."""
    plain = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, remat="none", attention="xla"),
        objective=dataclasses.replace(config.objective, chunk=EVERYTHING_AT_ONCE),
        train=dataclasses.replace(config.train, accumulate=1, compiler_options=()),  # nothing is compiled
    )
    step = abstract_step(plain, mesh)
    return traced_flops(step.function, *step.arguments)


def _shortage(text: str) -> str:
    """The compiler's own figures."""
    found = re.search(r"Used [\d.]+\w? of [\d.]+\w? hbm[^.]*", text)
    return found[0] if found else text.splitlines()[0][:200]


def advice(config: RunConfig, costs: Costs) -> tuple[str, ...]:
    """What to change, the most useful first, when a step does not fit."""
    found = []
    accumulate = config.train.accumulate
    if costs.state > 0.8 * costs.chip.hbm:
        found.append(
            f"parameters and optimiser state alone take {costs.state / GIB:.1f} GiB of {costs.chip.hbm / GIB:.0f}: "
            "divide them further (raise config.mesh.fsdp or config.mesh.tensor), use more devices, or train less "
            "(config.optimizer.rules, config.model.lora.rank)"
        )
    if costs.rows / accumulate > 1:
        found.append(
            f"each device takes {costs.rows / accumulate:g} rows at a time: raise config.train.accumulate "
            f"(now {accumulate}), which gives the same update, or lower config.data.batch_size"
        )
    stronger = {"none": "dots", "dots": "attention", "attention": "full", "full": "offload"}.get(config.model.remat)
    if stronger:
        found.append(f"config.model.remat={stronger!r} (now {config.model.remat!r}) keeps fewer activations")
    if config.objective.chunk > 256:
        found.append(f"config.objective.chunk=256 (now {config.objective.chunk}) holds fewer logits at a time")
    if config.mesh.context == 1:
        found.append("config.mesh.context=2 divides the tokens of a row over two devices")
    found.append(f"shorter rows: config.data.shapes.tokens (now {costs.tokens}), clips, teacher_tokens and speak")
    return tuple(found)


def _figure(value: float) -> str:
    """Three digits, without an exponent above a thousand."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def format_costs(costs: Costs) -> str:
    """Costs as a few lines to read."""
    mesh = " ".join(f"{axis}={size}" for axis, size in costs.mesh.items() if size > 1) or "one device"
    rows = f"{costs.rows:g} row{'' if costs.rows == 1 else 's'} of {costs.tokens} tokens per device"
    head = f"{costs.topology}  stage {costs.stage}, mesh {mesh}, {rows}"
    kept = (
        f"parameters {costs.parameters / GIB:.2f}, optimiser {costs.optimizer / GIB:.2f}, batch {costs.batch / GIB:.2f}"
    )
    if costs.peak is None:
        lines = [head, f"  does not fit: {costs.problem}", f"  GiB per device    {kept}"]
        return "\n".join(lines + [f"  try: {line}" for line in costs.advice])
    traffic = ", ".join(f"{kind} over {axes} {_figure(size / 1e9)}" for (kind, axes), size in costs.traffic().items())
    bounds = ", ".join(f"{name} {_figure(seconds)}" for name, seconds in costs.bounds.items())
    return "\n".join(
        [
            head,
            f"  HBM peak          {costs.peak / GIB:.2f} of {costs.chip.hbm / GIB:.0f} GiB: {kept}, "
            f"activations {costs.activations / GIB:.2f}",
            f"  TFLOP             {_figure(costs.flops / 1e12)}, of which the model's own "
            f"{_figure(costs.model_flops / 1e12)} ({costs.useful:.0%} useful)",
            f"  collectives, GB   {traffic or 'none'}",
            f"  HBM traffic, GB   {_figure(costs.moved / 1e9)}",
            f"  least seconds     {bounds}",
            f"  MFU bound         {costs.mfu_bound:.0%}",
        ]
    )
