"""What a run is made of besides its parameters: tokenizer, codec, data."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import jax

from ieat_jax.audio.codec import UnitCodec
from ieat_jax.codecs.load import load_codec
from ieat_jax.config.sections import RunConfig
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.open import open_sources
from ieat_jax.data.sources.source import Source
from ieat_jax.interop.hub import weights_path
from ieat_jax.interop.open import open_run
from ieat_jax.objectives.stages import stage_of
from ieat_jax.runs.folder import CONFIG, QUARANTINE, Run, check_config, check_run_files, load_run_codec
from ieat_jax.storage import local_path
from ieat_jax.text.tokenizer import TextTokenizer, load_tokenizer
from ieat_jax.training.resume import TrainError


@dataclasses.dataclass(frozen=True)
class Ingredients:
    """What a run is made of besides its parameters."""

    config: RunConfig
    earlier: Run | None
    tokenizer: TextTokenizer
    codec: UnitCodec | None
    sources: list[Source]
    quarantine: Quarantine


def sequences(config: RunConfig) -> dict[str, int]:
    """Sizes that are divided over the mesh axis `context`, by their field of `config.data.shapes`."""
    shapes = config.data.shapes
    return {name: getattr(shapes, name) for name in ("tokens", "teacher_tokens", "speak")}


def gather(config: RunConfig, workdir: Path, mesh: jax.sharding.Mesh, *, resuming: bool) -> Ingredients:
    """Tokenizer, codec and data of a run; checks that they fit each other before anything is computed.

    `resuming`: the run goes on from a checkpoint, with the tokenizer and codec that it began with.

    Raises:
        UserError: anything in them that cannot be used, or that does not fit the rest; names the field.
    """
    check_config(workdir)
    if resuming:
        check_run_files(workdir, but=(CONFIG,))
    earlier = None
    if config.init.checkpoint and not resuming:
        earlier = open_run(weights_path(config.init.checkpoint, "config.init.checkpoint"), mesh=mesh)
    tokenizer = choose_tokenizer(config, earlier, workdir if resuming else None)
    check_tokenizer(config, tokenizer)
    codec = choose_codec(config, earlier, workdir if resuming else None)
    quarantine = Quarantine(config.data.max_bad_share, workdir / QUARANTINE if jax.process_index() == 0 else None)
    sources = open_sources(
        config.data.sources,
        quarantine,
        codec=None if codec is None else codec.identity(),
        check_shards=config.data.check_shards,
    )
    quarantine.check()
    if codec is not None and not any(source.index.facts["spoken"] for source in sources):
        raise TrainError(
            f"{', '.join(s.name for s in sources)}: no turn has speech units; extract them with "
            "`python -m ieat_jax.prepare units`, or set config.model.speak.enabled=False"
        )
    return Ingredients(config, earlier, tokenizer, codec, sources, quarantine)


def choose_tokenizer(config: RunConfig, earlier: Run | None, resumed: Path | None = None) -> TextTokenizer:
    """The tokenizer of a run, which may begin from an earlier one, or go on in the folder `resumed`.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    rename = dict(config.tokenizer.rename)
    if resumed is not None:
        return load_tokenizer(resumed / "tokenizer")
    if config.tokenizer.path:
        return load_tokenizer(local_path(config.tokenizer.path, "config.tokenizer.path"), rename)
    if config.init.llm:
        from ieat_jax.interop.families.llm import load_llm

        return load_llm(config.init.llm).tokenizer().renamed(rename)
    if earlier is not None:
        return earlier.tokenizer
    raise TrainError("config.tokenizer.path is empty, and neither config.init.llm nor config.init.checkpoint has one")


def same_content(parts: Ingredients, then: RunConfig) -> set[str]:
    """Fields that name another place than when a run began, where the run's own tokenizer or codec lies.

    Raises:
        UserError: nothing that can be read lies there.
    """
    now, same = parts.config, set()
    spec, before = ((each.tokenizer, each.init.llm) for each in (now, then))
    if spec != before and (now.tokenizer.path or now.init.llm):
        there = choose_tokenizer(now, None)
        same |= {"tokenizer"} if pickle.dumps(there) == pickle.dumps(parts.tokenizer) else set()
    if now.codec != then.codec and now.codec and parts.codec is not None:
        codec = load_codec(local_path(now.codec, "config.codec"))
        same |= {"codec"} if codec.identity() == parts.codec.identity() else set()
    return same


def check_tokenizer(config: RunConfig, tokenizer: TextTokenizer) -> None:
    """Check that the model has an embedding for every token.

    Raises:
        TrainError: it has not.
    """
    size = config.model.llm.vocab_size
    if tokenizer.vocab_size > size:
        raise TrainError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, config.model.llm.vocab_size = {size} is too small for it"
        )


def choose_codec(config: RunConfig, earlier: Run | None, resumed: Path | None = None) -> UnitCodec | None:
    """The codec of a run that speaks, as `choose_tokenizer`; None: it does not speak.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    if not speaks(config):
        return None
    if resumed is not None:
        codec = load_run_codec(resumed / "codec")
    elif config.codec:
        codec = load_codec(local_path(config.codec, "config.codec"))
    elif earlier is not None and earlier.codec is not None:
        codec = earlier.codec
    else:
        raise TrainError("a joint run that speaks needs a unit codec: set config.codec to its folder")
    check_codec(config, codec)
    return codec


def speaks(config: RunConfig) -> bool:
    """Whether a run trains Speak, and so needs a codec."""
    return stage_of(config).speaks and config.model.speak.enabled


def check_codec(config: RunConfig, codec: UnitCodec) -> None:
    """Check that Speak has the units of a codec.

    Raises:
        TrainError: it has others; names the field.
    """
    sizes = config.model.speak
    if codec.vocab_size != sizes.unit_vocab_size:
        raise TrainError(
            f"config.model.speak.unit_vocab_size = {sizes.unit_vocab_size}, but the codec {codec.name} has "
            f"{codec.vocab_size} ids; set it to that"
        )
    if codec.group_size != sizes.group_size:
        raise TrainError(
            f"config.model.speak.group_size = {sizes.group_size}, but the codec {codec.name} has "
            f"{codec.group_size} units in a group; set it to that"
        )
