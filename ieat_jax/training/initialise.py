"""A run's first parameters: from an earlier stage, from public weights, by copy, and the declared rest at random.

Loading comes first, then only what is missing is initialised. A parameter that is neither loaded nor declared new is an
error that names it, because a model that quietly starts from random numbers looks like a model that learns badly.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from ieat_jax.config.sections import RunConfig
from ieat_jax.errors import UserError
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.lora import merge_lora
from ieat_jax.model.names import map_named, named_leaves
from ieat_jax.model.partition import multipliers
from ieat_jax.model.unified import UnifiedModel, build_model
from ieat_jax.objectives.stages import STAGES
from ieat_jax.runs.folder import HANDOVER, Run

if TYPE_CHECKING:
    from ieat_jax.interop.families.llm import PretrainedLLM
    from ieat_jax.interop.families.whisper import PretrainedWhisper


class InitError(UserError):
    """Parameters that cannot be started from what the config names."""


@dataclasses.dataclass(frozen=True)
class Handover:
    """Where every parameter came from, by name."""

    loaded: dict[str, str]  # parameter -> source
    copied: dict[str, str]  # parameter -> the parameter that it began as
    new: tuple[str, ...]  # random
    left_over: tuple[str, ...]  # in the sources, but not in this model
    still_random: tuple[str, ...] = ()  # loaded from a run that drew and never trained them, as declared

    def as_dict(self) -> dict[str, Any]:
        """For handover.json."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """A few lines: counts per part of the model."""
        lines = []
        for source in dict.fromkeys(self.loaded.values()):
            lines.append(f"loaded from {source}: {_parts(n for n, s in self.loaded.items() if s == source)}")
        if self.copied:
            lines.append(f"copied within the model: {_parts(self.copied)}")
        lines.append(f"new (random): {_parts(self.new) if self.new else 'nothing'}")
        if self.still_random:
            lines.append(f"of what is loaded, never trained: {_parts(self.still_random)}")
        if self.left_over:
            lines.append(f"left over (not in this model, or never trained): {_parts(self.left_over)}")
        return "\n".join(lines)


def _parts(names: Iterable[str]) -> str:
    """'listen.encoder (12), think (9)'."""
    counts: dict[str, int] = {}
    for name in names:
        part = ".".join(name.split(".")[: 2 if name.startswith(("listen.", "emotion.")) else 1])
        part += " LoRA" if ".lora_" in name else ""
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} ({count})" for part, count in counts.items())


def initialise(config: RunConfig, mesh: Mesh | None, earlier: Run | None = None) -> tuple[UnifiedModel, Handover]:
    """The model with its first parameters, laid over the mesh in use, and the report of where they came from.

    `earlier`: the run at `config.init.checkpoint`, already loaded onto the same mesh.

    Raises:
        InitError: a parameter is missing and not declared in `config.init.allow_new`, or has another shape.
        UserError: weights that cannot be read.
    """
    key, model_config = jax.random.key(config.seed), config.model
    build = functools.partial(build_model, model_config)
    abstract = abstract_model(model_config, mesh)
    wanted = named_leaves(abstract)
    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    left_over: list[str] = []
    untrained = set() if earlier is None else never_trained(earlier)
    for source, weights in _sources(config, earlier):
        for name, value in weights:
            needed = STAGES[config.stage].hears or not name.startswith(("listen.", "emotion."))
            refused = name in untrained and needed and (name.startswith("speak.") or not _declared(name, config))
            if name not in wanted or (refused and source == _name_of(earlier)):
                left_over.append(name)
                continue
            if tuple(value.shape) != wanted[name].shape:
                raise InitError(
                    f"{name} from {source} has shape {tuple(value.shape)}, config.model wants {wanted[name].shape}; "
                    "set the sizes of config.model to those of the weights"
                )
            found[name], sources[name] = _place(value, wanted[name]), source
    copied = _copy_write_to_speak(config, wanted, found)
    missing = [name for name in wanted if name not in found]
    if sources:
        undeclared = [name for name in missing if not _declared(name, config)]
        if undeclared:
            raise InitError(_undeclared(config, undeclared, dict.fromkeys(sources.values()), earlier, untrained))
    if missing:
        # The whole model is traced, but only the missing leaves are computed.
        new = jax.jit(lambda key: {name: leaf for name, leaf in named_leaves(build(key)).items() if name in missing})(
            key
        )
        found |= new
    model = map_named(lambda name, _: found[name], abstract)
    still_random = tuple(name for name, source in sources.items() if name in untrained and source == _name_of(earlier))
    return model, Handover(sources, copied, tuple(missing), tuple(left_over), still_random)


def _declared(name: str, config: RunConfig) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in config.init.allow_new)


def never_trained(earlier: Run) -> set[str]:
    """Parameters of a run that are as they were drawn at random: they would pass for some that were loaded or learned.

    What a run drew, or had from a run that drew it, and neither trained nor uses in its stage; see its `handover.json`.
    Speak of a stage that does not speak is always among them, also as a copy of Write: it can be copied again.
    """
    stage, names = STAGES[earlier.stage], list(named_leaves(earlier.model))
    file = Path(earlier.path) / HANDOVER
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"new": []}
    drawn = {*told["new"], *told.get("still_random", ())}
    unused = (*(() if stage.speaks else ("speak.",)), *(() if stage.hears else ("listen.", "emotion.")))
    factors = multipliers(names, earlier.config.optimizer.rules)
    frozen = {name for name, factor in factors.items() if factor is None}
    silent = set() if stage.speaks else {name for name in names if name.startswith("speak.")}
    return silent | {name for name in drawn if name in frozen or name.startswith(unused)}


def _undeclared(
    config: RunConfig, names: list[str], sources: Iterable[str], earlier: Run | None, untrained: set[str]
) -> str:
    """What is wrong with parameters that no source has, and what to do: Speak belongs to the stages that speak."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    listed = f"{', '.join(names[:20])}{more}: neither in {', '.join(sources)} nor declared new"
    if not STAGES[config.stage].speaks and all(name.startswith("speak.") for name in names):
        first = next(name for name, stage in STAGES.items() if stage.speaks)
        return (
            f"{listed}; stage {config.stage} does not speak: set config.model.speak.enabled=False, and switch it on in "
            f"stage {first}, where Speak begins as a copy of Write"
        )
    drawn = [name for name in names if name in untrained]
    if earlier is not None and drawn:
        listed += (
            f"; {earlier.path} has {_parts(drawn)} as they were drawn at random, which its stage {earlier.stage} did "
            "not train: begin from a run that did, or name public weights (config.init.whisper, init.llm)"
        )
    return f"{listed}; add a regex to config.init.allow_new if they are to start from random numbers"


