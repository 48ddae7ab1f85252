"""A run's first parameters: from an earlier stage, from public weights, by copy, and the declared rest at random.

Loading comes first, then only what is missing is initialised. A parameter that is neither loaded nor declared new is an
error that names it, because a model that quietly starts from random numbers looks like a model that learns badly.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from ieat_jax.config.sections import RunConfig
from ieat_jax.errors import UserError
from ieat_jax.interop.families.audio_llm import PretrainedListen, load_listen
from ieat_jax.interop.families.goat_slm import load_speak
from ieat_jax.interop.families.whisper import PretrainedWhisper
from ieat_jax.model.abstract import abstract_model, place
from ieat_jax.model.landing import Piece, land
from ieat_jax.model.lora import merge_lora
from ieat_jax.model.names import map_named, named_leaves
from ieat_jax.model.partition import multipliers
from ieat_jax.model.unified import UnifiedModel, build_model
from ieat_jax.objectives.stages import STAGES
from ieat_jax.runs.arrays import some
from ieat_jax.runs.folder import HANDOVER, Run

if TYPE_CHECKING:
    from ieat_jax.interop.families.llm import PretrainedLLM


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


@dataclasses.dataclass(frozen=True)
class _Source:
    """Weights that are there: what they have is known before their numbers are read."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    land: Callable[[Mapping[str, Any]], Iterable[tuple[str, Any]]]  # those of the wanted, as and where they are wanted


def initialise(config: RunConfig, mesh: Mesh | None, earlier: Run | None = None) -> tuple[UnifiedModel, Handover]:
    """The model with its first parameters, laid over the mesh in use, and the report of where they came from.

    `earlier`: the run at `config.init.checkpoint`, already loaded onto the same mesh.

    Raises:
        InitError: a parameter is missing and not declared in `config.init.allow_new`, or has another shape.
        UserError: weights that cannot be read.
    """
    build = functools.partial(build_model, config.model)
    abstract = abstract_model(config.model, mesh)
    wanted = named_leaves(abstract)
    sources = list(_sources(config, earlier))
    handover = _hand_over(config, wanted, sources, earlier)
    found: dict[str, Any] = {}
    for source in sources:
        mine = {name: wanted[name] for name, origin in handover.loaded.items() if origin == source.name}
        found |= source.land(mine)
    found |= {name: found[origin].copy() for name, origin in handover.copied.items()}
    if handover.new:
        # The whole model is traced, but only the missing leaves are computed.
        new = frozenset(handover.new)
        draw = jax.jit(lambda key: {name: leaf for name, leaf in named_leaves(build(key)).items() if name in new})
        found |= draw(jax.random.key(config.seed))
    return map_named(lambda name, _: found[name], abstract), handover


def check_sources(config: RunConfig, mesh: Mesh | None, earlier: Run | None = None) -> None:
    """Decide as `initialise` does where every parameter comes from; of `earlier` only shapes are looked at.

    Raises:
        InitError: a parameter is missing and not declared in `config.init.allow_new`, or has another shape.
        UserError: weights that cannot be read.
    """
    _hand_over(config, named_leaves(abstract_model(config.model, mesh)), list(_sources(config, earlier)), earlier)


