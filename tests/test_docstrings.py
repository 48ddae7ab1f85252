"""Public functions that raise say so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def inside(function):
    """All that belongs to a function itself, not to one that is defined in it."""
    todo = list(function.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def public_functions(tree):
    """Functions of a module and methods of its classes whose names do not begin with an underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def silent(file):
    """Names of public functions that raise, whose docstring has no section `Raises:` and does not begin with Raise."""
    for node in public_functions(ast.parse(file.read_text(encoding="utf-8"))):
        raises = any(isinstance(inner, ast.Raise) and inner.exc is not None for inner in inside(node))
        text = ast.get_docstring(node) or ""
        if raises and "Raises:\n" not in text and not text.startswith("Raise "):
            yield node.name


def test_public_functions_that_raise_say_so():
    files = sorted((ROOT / "ieat_jax").rglob("*.py"))
    assert [f"{file.relative_to(ROOT)}: {name}" for file in files for name in silent(file)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('def f():\n    """Do."""\n    raise ValueError("x")', ["f"]),
        ('class A:\n    def f(self):\n        if 1:\n            raise ValueError("x")', ["f"]),
        ('def f():\n    """Do.\n\n    Raises:\n        ValueError: never.\n    """\n    raise ValueError("x")', []),
        ('def f():\n    """Raise a ValueError."""\n    raise ValueError("x")', []),
        ('def f():\n    """Do."""\n    def g():\n        raise ValueError("x")', []),
        ('def _f():\n    raise ValueError("x")', []),
        ("def f():\n    try:\n        pass\n    except OSError:\n        raise", []),
    ],
)
def test_the_check_itself(source, found, tmp_path):
    (tmp_path / "a.py").write_text(source)
    assert list(silent(tmp_path / "a.py")) == found
