"""manifest.json: what the files of a folder were when they were written, so that no later change passes unseen.

A run's folder has one over its configuration, tokenizer, codec and hand-over, and so have frozen/ and every step of
checkpoints/. It names each file with its size and SHA-256; large files of arrays with their size alone, since every
array has a fingerprint in the checkpoint's record. An export has one over every file, with what is told about it (the
run, the step, the version, the codec). The manifest's own bytes are checked as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from ieat_jax.storage import special

FILE = "manifest.json"
HASHED = 1 << 20  # bytes of a file of arrays up to which it is hashed: Orbax's own files are smaller

Folder: TypeAlias = Path | epath.Path
Marks = dict[str, list[str]]  # file, relative to the folder -> the contents that it may have


def mark(content: bytes) -> str:
    """The mark of a file with this content."""
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}"


def _mark_file(path: Folder) -> str:
    with path.open("rb") as file:  # in pieces: an export's files may be larger than memory
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"{file.tell()} {digest}"


def marks_of(folder: Folder, *, hashed: int | None = None) -> Marks:
    """The marks of all files below `folder`; of those of more than `hashed` bytes, the size alone."""
    found = {}
    for name, path in _files(folder, ""):
        if name != FILE:
            size = _size(path)
            found[name] = [str(size) if hashed is not None and size > hashed else _mark_file(path)]
    return found


def _files(folder: Folder, prefix: str) -> Iterable[tuple[str, Folder]]:
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_dir():
            yield from _files(path, f"{prefix}{path.name}/")
        else:
            yield f"{prefix}{path.name}", path


def _size(path: Folder) -> int:
    return path.stat().st_size if isinstance(path, Path) else path.stat().length


def _render(marks: Mapping[str, list[str]], about: Mapping[str, Any]) -> str:
    told = f'"about": {json.dumps(about, indent=1, sort_keys=True)},\n' if about else ""
    files = json.dumps({name: marks[name] for name in sorted(marks)}, indent=1, ensure_ascii=True)
    digest = hashlib.sha256((told + files).encode()).hexdigest()
    return f'{{{told}"files": {files},\n"sha256": "{digest}"}}\n'


def write_manifest(folder: Folder, marks: Mapping[str, list[str]], about: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of `folder`, at once or not at all; `about`: what else it tells, as JSON holds it."""
    part = folder / f"{FILE}.part"
    part.write_text(_render(marks, about or {}), encoding="utf-8")
    part.replace(folder / FILE)


def read_manifest(folder: Folder) -> Marks | None:
    """The marks of `folder`; None: it has no manifest.

    Raises:
        ValueError: the manifest is not what was written.
    """
    found = _read(folder)
    return None if found is None else found["files"]


def read_about(folder: Folder) -> dict[str, Any]:
    """What the manifest of `folder` tells beside its files; empty without one.

    Raises:
        ValueError: the manifest is not what was written.
    """
    return (_read(folder) or {}).get("about", {})


def _read(folder: Folder) -> dict[str, Any] | None:
    if kind := special(folder / FILE):
        raise ValueError(f"{FILE} is {kind} by now")
    try:
        content = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = json.loads(content)
        whole = _render(found["files"], found.get("about", {})).encode() == content
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{FILE} was changed after it was written")
    return found


def changes(folder: Folder, marks: Mapping[str, list[str]]) -> list[str]:
    """In words, which files of `folder` are missing or not those of `marks`; other files do not count."""
    found = []
    for name, known in marks.items():
        path, with_hash = folder / name, any(" " in each for each in known)
        if kind := special(path):
            found.append(f"{name} is {kind} by now")
            continue
        try:
            if (_mark_file(path) if with_hash else str(_size(path))) not in known:
                found.append(f"{name} was changed after it was written")
        except (FileNotFoundError, NotADirectoryError):
            found.append(f"{name} is missing")
        except IsADirectoryError:
            found.append(f"{name} is a folder by now")
    return found
