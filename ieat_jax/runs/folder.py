"""A run's folder, complete in itself: what training writes there, and how a trained model is loaded from it.

config.json       the configuration
tokenizer/        the tokenizer
codec/            the unit codec of a run that speaks (of CosyVoice, whose files are large: where it is)
frozen/           parameters that training does not change, saved once
checkpoints/N/    trainable parameters, optimiser state and metadata after step N
handover.json     where the first parameters came from
manifest.json     what all of the above were when they were written; frozen/ and checkpoints/N have their own
metrics.jsonl, tensorboard/, quarantine.jsonl
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ieat_jax import processes
from ieat_jax.audio.codec import CodecError, UnitCodec, check_identity
from ieat_jax.codecs.load import load_codec
from ieat_jax.config.recipes import from_json, stored, to_json, to_section
from ieat_jax.config.sections import RunConfig
from ieat_jax.errors import ConfigError, UserError
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.names import named_leaves
from ieat_jax.model.partition import join
from ieat_jax.model.unified import UnifiedModel
from ieat_jax.runs import manifest
from ieat_jax.runs.arrays import some
from ieat_jax.runs.checkpoints import restore_named
from ieat_jax.runs.steps import list_steps, read_metadata
from ieat_jax.storage import local_path
from ieat_jax.text.tokenizer import TextTokenizer, load_tokenizer

CONFIG, TOKENIZER, CODEC, FROZEN, CHECKPOINTS = "config.json", "tokenizer", "codec", "frozen", "checkpoints"
HANDOVER, QUARANTINE = "handover.json", "quarantine.jsonl"
POINTER = "pointer.json"  # in codec/: {'path': file, **identity}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
PROTECTED = (CONFIG, TOKENIZER, CODEC, HANDOVER)  # files and folders that the run's manifest covers


class RunError(UserError):
    """A run folder that is missing, incomplete, or of another model; names it."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with everything that its use needs."""

    path: Path
    step: int
    stage: str
    config: RunConfig
    model: UnifiedModel
    tokenizer: TextTokenizer
    codec: UnitCodec | None
    mesh: Mesh | None  # that the parameters lie on; None = a single device
    metadata: dict[str, Any]  # of the step


def cannot_write(folder: Path, reason: str) -> RunError:
    """What to tell people when the system refuses to write into a run's folder."""
    return RunError(
        f"{folder}: cannot be written ({reason}); free space or correct the folder, or give another workdir"
    )


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Inside, what the system refuses about a run's folder (a full disk, a read-only one) is an error for people.

    Raises:
        RunError: something in the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        below = error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(folder)
        if not below and error.errno not in FULL:
            raise
        raise cannot_write(folder, error.strerror or str(error)) from error
    except Exception as error:  # tokenizers and safetensors have no class for it
        found = re.search(r"(?:[A-Z][^:]*)\(os error \d+\)", str(error))
        if found is None or isinstance(error, UserError):
            raise
        raise cannot_write(folder, found[0]) from error


def save_run_files(
    path: str | Path, config: RunConfig, tokenizer: TextTokenizer, codec: UnitCodec | None = None
) -> None:
    """Write config, tokenizer and codec into a run's folder, which may be that of a run that is resumed.

    The config is replaced; tokenizer and codec must be those that the run began with. All processes call it; process 0
    writes.

    Raises:
        RunError: the folder has another tokenizer, or its files are not those that its manifest names.
        CodecError: the folder has another codec.
    """
    path = Path(path)
    if jax.process_index() == 0:
        path.mkdir(parents=True, exist_ok=True)
        check_run_files(path, but=(CONFIG,))
        _save_tokenizer(path / TOKENIZER, tokenizer)
        if codec is not None:
            save_codec(path / CODEC, codec)
        write_protected(path, CONFIG, to_json(to_section(config)))
    processes.gather("run files", None)


def write_file(path: Path, text: str) -> None:
    """Write a small file at once or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_protected(run: Path, name: str, text: str) -> None:
    """Write a file of a run's folder, and its mark into the manifest: at no moment do the two contradict each other."""
    marks = _marks_on_disk(run) | (manifest.read_manifest(run) or {})
    new = manifest.mark(text.encode())
    manifest.write_manifest(run, marks | {name: [*marks.get(name, []), new]})
    write_file(run / name, text)
    manifest.write_manifest(run, marks | {name: [new]})