def _hand_over(
    config: RunConfig, wanted: Mapping[str, Any], sources: Iterable[_Source], earlier: Run | None
) -> Handover:
    """Decide where every parameter comes from, by names and shapes alone; of two sources the later one wins.

    Raises:
        InitError: a parameter is missing and not declared in `config.init.allow_new`, or has another shape.
    """
    loaded: dict[str, str] = {}
    left_over: list[str] = []
    untrained = set() if earlier is None else never_trained(earlier)
    for source in sources:
        for name, shape in source.shapes.items():
            needed = STAGES[config.stage].hears or not name.startswith(("listen.", "emotion."))
            refused = name in untrained and needed and (name.startswith("speak.") or not _declared(name, config))
            if name not in wanted or (refused and source.name == _name_of(earlier)):
                left_over.append(name)
                continue
            if tuple(shape) != wanted[name].shape:
                raise InitError(
                    f"{name} from {source.name} has shape {tuple(shape)}, config.model wants {wanted[name].shape}; "
                    "set the sizes of config.model to those of the weights"
                )
            loaded[name] = source.name
    copied = _copies(config, wanted, loaded)
    new = tuple(name for name in wanted if name not in loaded and name not in copied)
    undeclared = [name for name in new if not _declared(name, config)] if loaded else []
    if undeclared:
        raise InitError(_undeclared(config, undeclared, dict.fromkeys(loaded.values()), earlier, untrained))
    still_random = tuple(name for name, source in loaded.items() if name in untrained and source == _name_of(earlier))
    return Handover(loaded, copied, new, tuple(left_over), still_random)


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
    """What to do about parameters that no source has, and which they are: Speak belongs to the stages that speak."""
    stage = config.stage
    which = f"{_parts(names)}: neither in {', '.join(sources)} nor declared new ({some(names)})"
    if not STAGES[stage].speaks and all(name.startswith("speak.") for name in names):
        first = next(name for name, each in STAGES.items() if each.speaks)
        return (
            f"stage {stage} does not speak: set config.model.speak.enabled=False, and switch it on in stage {first}, "
            f"where Speak begins as a copy of Write. {which}"
        )
    drawn = [name for name in names if name in untrained]
    if earlier is not None and drawn:
        return (
            f"{earlier.path} has {_parts(drawn)} as they were drawn at random, which its stage {earlier.stage} did not "
            "train: begin from a run that did, or name public weights (config.init.whisper, init.llm); add a regex to "
            f"config.init.allow_new for what is to start from random numbers. {which}"
        )
    return f"add a regex to config.init.allow_new for what is to start from random numbers. {which}"


def _name_of(earlier: Run | None) -> str:
    return "" if earlier is None else f"{earlier.path} step {earlier.step}"


def _sources(config: RunConfig, earlier: Run | None) -> Iterator[_Source]:
    """What parameters can be loaded from, later ones winning: public weights over the checkpoint's."""
    sizes = config.model
    if config.init.checkpoint and earlier is None:
        raise ValueError(f"config.init.checkpoint = {config.init.checkpoint!r} was not loaded")
    if earlier is not None:
        model, merged = earlier.model, bool(earlier.config.model.lora.rank) and not sizes.lora.rank
        leaves = named_leaves(jax.eval_shape(merge_lora, model) if merged else model)
        yield _Source(
            _name_of(earlier),
            {name: leaf.shape for name, leaf in leaves.items()},
            lambda mine: _placed(named_leaves(jax.jit(merge_lora)(model) if merged else model), mine),
        )
    if config.init.whisper:
        whisper = open_whisper(config)
        if isinstance(whisper, PretrainedListen):
            listen = whisper
            yield _Source(
                config.init.whisper,
                listen.shapes(sizes.listen),
                lambda mine: _landed(listen.pieces(sizes.listen), mine),
            )
        else:
            yield _Source(config.init.whisper, whisper.shapes(), lambda mine: _landed(whisper.pieces(), mine))
    if config.init.llm:
        llm = open_llm(config)
        yield _Source(config.init.llm, llm.shapes(sizes), lambda mine: _landed(llm.pieces(sizes), mine))
    if config.init.speak:
        if not sizes.speak.enabled:
            raise InitError(
                f"config.init.speak = {config.init.speak!r}, but the model has no Speak (config.model.speak.enabled); "
                "leave one of them out"
            )
        speak = load_speak(config.init.speak)
        yield _Source(config.init.speak, speak.shapes(sizes), lambda mine: _landed(speak.pieces(sizes), mine))


def _placed(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((name, place(values[name], leaf)) for name, leaf in wanted.items())


def _landed(pieces: Iterable[Piece], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return land((piece for piece in pieces if piece.name in wanted), wanted)


def open_whisper(config: RunConfig) -> PretrainedWhisper | PretrainedListen:
    """Open `config.init.whisper`, which may have an adapter, too; its numbers are read later.

    Raises:
        UserError: it cannot be read, or has other sizes than `config.model.listen.encoder`.
    """
    whisper = load_listen(config.init.whisper)
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
        and item.name != "context_length"  # of which less may be promised
    ]
    if differing:
        raise InitError(f"{spec} is another model than the config describes ({'; '.join(differing)}); set these fields")


def _copies(config: RunConfig, wanted: Iterable[str], loaded: Mapping[str, str]) -> dict[str, str]:
    """Speak's layers and norm where nothing has them: the names of Write's, as which they start."""
    if not config.init.speak_from_write:
        return {}
    missing = (name for name in wanted if name.startswith(("speak.layers.", "speak.norm.")) and name not in loaded)
    pairs = ((name, "write." + name.removeprefix("speak.")) for name in missing)
    return {name: origin for name, origin in pairs if origin in loaded}
