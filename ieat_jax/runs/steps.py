"""The steps of a folder of checkpoints: which there are, and the newest intact one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from ieat_jax import processes
from ieat_jax.runs.arrays import CheckpointError, DamagedError, read_record, some
from ieat_jax.runs.paths import absolute


def list_steps(folder: Any) -> list[int]:
    """Steps in a folder, ascending, without touching it: it may belong to a run that is training."""
    folder = absolute(folder)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def read_metadata(folder: Any, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """(step, metadata) of a folder of steps without reading arrays; None = the newest step.

    Raises:
        CheckpointError: no such step, or its metadata is damaged.
    """
    folder = absolute(folder)

    def read(path: epath.Path) -> tuple[int, dict[str, Any]]:
        return int(path.name), read_record(path)[0]

    return first_intact(folder, list_steps(folder), step, read)


def resume_point(folder: Any) -> tuple[int, dict[str, Any]] | None:
    """(step, metadata) of the newest step with intact files, from which a run goes on; None: it has none, and begins.

    This alone decides whether an attempt is a resume; what an interrupted save left behind does not count.

    Raises:
        CheckpointError: there are steps, but all are damaged, or the processes see different ones.
    """
    folder = absolute(folder)
    steps = list_steps(folder)
    newest = max(steps, default=-1)
    seen = processes.gather("newest step", newest)
    if set(seen) != {newest}:
        listed = ", ".join("none" if each < 0 else str(each) for each in seen)
        raise CheckpointError(
            f"{folder}: the newest step is another one for each process ({listed}); all must see the same folder, "
            "on a file system that they share"
        )
    if steps:
        return read_metadata(folder)
    corrupt = sorted(path.name for path in folder.iterdir() if ".corrupt" in path.name) if folder.is_dir() else []
    if corrupt:
        raise CheckpointError(
            f"{folder}: no intact checkpoint ({some(corrupt)} were set aside); restore the folder from a copy, or "
            "delete them, and the run begins again"
        )
    return None


def first_intact(
    folder: epath.Path,
    steps: Sequence[int],
    step: int | None,
    read: Callable[[epath.Path], Any],
    set_aside: Callable[[epath.Path], str] = lambda path: "",
) -> Any:
    """`read` of `step`, or of the newest step that is not damaged.

    `set_aside` deals with a damaged one, and says what it did.

    Raises:
        CheckpointError: there is no such step, or no intact one.
    """
    if not steps or (step is not None and step not in steps):
        known = f"; there are {', '.join(map(str, steps))}" if steps else ""
        wanted = "a step" if step is None else f"step {step}"
        raise CheckpointError(f"{folder}: there is no checkpoint of {wanted}{known}")
    reasons = []
    for number in [step] if step is not None else sorted(steps, reverse=True):
        path = folder / str(number)
        try:
            return read(path)
        except DamagedError as error:
            reasons.append(f"step {number}: {error}")
            done = set_aside(path) if step is None else ""
            if processes.index() == 0:
                print(f"checkpoint {path} is damaged and skipped: {error}{done}", flush=True)
    raise CheckpointError(
        f"{folder}: no intact checkpoint ({'; '.join(reasons)}); "
        + ("choose another step" if step is not None else "restore the folder from a copy")
    )


def corrupt_names(path: epath.Path) -> list[epath.Path]:
    """Where a damaged step may be set aside."""
    return [path.parent / f"{path.name}.corrupt{'' if number == 1 else number}" for number in range(1, 1000)]
