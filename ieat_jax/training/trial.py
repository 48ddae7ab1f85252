"""What can be known of a run before anything is read or computed: `train --check`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jax

from ieat_jax.codecs.load import load_codec
from ieat_jax.config.sections import RunConfig
from ieat_jax.data.sources.tfds import folder_named
from ieat_jax.model.sharding import make_mesh
from ieat_jax.runs.folder import read_config
from ieat_jax.storage import local_path
from ieat_jax.text.tokenizer import load_tokenizer
from ieat_jax.training.abstract import abstract_step
from ieat_jax.training.initialise import open_llm, open_whisper
from ieat_jax.training.placement import check_batch
from ieat_jax.training.resume import TrainError, check_allowed
from ieat_jax.training.setup import check_codec, check_tokenizer, sequences, speaks


def try_out(config: RunConfig, made_later: Path | None = None) -> None:
    """Try a run in shapes alone, and look at the files that it names; nothing is computed or written.

    The step is traced, so that whatever does not fit is said now. What lies in the folder `made_later` need not be
    there yet. Of records and of an earlier stage's parameters only the files are looked for.

    Raises:
        UserError: whatever the run would fail of, as far as it can be known now; names the field.
    """
    check_allowed(config)
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, config.train.accumulate, sequences(config), mesh)
    there = dict(_files(config, made_later))
    step = abstract_step(config, mesh)
    with jax.set_mesh(mesh):
        jax.eval_shape(step.function, *step.arguments)
    if "config.tokenizer.path" in there:
        check_tokenizer(config, load_tokenizer(there["config.tokenizer.path"], dict(config.tokenizer.rename)))
    if "config.codec" in there:
        check_codec(config, load_codec(there["config.codec"]))
    if "config.init.checkpoint" in there:
        read_config(there["config.init.checkpoint"])
    if config.init.whisper:
        open_whisper(config)
    if config.init.llm:
        open_llm(config)


def _files(config: RunConfig, made_later: Path | None) -> Iterator[tuple[str, Path]]:
    """(field, path) of all that is there by now.

    Raises:
        TrainError: something is not, and lies outside of `made_later`; or no source has a weight above 0.
    """
    sources = {name: source for name, source in config.data.sources.items() if source.weight > 0}
    if not sources:
        raise TrainError("config.data.sources names no records with a weight above 0; give at least one")
    named = {"config.tokenizer.path": config.tokenizer.path, "config.init.checkpoint": config.init.checkpoint}
    if speaks(config):
        named["config.codec"] = config.codec
    for name, source in sources.items():
        if not source.records:
            raise TrainError(f"config.data.sources.{name}.records is empty: give the path of its records")
        named[f"config.data.sources.{name}.records"] = folder_named(source.records)
        named[f"config.data.sources.{name}.audio_root"] = source.audio_root
    for field, path in named.items():
        file = local_path(path, field)
        if path and file.exists():
            yield field, file
        elif path and (made_later is None or not _absolute(file).is_relative_to(_absolute(made_later))):
            raise TrainError(f"{field}: there is no {path}; correct the path, or make what it names first")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