def _name_of(earlier: Run | None) -> str:
    return "" if earlier is None else f"{earlier.path} step {earlier.step}"


def _sources(config: RunConfig, earlier: Run | None) -> Iterable[tuple[str, Any]]:
    """(name of the source, (parameter name, array) pairs), later ones winning: public weights over the checkpoint's."""
    model_config = config.model
    if config.init.checkpoint and earlier is None:
        raise ValueError(f"config.init.checkpoint = {config.init.checkpoint!r} was not loaded")
    if earlier is not None:
        model = earlier.model
        if earlier.config.model.lora.rank and not model_config.lora.rank:
            model = jax.jit(merge_lora)(model)
        yield _name_of(earlier), named_leaves(model).items()
    if config.init.whisper:
        yield config.init.whisper, open_whisper(config).weights()
    if config.init.llm:
        llm = open_llm(config).weights(model_config)
        yield config.init.llm, ((name, array) for name, array in llm if not name.startswith("speak."))


def open_whisper(config: RunConfig) -> PretrainedWhisper:
    """Open `config.init.whisper`; its numbers are read later.

    Raises:
        UserError: it cannot be read, or has other sizes than `config.model.listen.encoder`.
    """
    from ieat_jax.interop.families.whisper import load_whisper

    whisper = load_whisper(config.init.whisper)
    _same_sizes(config.init.whisper, whisper.config, config.model.listen.encoder, "config.model.listen.encoder")
    return whisper


def open_llm(config: RunConfig) -> PretrainedLLM:
    """Open `config.init.llm`; its numbers are read later.

    Raises:
        UserError: it cannot be read, or has other sizes than `config.model.llm`.
    """
    from ieat_jax.interop.families.llm import load_llm

    llm = load_llm(config.init.llm)
    _same_sizes(config.init.llm, llm.config, config.model.llm, "config.model.llm")
    return llm


def _same_sizes(spec: str, theirs: Any, ours: Any, field: str) -> None:
    differing = [
        f"{field}.{item.name}: {getattr(theirs, item.name)!r} there, {getattr(ours, item.name)!r} here"
        for item in dataclasses.fields(theirs)
        if getattr(theirs, item.name) != getattr(ours, item.name)
    ]
    if differing:
        raise InitError(f"{spec} is another model than the config describes ({'; '.join(differing)}); set these fields")


def _place(value: Any, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """A loaded array in the layout of the abstract parameter."""
    if isinstance(value, np.ndarray):
        value = np.asarray(value, wanted.dtype)
        return jax.make_array_from_callback(value.shape, wanted.sharding, lambda index: value[index])
    return jax.device_put(value, wanted.sharding)


def _copy_write_to_speak(config: RunConfig, wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, str]:
    """Start Speak's layers and norm as Write's where they are missing; the sources of the copies."""
    copied = {}
    if not config.init.speak_from_write:
        return copied
    for name in wanted:
        origin = "write." + name.removeprefix("speak.")
        if name.startswith(("speak.layers.", "speak.norm.")) and name not in found and origin in found:
            found[name] = found[origin].copy()
            copied[name] = origin
    return copied