def check_run_files(path: Path, *, but: Collection[str] = ()) -> None:
    """Compare the files of a run with its manifest, except those named in `but`.

    A folder without manifest passes; where it holds files already, a line on stderr says so.

    Raises:
        RunError: a file that was changed, is missing, or was not written by the run.
    """
    try:
        marks = manifest.read_manifest(path)
    except ValueError as error:
        raise RunError(f"{path}: {error}; restore the folder from a copy") from error
    there = list(_protected_files(path))
    if marks is None:
        if there and jax.process_index() == 0:
            print(
                f"{path}: without {manifest.FILE} (from an earlier version): its configuration and tokenizer are taken "
                "as they are",
                file=sys.stderr,
            )
        return
    found = manifest.changes(path, {name: known for name, known in marks.items() if name not in but})
    found += [f"{name} was not written by this run" for name in there if name not in marks and name not in but]
    if found:
        raise RunError(f"{path}: {some(found)}; restore the folder from a copy")


def check_config(path: Path) -> None:
    """Check that config.json of a run that goes on is the one that was written; one that is gone is written anew.

    Raises:
        RunError: it was changed, so that somebody may believe the change counts; or no run wrote it.
    """
    try:
        marks = manifest.read_manifest(path)
    except ValueError as error:
        raise RunError(f"{path}: {error}; restore the folder from a copy") from error
    there = os.path.lexists(path / CONFIG)
    if marks is None and there and not (path / CHECKPOINTS).is_dir():
        raise RunError(f"{path}: holds a {CONFIG} that no run wrote, and would lose it; give a workdir of its own")
    if marks is None or CONFIG not in marks:
        return
    if not there:
        if jax.process_index() == 0 and list_steps(path / CHECKPOINTS):
            print(f"{path}: {CONFIG} is gone; it is written anew", file=sys.stderr)
    elif found := manifest.changes(path, {CONFIG: marks[CONFIG]}):
        raise RunError(
            f"{path}: {some(found)}; what counts is the recipe that training is started with: change that, and restore "
            f"{CONFIG} from a copy or delete it, and it is written anew"
        )


def _protected_files(run: Path) -> Iterator[str]:
    for name in PROTECTED:
        if (run / name).is_dir():
            files = (file for file in (run / name).rglob("*") if file.is_file() and not file.name.startswith("."))
            yield from (str(file.relative_to(run)) for file in files)
        elif (run / name).exists():
            yield name


def _marks_on_disk(run: Path) -> manifest.Marks:
    return {name: [manifest.mark((run / name).read_bytes())] for name in _protected_files(run)}


def _save_tokenizer(folder: Path, tokenizer: TextTokenizer) -> None:
    part = _new_folder(folder)
    tokenizer.save(part)
    if folder.is_dir():
        same = _contents(part) == _contents(folder)
        shutil.rmtree(part)
        if not same:
            raise RunError(
                f"{folder}: this run began with another tokenizer; use that one (config.tokenizer), or a new workdir"
            )
        return
    part.rename(folder)


def save_codec(folder: Path, codec: UnitCodec) -> None:
    """Write a codec's folder, or check that it is that of `codec`; of one with large files, where they are.

    Raises:
        CodecError: the folder holds another codec.
    """
    if folder.is_dir():
        check_identity(load_run_codec(folder).identity(), codec.identity(), where=str(folder))
        return
    part = _new_folder(folder)
    if hasattr(codec, "save"):
        codec.save(part)
    else:
        file = Path(str(getattr(codec, "path", "")))  # of CosyVoice: large, it stays where it is
        pointer = {"path": str(file.absolute()), **codec.identity()}
        (part / POINTER).write_text(json.dumps(pointer, indent=2) + "\n", encoding="utf-8")
    part.rename(folder)


