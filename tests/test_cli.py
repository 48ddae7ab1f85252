import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ieat_jax
from ieat_jax.cli import exit_with
from ieat_jax.errors import UserError

ROOT = Path(__file__).parents[1]


def exit_code(main):
    with pytest.raises(SystemExit) as stopped:
        exit_with(main)
    return stopped.value.code


def raising(error):
    def main():
        raise error

    return main


def test_exit_code_is_that_of_main():
    assert exit_code(lambda: 0) == 0
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 3) == 3


def test_a_user_error_is_a_sentence_and_exit_2(capsys):
    class Special(UserError):
        pass

    assert exit_code(raising(Special("config.model: width is 3; make it even"))) == 2
    printed = capsys.readouterr()
    assert printed.err == "error: config.model: width is 3; make it even\n"
    assert printed.out == ""


def test_interrupt_is_130_without_traceback(capsys):
    assert exit_code(raising(KeyboardInterrupt())) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_with(raising(ZeroDivisionError()))
    with pytest.raises(ValueError, match="plain"):  # the base class of UserError is not enough
        exit_with(raising(ValueError("plain")))


ENTRY_POINTS = sorted(
    path.stem for path in Path(ieat_jax.__file__).parent.glob("*.py") if "exit_with(main)" in path.read_text()
)


def test_every_entry_point_is_here():
    assert ENTRY_POINTS == ["compile_check", "evaluate", "export", "generate", "prepare", "serve", "train"]


@pytest.mark.parametrize("name", [*ENTRY_POINTS, "costs.hardware"])
def test_every_entry_point_says_its_version_and_how_to_call_it(name, capsys):
    module = importlib.import_module(f"ieat_jax.{name}")
    with pytest.raises(SystemExit) as stopped:
        module.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"ieat_jax {ieat_jax.__version__}\n"
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m ieat_jax.{name} " in capsys.readouterr().out


def test_the_version_stands_in_one_place():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in declared["project"]
    assert declared["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ieat_jax.version.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", ieat_jax.__version__)


def test_types_are_for_those_who_install_it():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = declared["tool"]["setuptools"]["package-data"]["ieat_jax"]
    assert "py.typed" in patterns
    there = {path for pattern in patterns for path in (ROOT / "ieat_jax").glob(pattern)}
    # What is read at run time comes along, too.
    wanted = [path for path in (ROOT / "ieat_jax").rglob("*.*") if path.suffix not in (".py", ".pyc", ".md")]
    assert sorted(there) == sorted(wanted)


def test_importing_the_package_is_light():
    """What launchers and notebooks import first needs no packages."""
    program = "import sys, ieat_jax, ieat_jax.cli, ieat_jax.costs.hardware; print(*sorted(sys.modules))"
    command = [sys.executable, "-S", "-c", program]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in loaded} <= {*sys.stdlib_module_names, "__main__", "ieat_jax"}


@pytest.mark.parametrize(
    "arguments",
    [("train", "--config", "configs/demo.py", "--workdir", ""), ("generate", "--checkpoint", "", "--text", "Hello.")],
)
def test_an_empty_path_is_not_the_current_folder(arguments, capsys):
    """As that of a variable that is not set: a run would be written among whatever lies there."""
    name, *rest = arguments
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"ieat_jax.{name}").main(rest)
    assert ended.value.code == 2
    assert "is empty; give a path ('.' is the current folder)" in capsys.readouterr().err
