"""What can be known of a run before anything is read or computed: `train --check`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import jax

from ieat_jax.config.sections import RunConfig
from ieat_jax.data.sources.tfds import folder_named
from ieat_jax.interop.hub import weights_path
from ieat_jax.interop.open import outline
from ieat_jax.interop.verify import is_export
from ieat_jax.model.sharding import make_mesh
from ieat_jax.runs.folder import CHECKPOINTS, check_config, check_run_files
from ieat_jax.runs.steps import list_steps, resume_point
from ieat_jax.storage import local_path
from ieat_jax.training.abstract import abstract_step
from ieat_jax.training.initialise import check_sources
from ieat_jax.training.placement import check_batch
from ieat_jax.training.resume import TrainError, check_allowed, check_stage
from ieat_jax.training.setup import check_tokenizer, choose_codec, choose_tokenizer, sequences, speaks


def try_out(config: RunConfig, made_later: Path | None = None, workdir: Path | None = None) -> None:
    """Try a run in shapes alone, and look at the files that it names; nothing is computed or written.

    The step is traced, so that whatever does not fit is said now. What lies in the folder `made_later` need not be
    there yet. Of records only the files are looked for, of an earlier stage's parameters only the shapes. `workdir`:
    where the run shall be, whose files are looked at as well.

    Raises:
        UserError: whatever the run would fail of, as far as it can be known now; names the field.
    """
    check_allowed(config)
    begun = None if workdir is None else _go_on(config, workdir)
    mesh = make_mesh(config.mesh)
    check_batch(config.data.batch_size, config.train.accumulate, sequences(config), mesh)
    there, later = _files(config, made_later)
    if not begun:
        with jax.set_mesh(mesh):
            _begin(config, mesh, there, later)
    step = abstract_step(config, mesh)
    with jax.set_mesh(mesh):
        jax.eval_shape(step.function, *step.arguments)


def _go_on(config: RunConfig, workdir: Path) -> bool:
    """Whether there is a run that would go on; checks that it may, as far as its folder tells.

    Raises:
        UserError: it may not.
    """
    check_config(workdir)
    begun = resume_point(workdir / CHECKPOINTS)
    if begun is not None:
        check_stage(workdir, begun[1], config)
        check_run_files(workdir)
    return begun is not None


def _begin(config: RunConfig, mesh: jax.sharding.Mesh, there: Mapping[str, Path], later: Collection[str]) -> None:
    """Decide as the run will do what it begins with: tokenizer, codec, and the source of every parameter.

    Raises:
        UserError: something that is there cannot be used, or something is missing that will not be made later.
    """
    earlier, waits = None, "config.init.checkpoint" in later
    if "config.init.checkpoint" in there:
        earlier = outline(there["config.init.checkpoint"], mesh=mesh)
    of_its_own = config.tokenizer.path or config.init.llm
    if "config.tokenizer.path" not in later and (of_its_own or not waits):
        check_tokenizer(config, choose_tokenizer(config, earlier))
    if "config.codec" not in later and (config.codec or not waits):
        choose_codec(config, earlier)
    if not waits:
        check_sources(config, mesh, earlier)
    else:  # its weights are unknown, those of others are not
        check_sources(
            dataclasses.replace(config, init=dataclasses.replace(config.init, checkpoint="", allow_new=(".*",))), mesh
        )


def _files(config: RunConfig, made_later: Path | None) -> tuple[dict[str, Path], set[str]]:
    """({field: path} of all that is there by now, the fields whose path will be made later).

    Raises:
        TrainError: something is not there, and lies outside of `made_later`; or no source has a weight above 0.
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
    files = {
        field: (weights_path if field == "config.init.checkpoint" else local_path)(path, field)
        for field, path in named.items()
        if path
    }
    there = {field: file for field, file in files.items() if file.exists()}
    for field, file in files.items():
        below = made_later is not None and _absolute(file).is_relative_to(_absolute(made_later))
        if field not in there and not below:
            raise TrainError(f"{field}: there is no {named[field]}; correct the path, or make what it names first")
        begun = list_steps(file / CHECKPOINTS) or is_export(file)
        if below and field == "config.init.checkpoint" and not begun:
            there.pop(field, None)  # a run that has begun, and goes on later
    return there, files.keys() - there.keys()


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
