"""The order of the rooms, read off the imports of every file, and sizes that a reader can take in.

A function checks a folder that is laid out like the repository, so that the check itself can be tried on wrong ones.
"""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "ieat_jax"
# From bottom to top. A room, or a file beside the rooms, imports from its own floor and from those below. Rooms of one
# floor may use one another in one direction. `ieat_jax` is the package itself: what stands in its __init__.py.
FLOORS = (
    ("errors", "ranges", "storage", "version", "cli", "progress", "processes"),
    ("audio", "text", "model", "pages"),
    ("codecs", "config", "costs"),
    ("data",),
    ("importers",),
    ("objectives", "inference", "runs", "packing"),
    ("interop",),
    ("training", "preparation", "showing", "serving"),
    ("evaluation",),
    ("prepare", "train", "generate", "serve", "evaluate", "export", "compile_check", "ablate", "talk", PACKAGE),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_SHARE_OF_A_ROOM = 400, 80, 0.15


def modules(root):
    """Name -> file of every module of the package."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def read(file):
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AssertionError(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def room_of(name):
    return name.split(".")[1] if "." in name else PACKAGE


def imports(name, file, known):
    """(module of the package, line) of every import in a file, those inside of functions included."""
    for node in ast.walk(ast.parse(read(file))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            found = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        for each in found:
            if each.split(".")[0] == PACKAGE:
                yield each, node.lineno


def circles(edges):
    """Groups of names of which each is reached from every other, along `edges` (name -> names)."""
    reached = {}
    for name in edges:
        reached[name], todo = set(), [name]
        while todo:
            new = edges.get(todo.pop(), set()) - reached[name]
            reached[name] |= new
            todo += new
    groups = {frozenset(b for b in reached[a] if a in reached.get(b, ())) for a in edges}
    return sorted(sorted(group) for group in groups if group)


def wrong_imports(root):
    """A sentence for every import that runs upwards, every unknown room and every circle."""
    known, told = modules(root), []
    of_modules = {name: set() for name in known}
    of_rooms = {}
    for name, file in known.items():
        here, room = file.relative_to(root), room_of(name)
        if room not in FLOOR_OF:
            told.append(f"{here}: the room {room} is on no floor; put it on one in tests/test_rooms.py")
            continue
        for other, line in imports(name, file, known):
            target = room_of(other)
            of_modules[name].add(other)
            if target != room:
                of_rooms.setdefault(room, set()).add(target)
            if FLOOR_OF.get(target, -1) > FLOOR_OF[room]:
                told.append(f"{here}:{line}: {room} imports {other}, which lies on a higher floor")
    told += ["modules import one another in a circle: " + ", ".join(group) for group in circles(of_modules)]
    told += ["rooms import one another in a circle: " + ", ".join(group) for group in circles(of_rooms)]
    return told


def functions(file):
    for node in ast.walk(ast.parse(read(file))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def too_large(root):
    """A sentence for every file, function and room that is too large."""
    told, lines = [], Counter()
    files = [*root.rglob("*.py"), *root.glob("launch/*.sh")]
    for file in sorted(file for file in files if not any(part[0] == "." for part in file.relative_to(root).parts)):
        here, length = file.relative_to(root), len(read(file).splitlines())
        if length > MOST_LINES:
            told.append(f"{here}: {length} lines, more than {MOST_LINES}")
        for name, long in functions(file) if file.suffix == ".py" else ():
            if long > MOST_LINES_OF_A_FUNCTION:
                told.append(f"{here}: {name} has {long} lines, more than {MOST_LINES_OF_A_FUNCTION}")
    for name, file in modules(root).items():
        lines[room_of(name)] += len(read(file).splitlines())
    most = MOST_SHARE_OF_A_ROOM * lines.total()
    for room, length in lines.most_common():
        if length > most:
            told.append(
                f"{PACKAGE}/{room}: {length} of {lines.total()} lines, {length / lines.total():.1%} of the whole"
            )
    return told


def test_imports_run_one_way():
    assert wrong_imports(ROOT) == []


def test_files_functions_and_rooms_can_be_taken_in():
    assert too_large(ROOT) == []


def write(root, **files):
    for name, text in files.items():
        path = root / PACKAGE / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


SOUND = {"errors": "", "model__llm": "from ieat_jax.errors import UserError", "train": "import ieat_jax.model.llm"}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, []),
        ({"audio__x": "from ieat_jax.model import llm"}, []),
        (
            {"model__x": "def f():\n    from ieat_jax.data import y", "data__y": ""},
            ["ieat_jax/model/x.py:2: model imports ieat_jax.data.y, which lies on a higher floor"],
        ),
        (
            {"model__x": "from ..data.y import z", "data__y": "z = 1"},
            ["ieat_jax/model/x.py:1: model imports ieat_jax.data.y, which lies on a higher floor"],
        ),
        (
            {"model__x": "from ieat_jax import load"},
            ["ieat_jax/model/x.py:1: model imports ieat_jax, which lies on a higher floor"],
        ),
        (
            {"utils__x": "import os"},
            ["ieat_jax/utils/x.py: the room utils is on no floor; put it on one in tests/test_rooms.py"],
        ),
        (
            {"helpers": ""},
            ["ieat_jax/helpers.py: the room helpers is on no floor; put it on one in tests/test_rooms.py"],
        ),
        (
            {"data__x": "from . import y", "data__y": "from ieat_jax.data.z import a", "data__z": "from .x import b"},
            ["modules import one another in a circle: ieat_jax.data.x, ieat_jax.data.y, ieat_jax.data.z"],
        ),
        (
            {"text__x": "from ieat_jax.audio import y", "audio__y": "", "audio__z": "from ieat_jax.text import x"},
            ["rooms import one another in a circle: audio, text"],
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_wrong_import_is_named(files, told, tmp_path):
    write(tmp_path, **SOUND, **files)
    assert wrong_imports(tmp_path) == told


def test_what_is_too_large_is_named(tmp_path):
    write(tmp_path, **{f"{room}__x": "a = 1\n" * 60 for room in ("audio", "text", "model", "codecs", "runs", "data")})
    write(tmp_path, interop__x="a = 1\n" * 60, config__y="a = 1\n" * 2)
    assert too_large(tmp_path) == []
    write(tmp_path, training__x="def f():\n" + "    a = 1\n" * 80 + "a = 1\n" * 320)
    assert too_large(tmp_path) == [
        "ieat_jax/training/x.py: 401 lines, more than 400",
        "ieat_jax/training/x.py: f has 81 lines, more than 80",
        "ieat_jax/training: 401 of 823 lines, 48.7% of the whole",
    ]


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    write(tmp_path, **SOUND)
    (tmp_path / PACKAGE / "audio").mkdir()
    (tmp_path / PACKAGE / "audio" / "odd.py").write_bytes("# Käse".encode("latin-1"))
    for check in (wrong_imports, too_large):
        with pytest.raises(AssertionError, match=r"audio/odd\.py: byte 3 is not UTF-8"):
            check(tmp_path)
