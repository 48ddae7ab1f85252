"""Paths as Orbax and TensorStore take them: a folder's name is a name, whatever characters it has."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from etils import epath

from ieat_jax.errors import UserError


def absolute(folder: Any) -> epath.Path:
    """A local or cloud (gs://) folder as Orbax wants it.

    Raises:
        UserError: a path with a backslash.
    """
    path = epath.Path(folder).expanduser().absolute()
    if "\\" in str(path):
        raise UserError(
            f"{path}: TensorStore takes the backslash in this path for a slash, and would write beside the folder; "
            "give a path without one"
        )
    return path


LocalPath = type(epath.Path("/"))
_glob = LocalPath.glob


def _glob_below(self: epath.Path, pattern: str) -> Iterator[epath.Path]:
    """What of `pattern` lies in this folder.

    etils hands folder and pattern to `glob` as one pattern. Of `runs/lr=[1e-3]` nothing is found then, so that Orbax
    leaves out what its processes have written and still calls a step complete; of `runs/a*`, other runs are found.
    """
    if not glob.has_magic(str(self)):
        yield from _glob(self, pattern)
        return
    found = [self]
    for part in PurePosixPath(pattern).parts:
        inside = [path for folder in found if folder.is_dir() for path in folder.iterdir()]
        found = [path for path in inside if fnmatch.fnmatchcase(path.name, part)]
    yield from found


LocalPath.glob = _glob_below
