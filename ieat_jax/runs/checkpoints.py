"""Checkpoints: Orbax v1 behind one thin module, with verified contents and a fall-back to the newest intact step.

A step holds named items ('trainable', 'optimizer', ...), each a pytree, and metadata (JSON). With it are stored the
shape, type and fingerprint of every array: what is restored is what was saved, or an error. On disk the dots of
parameter names are folders, since Orbax confuses a key 'a.b' with b in a.

All processes call everything here; process 0 writes what is not an array.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from ieat_jax import processes
from ieat_jax.runs.arrays import (
    CheckpointError,
    DamagedError,
    Named,
    Table,
    agreed,
    by_name,
    check_same,
    load,
    prepare,
    read_record,
    root_cause,
    saving_context,
    shape_text,
    some,
    write_step_manifest,
)
from ieat_jax.runs.paths import absolute
from ieat_jax.runs.steps import corrupt_names, first_intact, list_steps


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `Checkpoints.restore` found."""

    step: int
    items: dict[str, Any]  # the abstract trees, filled
    metadata: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Found:
    """What `restore_named` found."""

    step: int
    loaded: dict[str, jax.Array]
    missing: tuple[str, ...]  # asked for, not in the run
    left_over: tuple[str, ...]  # in the run, not asked for
    metadata: dict[str, Any]


