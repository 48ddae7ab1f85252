"""Where files are: on disks that this machine sees. The one file that knows object stores, which are refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ieat_jax.errors import UserError

# `pathlib` makes gs:/bucket of gs://bucket, so that a path may come without its second slash.
_ADDRESS = re.compile(
    r"(?:([a-z][a-z0-9+.-]*):/|(gs|gcs|s3|s3a|az|abfss?|wasbs?|hdfs|hf|https?|file):)/", re.IGNORECASE
)


class StorageError(UserError):
    """An address where the path of a file or folder is needed."""


def local_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return `path`, which is read or written as `name` (a flag, a field of the configuration, a kind of file).

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
