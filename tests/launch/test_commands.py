"""Every command that the README, the quick start and the module texts name can be given; the README's code is sound."""

import functools
import importlib
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import jax
import pytest

from ieat_jax.config.recipes import load_config, model_config
from ieat_jax.data.injection import thinking
from ieat_jax.data.records import parse_record
from ieat_jax.model.names import named_leaves
from ieat_jax.model.partition import split
from ieat_jax.model.unified import build_model
from ieat_jax.objectives.stages import make_objective

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def readme_commands():
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()]


def quickstart_commands(**environment):
    command = ["bash", ROOT / "launch/quickstart.sh", "--dry-run", "--config.train.steps=2"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def documented_commands():
    """From the texts of entry points, recipes and launch scripts."""
    found = []
    for path in [*ROOT.glob("ieat_jax/*.py"), *ROOT.glob("configs/*.py"), *ROOT.glob("launch/*.sh")]:
        text = re.sub(r"\\\n[# ]*", " ", path.read_text(encoding="utf-8"))
        found += re.findall(r"^(?:#   |    )((?:[A-Z]+=\S+ )?(?:python -m ieat_jax\.|bash launch/).*)$", text, re.M)
    return found


def parse(line):
    """Give a command to the parser of its entry point; nothing is run."""
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if words[0] == "bash":
        assert (ROOT / words[1]).is_file()
        if words[1] != "launch/local.sh":
            return
        words = words[words.index("python") :] if "python" in words else []
    if words[:2] != ["python", "-m"]:
        assert not words or words[0] == "pip"
        return
    module = importlib.import_module(words[2])
    parser = module._parser()
    if words[2] != "ieat_jax.train":
        parser.parse_args(words[3:])
        return
    arguments, overrides = parser.parse_known_args(words[3:])
    if arguments.config.startswith("configs/mine.py"):
        assert all(override.startswith("--config.") for override in overrides)
        return
    load_config(str(ROOT / arguments.config), overrides)


@pytest.mark.parametrize("line", [*readme_commands(), *documented_commands()])
def test_documented_commands_exist(line):
    parse(line)


def test_commands_are_found():
    assert len(readme_commands()) > 12
    assert len(documented_commands()) > 12


def test_the_quick_start_gives_arguments_that_exist(tmp_path):
    for runs in (str(ROOT / "runs" / "demo"), str(tmp_path / "my runs")):
        commands = quickstart_commands(RUNS=runs)
        assert len(commands) == 13
        for command in commands:
            parse(command)


def test_another_folder_reaches_every_path_of_the_recipe(tmp_path):
    runs = str(tmp_path / "my runs")
    for command in quickstart_commands(RUNS=runs):
        words = shlex.split(command)
        if words[2] == "ieat_jax.train":
            config = load_config(str(ROOT / words[4]), words[7:])
            assert '"runs/' not in json.dumps(config.to_dict(), default=str)
        else:
            assert "runs/demo" not in command


def test_the_record_in_the_readme_is_one_and_thinks_as_it_says():
    (text,) = blocks("json")
    record = parse_record(json.loads(text))
    said = re.search(r"Injection makes of it: `(.*?)`", README, re.DOTALL)[1].replace("\n", " ")

    class First:
        def __init__(self, picks):
            self.picks = iter(picks)

        def integers(self, _):
            return next(self.picks)

    sentences = thinking(record, 0, First([0, 1, 1, 0]))
    assert " ".join(sentences.values()) == said


@pytest.mark.parametrize("stage", ["align", "joint"])
def test_the_recipe_in_the_readme_is_whole(stage, tmp_path):
    recipe, _ = blocks("python")
    (tmp_path / "mine.py").write_text(recipe, encoding="utf-8")
    config = load_config(f"{tmp_path / 'mine.py'}:{stage}")
    make_objective(config.stage, config.objective)
    abstract = jax.eval_shape(functools.partial(build_model, model_config(config)), jax.random.key(0))
    trainable, frozen = split(abstract, config.optimizer.rules)
    assert {name.split(".")[0] for name in frozen} == {"listen", "think"} | ({"write"} if stage == "align" else set())
    loaded = r"(think|write)\.(?!.*lora_).*|listen\.encoder\..*"
    if stage == "joint":  # what the earlier stage had
        loaded += r"|listen\..*|emotion\..*"
    known = [loaded, *config.init.allow_new]
    assert [name for name in named_leaves(abstract) if not any(re.fullmatch(p, name) for p in known)] == []
    assert trainable


def test_the_streaming_example_compiles():
    _, example = blocks("python")
    for module, names in re.findall(r"^from (ieat_jax\S+) import (.*)$", example, re.MULTILINE):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name)
    compile(example, "README", "exec")