def _new_folder(folder: Path) -> Path:
    """An empty folder beside `folder`, to be renamed to it when it is complete."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def load_run_codec(folder: str | Path) -> UnitCodec:
    """The codec in a run's codec/ folder.

    Raises:
        CodecError: it cannot be loaded, or the file that it points to is another one by now.
    """
    folder = Path(folder)
    if not (folder / POINTER).is_file():
        return load_codec(folder)
    try:
        pointer = json.loads((folder / POINTER).read_text(encoding="utf-8"))
        path = pointer["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise CodecError(f"{folder / POINTER}: not readable ({error}); copy the run's folder again") from error
    codec = load_codec(path)
    check_identity(pointer, codec.identity(), where=f"{path}, named in {folder / POINTER}")
    return codec


def read_config(path: str | Path) -> RunConfig:
    """The configuration of a run.

    Raises:
        RunError: there is no run in this folder, or its files are not those that its manifest names.
    """
    path = local_path(path, "run")
    if not path.is_dir():
        raise RunError(f"{path}: there is no such folder; give the workdir of a training run")
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: no training run here ({CONFIG} is missing); give the workdir of a training run")
    check_run_files(path)
    try:
        return stored(from_json((path / CONFIG).read_text(encoding="utf-8")).to_dict())
    except ConfigError as error:
        raise RunError(
            f"{path / CONFIG}: {str(error).splitlines()[0]}; the run is of another version of ieat_jax, or damaged"
        ) from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path / CONFIG}: not UTF-8 ({error}); restore the folder from a copy") from error


def load_run(path: str | Path, *, step: int | None = None, mesh: Mesh | None = None) -> Run:
    """A trained model from its run's folder, which is only read: it may be in training.

    Args:
        path: the run's folder.
        step: None = the newest intact one.
        mesh: where the parameters shall lie; None = on the first device.

    Raises:
        RunError: no run or step there, files that were changed, or parameters that are not those of its config.
        CheckpointError: the checkpoint is damaged.
        CodecError: the codec is missing, or not the one that the checkpoint was trained with.
    """
    path = Path(path)
    config = read_config(path)
    _check_step(path, step)
    abstract = abstract_model(config.model, mesh)
    found = restore_named(path, named_leaves(abstract), step=step)
    if found.missing:
        names = ", ".join(found.missing[:8]) + (" ..." if len(found.missing) > 8 else "")
        raise RunError(
            f"{path}: step {found.step} has no {names}; {CONFIG} and checkpoint do not belong together: "
            "copy the run's folder again as a whole"
        )
    return _run(path, config, found.step, join(abstract, found.loaded, {}), found.metadata, mesh)


def outline_run(path: str | Path, *, mesh: Mesh | None = None) -> Run:
    """A run as `load_run` gives it, of whose parameters there are the shapes alone: none is read.

    Raises:
        UserError: as `load_run`, but for what the numbers themselves tell.
    """
    path = Path(path)
    config = read_config(path)
    _check_step(path, None)
    step, metadata = read_metadata(path / CHECKPOINTS)
    return _run(path, config, step, abstract_model(config.model, mesh), metadata, mesh)


def _run(
    path: Path, config: RunConfig, step: int, model: UnifiedModel, metadata: dict[str, Any], mesh: Mesh | None
) -> Run:
    tokenizer, size = load_tokenizer(path / TOKENIZER), config.model.llm.vocab_size
    if tokenizer.vocab_size > size:
        raise RunError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, config.model.llm.vocab_size is {size}; they do "
            "not belong together: copy the run's folder again as a whole"
        )
    codec = _checked_codec(path, metadata.get("codec"))
    return Run(path, step, config.stage, config, model, tokenizer, codec, mesh, metadata)


def _check_step(path: Path, step: int | None) -> None:
    steps = list_steps(path / CHECKPOINTS)
    if not steps:
        raise RunError(f"{path}: the run has no checkpoint yet; train until its first one (config.checkpoint.every)")
    if step is not None and step not in steps:
        raise RunError(f"{path}: there is no checkpoint of step {step}; there are {', '.join(map(str, steps))}")


def _checked_codec(path: Path, identity: dict[str, Any] | None) -> UnitCodec | None:
    """The run's codec, if it is the one that the checkpoint was trained with."""
    folder = path / CODEC
    if not folder.is_dir():
        if identity is not None:
            raise RunError(f"{folder}: the codec is missing; copy the run's folder again as a whole")
        return None
    codec = load_run_codec(folder)
    if identity is not None:
        check_identity(identity, codec.identity(), where=str(folder))
    return codec
