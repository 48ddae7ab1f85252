"""Commands as they stand in texts, given to the parsers and dry runs of what they call; nothing is trained or sent."""

import importlib
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

from ieat_jax.config.recipes import load_config

ROOT = Path(__file__).resolve().parents[2]
DRY = ("gke.sh", "quickstart.sh", "slurm.sh", "tpu_vm.sh")
# Programs of others that READMEs name: word 1 -> (pattern of the arguments, why it is sound).
OTHERS = {
    "tensorboard": r"--logdir [\w/]+",
    "docker": r"(build -f launch/Dockerfile -t [\w./:-]+( --build-arg EXTRAS=\w+)? \.|push [\w./:-]+)",
}


def lines_of(text):
    """The commands of a block of bash: continued lines joined, comments left out, one by one."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if shlex.split(line, comments=True)]


def parse(line, recipes=None):
    """Give a line of commands to what they call. `recipes`: {path of a recipe that a README holds: its place here}."""
    words = shlex.split(line, comments=True)
    while "&&" in words:
        at = words.index("&&")
        _parse(words[:at], recipes or {})
        words = words[at + 1 :]
    _parse(words, recipes or {})


def _parse(words, recipes):
    environment = {}
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    first, rest = words[0], words[1:]
    if first == "source":
        assert rest == [".venv/bin/activate"], words
    elif first == "bash":
        _script(rest, environment, recipes)
    elif first == "python":
        _python(rest, recipes)
    elif first == "pip":
        _pip(rest)
    else:
        assert first in OTHERS, f"{first}: a program that no test knows"
        assert re.fullmatch(OTHERS[first], " ".join(rest)), words


def _script(words, environment, recipes):
    script, arguments = ROOT / words[0], words[1:]
    assert script.is_file(), f"{words[0]} is not there"
    text = script.read_text(encoding="utf-8")
    for name in environment:
        assert name in text, f"{words[0]} reads no {name}"
    if script.name == "local.sh":
        arguments = arguments[arguments[0] == "--dry-run" :]
        assert re.fullmatch(r"[1-9]\d*", arguments[0])
        if arguments[1] == "python":
            _python(arguments[2:], recipes)
    elif script.name in DRY:
        # A recipe of the reader's own is not there: that of the quick start stands in for it.
        arguments = [word.replace("configs/mine.py", "configs/demo.py") for word in arguments]
        command = ["bash", script, *(arguments if "--dry-run" in arguments else ["--dry-run", *arguments])]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    elif script.name == "test.sh":
        _pytest(arguments)


def _python(words, recipes):
    if words[:2] == ["-m", "pytest"]:
        _pytest(words[2:])
    elif words[0] == "-m":
        _entry_point(words[1], words[2:], recipes)
    else:
        path = ROOT / words[0]
        compile(path.read_text(encoding="utf-8"), words[0], "exec")


def _entry_point(name, arguments, recipes):
    parser = importlib.import_module(name)._parser()
    if name not in ("ieat_jax.train", "ieat_jax.compile_check"):
        parser.parse_args(arguments)
        return
    found, overrides = parser.parse_known_args(arguments)
    file, _, argument = found.config.partition(":")
    load_config(f"{recipes.get(file, ROOT / file)}:{argument}", overrides)


def _pytest(words):
    skip = False
    for word in words:
        if word in ("-k", "-n", "-m"):
            skip = True
        elif skip:
            skip = False
        else:
            assert word in ("-x", "-q") or (ROOT / word.split("::")[0]).exists(), f"pytest {word}"


def _pip(words):
    assert words[0] == "install", words
    wanted = [word for word in words[1:] if not word.startswith("-")]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installed = (ROOT / "launch/test.sh").read_text(encoding="utf-8")
    assert set(words[1:]) - set(wanted) <= {"-e", "--no-deps"}, words
    for word in wanted:
        if word.startswith("."):
            names = re.fullmatch(r"\.\[([\w,]+)\]", word)[1].split(",")
            assert set(names) <= set(extras), f"{word}: no such extra"
        else:
            assert word == "tensorboard" or word in installed, f"{word} is installed by no script"
