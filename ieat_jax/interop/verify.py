"""Whether the files of an export are those that were written."""

from __future__ import annotations

import os
from pathlib import Path

from ieat_jax.interop.containers.source import InteropError
from ieat_jax.runs import manifest
from ieat_jax.runs.arrays import some

CONFIG = "ieat.json"  # the run's configuration: what marks a folder as an export


def is_export(folder: Path) -> bool:
    """Whether `export` made this folder."""
    return (folder / CONFIG).is_file()


def check_export(path: Path) -> None:
    """Compare an export, or one folder or file of it, with its manifest; what is no part of an export passes.

    Raises:
        InteropError: a file, or the manifest, is missing or was changed; names them all.
    """
    path = Path(os.path.abspath(path))
    root = next((each for each in (path, path.parent) if is_export(each)), None)
    if root is None:
        return
    try:
        marks = manifest.read_manifest(root)
    except ValueError as error:
        raise InteropError(f"{root}: {error}; export it again") from error
    if marks is None:
        raise InteropError(f"{root}: {manifest.FILE} is missing, so that nothing tells a damaged file; export it again")
    if path != root:
        marks = {name: known for name, known in marks.items() if name == path.name or name.startswith(f"{path.name}/")}
    if found := manifest.changes(root, marks):
        raise InteropError(f"{root}: {some(found)}; export it again, or get it again from where it is intact")
