"""Where files are. The one file that knows object stores, which are refused; `prepare shards` alone writes to gs://.

So are pipes and devices: to open a pipe waits for whoever writes to it, and /dev/zero is read for ever.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ieat_jax.errors import UserError

if TYPE_CHECKING:
    from etils import epath

PARTIAL = ".partial"  # ends the name of a file that is not complete

# `pathlib` makes gs:/bucket of gs://bucket, so that a path may come without its second slash.
_ADDRESS = re.compile(
    r"(?:([a-z][a-z0-9+.-]*):/|(gs|gcs|s3|s3a|az|abfss?|wasbs?|hdfs|hf|https?|file):)/", re.IGNORECASE
)


class StorageError(UserError):
    """An address, a pipe or a device where the path of a file or folder is needed, or a path that cannot be written."""


def local_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return `path`, which is read or written as `name` (a flag, a field of the configuration, a kind of file).

    Raises:
        StorageError: it is the address of an object store, such as gs://bucket/run, or a pipe, a socket or a device.
    """
    local = without_address(path, name)
    if kind := special(local):
        raise StorageError(f"{name} {local}: is {kind}, which may never end; give a file or folder")
    return local


def special(path: str | os.PathLike[str]) -> str | None:
    """Return what `path` is, in words, if neither file nor folder; None: it is one, or is not there, or not to be seen.

    To be asked before a file is opened: opening may already wait for ever.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: NUL in the name; whoever opens it says so
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def without_address(path: str | os.PathLike[str], name: str) -> Path:
    """Return `path`; whoever opens it looks at what it is.

    Raises:
        StorageError: it is the address of an object store, such as gs://bucket/run.
    """
    text = os.fspath(path)
    if found := _ADDRESS.match(text):
        scheme, rest = found[1] or found[2], text[found.end() :].lstrip("/")
        if scheme.lower() == "file":
            raise StorageError(f"{name} {scheme}://{rest}: give the path alone, without {scheme}://")
        raise StorageError(
            f"{name} {scheme}://{rest}: files cannot be read from or written to {scheme}:// addresses yet; mount the "
            "bucket (gcsfuse) or copy the files, and give the path, like /mnt/runs/align"
        )
    return Path(path)


def check_writable(path: Path, name: str = "", *, folder: bool = False) -> None:
    """Find out before the work whether `path` (a flag's, `name`) could be made, with the folders above it.

    `folder`: it will be a folder.

    Raises:
        StorageError: something above it is a file, or is closed to this user; or it is a folder, and will be a file.
    """
    place = path
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        there = place.is_dir()
    except OSError as error:  # a name that is too long, say
        raise StorageError(f"{name} {path}: cannot be written ({error.strerror})".lstrip()) from error
    if not there and (folder or place != path):
        raise StorageError(f"{place}: is a file; {f'{name} {path}'.lstrip()} has to be a folder, or in one")
    if there and place == path and not folder:
        raise StorageError(f"{place}: is a folder; {f'{name} {path}'.lstrip()} has to be a file")
    if not os.access(place, os.W_OK | (os.X_OK if there else 0)):
        raise StorageError(f"{place}: cannot be written by this user; give another place than {path}")


def open_place(path: str | os.PathLike[str], name: str) -> epath.Path:
    """Return `path`, a folder on this machine or at gs://BUCKET/FOLDER, for what reads and writes both kinds.

    Raises:
        StorageError: another object store, a pipe or a device; or what speaks with gs:// is not installed.
    """
    from etils import epath  # a tenth of a second, which few need

    text = os.fspath(path)
    found = re.match(r"gs:/{1,2}(?=[^/])", text)
    if not found:
        return epath.Path(local_path(path, name))
    try:
        place = epath.Path(f"gs://{text[found.end() :]}")
        place.exists()
    except (ImportError, ValueError) as error:  # fsspec has a ValueError for a protocol without its package
        raise StorageError(f"{name} {text}: gs:// needs the package gcsfs (pip install gcsfs): {error}") from error
    except Exception as error:  # of the client: no credentials, no such bucket, no network
        message = (
            f"{name} {text}: cannot be reached ({type(error).__name__}: {error}); are bucket and credentials right?"
        )
        raise StorageError(message) from error
    return place


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether `path` lies in an object store."""
    return bool(_ADDRESS.match(os.fspath(path)))


@contextmanager
def written(target: epath.Path) -> Iterator[Path]:
    """A local file to write, which becomes `target` when the block ends well: no part of it is ever there."""
    if not is_address(target):
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")  # another may be writing the same file
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / target.name
        yield partial
        with partial.open("rb") as source, target.open("wb") as out:  # an object appears when it is complete
            shutil.copyfileobj(source, out, 1 << 24)