class Checkpoints:
    """The steps of one folder. Saving is asynchronous: its failure is raised by the next call, naming the step."""

    def __init__(self, folder: Any, *, keep: int = 3, every: int = 1000, keep_every: int = 0):
        """Keep the newest `keep` steps and, where `keep_every` is not 0, every step that it divides.

        `every`: see `due`. What an interrupted save left behind is removed.
        """
        for name, value, least in (("keep", keep, 1), ("every", every, 1), ("keep_every", keep_every, 0)):
            if value < least:
                raise CheckpointError(f"config.checkpoint.{name}: must be at least {least}, not {value}")
        self.folder, self.every = absolute(folder), every
        self._saving: tuple[int, ocp.AsyncResponse[bool]] | None = None
        policies = ocp.training.preservation_policies
        self._made = not self.folder.exists()
        kept = [policies.LatestN(keep)] + ([policies.EveryNSteps(keep_every)] if keep_every else [])
        try:
            self._orbax = ocp.training.Checkpointer(
                self.folder,
                context=saving_context(),
                preservation_policy=policies.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be used ({root_cause(error)}); free space or correct the folder"
            ) from error

    def due(self, step: int) -> bool:
        """Whether the interval asks for a save at `step`."""
        return step > 0 and step % self.every == 0

    def steps(self) -> list[int]:
        """Complete steps, ascending."""
        # Orbax lists a step from the moment its save begins, and goes on doing so when the save fails.
        unfinished = self._saving[0] if self._saving and self._orbax.is_saving_in_progress() else None
        listed = [checkpoint.step for checkpoint in self._orbax.checkpoints]
        return [step for step in listed if step != unfinished and (self.folder / str(step)).is_dir()]

    def latest(self) -> int | None:
        """The newest complete step."""
        return max(self.steps(), default=None)

    def save(self, step: int, items: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
        """Begin to save `items` (pytrees of arrays and numbers) and `metadata` (JSON) as `step`; False: it exists.

        When this returns, the arrays may be donated or changed.

        Raises:
            CheckpointError: this save, or the one before it, cannot be written.
        """
        self.wait()
        if step in self.steps():
            return False
        arrays, custom = prepare(items, metadata)
        try:
            response = self._orbax.save_checkpointables_async(step, arrays, force=True, custom_metadata=custom)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed(step, error) from error
        if jax.process_index() == 0:
            response.on_complete(lambda _: write_step_manifest(self.folder / str(step)))
        self._saving = step, response
        return True

    def wait(self) -> None:
        """Until nothing is being saved.

        Raises:
            CheckpointError: the last save failed.
        """
        saving, self._saving = self._saving, None
        if saving is None:
            return
        step, response = saving
        try:
            # Every save has a thread and an event loop of its own, which only this call ends; `Checkpointer.wait` does
            # not, and a run would be out of file descriptors after some hundred saves.
            response.result()
        except Exception as error:  # whatever it was, the step is not on disk
            raise self._failed(step, error) from error

    def close(self) -> None:
        """Wait, then let go of the folder, which is removed again where it was made for nothing.

        Raises:
            CheckpointError: the last save failed.
        """
        try:
            self.wait()
        except CheckpointError:
            _quietly(self._orbax.close)  # it would raise the same once more
            raise
        self._orbax.close()
        if self._made and jax.process_index() == 0:
            with contextlib.suppress(OSError):  # there are steps
                os.rmdir(self.folder)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        # An error that is already on its way says more than that of closing.
        _quietly(self.close) if error is not None else self.close()

    def _failed(self, step: int, error: BaseException) -> CheckpointError:
        newest = self.latest()
        rest = "there is no complete step" if newest is None else f"the newest complete step is {newest}"
        return CheckpointError(
            f"{self.folder}: step {step} could not be saved ({root_cause(error)}); {rest}. "
            "Free space or correct the folder, then start again: training resumes from there"
        )

    def restore(self, step: int | None, abstract: Mapping[str, Any]) -> Restored:
        """Read `step`, or the newest intact one: damaged steps are renamed to N.corrupt, and the reason is printed.

        Args:
            step: None = newest intact.
            abstract: item -> pytree of ShapeDtypeStructs (or arrays): structure, shapes, types, and where each array
                shall lie. A sharding over an abstract mesh means the mesh in use; none means the first device.

        Raises:
            CheckpointError: there is no (intact) step, or the step's parameters are not those asked for.
        """
        self.wait()

        def read(path: epath.Path) -> Restored:
            metadata, tables = read_record(path)
            named = {item: by_name(tree) for item, tree in abstract.items()}
            for item, wanted in named.items():
                check_same(path, item, wanted, tables.get(item, {}))
            loaded = load(path, named, tables)
            items = {
                item: jax.tree.unflatten(jax.tree.structure(tree), [loaded[item][name] for name in named[item]])
                for item, tree in abstract.items()
            }
            return Restored(int(path.name), items, metadata)

        return first_intact(self.folder, self.steps(), step, read, self._set_aside)

    def _set_aside(self, path: epath.Path) -> str:
        """Rename a damaged step to N.corrupt, so that it is neither tried again nor counted."""
        target = next(name for name in corrupt_names(path) if not name.exists())
        processes.gather("name of a damaged step", None)  # all have chosen the same name before it exists
        agreed(path, lambda: path.rename(target) if jax.process_index() == 0 else None)
        self._orbax.reload()
        return f"; renamed to {target.name}"


def save_frozen(folder: Any, frozen: Named) -> None:
    """Save parameters that training does not change, once per run. An existing folder must hold the same ones.

    Raises:
        CheckpointError: it holds others, or cannot be written.
    """
    folder = absolute(folder)
    if not frozen:
        return
    arrays, custom = prepare({"frozen": frozen}, {})
    if folder.exists():
        differing = _differing(_frozen_table(folder), custom["items"]["frozen"])
        if differing:
            raise CheckpointError(
                f"{folder}: holds other frozen parameters than this run's ({some(differing)}); "
                "use a new folder for a run that starts from other weights"
            )
        return
    try:
        with saving_context():
            ocp.save_checkpointables(folder, arrays, custom_metadata=custom)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: frozen parameters could not be saved ({root_cause(error)})") from error
    if jax.process_index() == 0:
        write_step_manifest(folder)


def load_frozen(folder: Any, abstract: Named) -> Named:
    """The frozen parameters that `save_frozen` wrote, verified; `abstract` as in `Checkpoints.restore`.

    Raises:
        CheckpointError: they are missing, damaged, or not those asked for.
    """
    folder = absolute(folder)
    if not abstract:
        return {}
    table = _frozen_table(folder)
    wanted = by_name(abstract)
    check_same(folder, "frozen", wanted, table)
    try:
        return load(folder, {"frozen": wanted}, {"frozen": table})["frozen"]
    except DamagedError as error:
        raise _damaged_frozen(folder, error) from error


def restore_named(folder: Any, abstract: Named, *, step: int | None = None) -> Found:
    """Parameters by name from another run's folder: those of its newest intact (or given) step and its frozen ones.

    Args:
        folder: of the run, with checkpoints/ and perhaps frozen/. It is only read.
        abstract: name -> ShapeDtypeStruct: what is wanted, of which type, and where it shall lie.
        step: None = newest intact.

    Raises:
        CheckpointError: no intact step, or a parameter has another shape.
    """
    folder = absolute(folder)
    frozen_table = _frozen_table(folder / "frozen") if (folder / "frozen").exists() else {}
    abstract = by_name(abstract)

    def read(path: epath.Path) -> Found:
        metadata, tables = read_record(path)
        table = tables.get("trainable", {})
        stored = frozen_table | table
        wanted = {name: leaf for name, leaf in abstract.items() if name in stored}
        wrong = [
            f"{name}: {shape_text(stored[name][1])} there, {shape_text(leaf.shape)} here"
            for name, leaf in wanted.items()
            if tuple(stored[name][1]) != leaf.shape
        ]
        if wrong:
            raise CheckpointError(f"{path}: parameters of another shape ({some(wrong)}); the models differ in size")
        parts = {
            "trainable": {name: leaf for name, leaf in wanted.items() if name in table},
            "frozen": {name: leaf for name, leaf in wanted.items() if name not in table},
        }
        loaded = load(path, {"trainable": parts["trainable"]}, tables)["trainable"]
        try:
            loaded |= load(folder / "frozen", {"frozen": parts["frozen"]}, {"frozen": frozen_table})["frozen"]
        except DamagedError as error:
            raise _damaged_frozen(folder / "frozen", error) from error
        return Found(
            step=int(path.name),
            loaded={name: loaded[name].astype(leaf.dtype) for name, leaf in wanted.items()},
            missing=tuple(name for name in abstract if name not in stored),
            left_over=tuple(name for name in stored if name not in abstract),
            metadata=metadata,
        )

    steps = folder / "checkpoints"
    return first_intact(steps, list_steps(steps), step, read)


def _frozen_table(folder: epath.Path) -> Table:
    if not folder.exists():
        raise CheckpointError(f"{folder}: the frozen parameters are missing; restore the folder from a copy")
    try:
        return read_record(folder)[1]["frozen"]
    except (DamagedError, KeyError) as error:
        raise _damaged_frozen(folder, error) from error


def _damaged_frozen(folder: epath.Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{folder}: the frozen parameters are damaged ({error}); restore the folder from a copy")


def _differing(there: Table, here: Table) -> list[str]:
    return [name for name in there | here if there.get(name) != here.get(name)]


def _quietly(function: Callable[[], Any]) -> None:
    try:
        function()
    except Exception as error:
        print(f"while closing checkpoints: {root_cause(error)}", flush=True)
