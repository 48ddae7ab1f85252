"""Every field of the configuration says what it may hold, and the command line refuses the rest by name."""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping

import pytest

from ieat_jax import train
from ieat_jax.config.defaults import get_defaults
from ieat_jax.config.recipes import as_plain, load_config, to_json, to_section, typed
from ieat_jax.config.sections import RunConfig
from ieat_jax.errors import ConfigError
from ieat_jax.ranges import ANYTHING

RECIPE = "configs/demo.py:write"
WRONG = {int: ("'x'", "1.5"), float: ("'x'", "nan"), bool: ("3",), tuple: ("3",)}
# Values that no bound of a number gives.
OUTSIDE = {
    "checkpoint.allow_changes": "('',)",
    "tokenizer.rename": "(('a',),)",
    "init.allow_new": "('(',)",
    "data.injection.segments": "('mood',)",
    "objective.extra": "(('mine.py', 1.0),)",
    "optimizer.rules": "(('(', 1.0),)",
    "train.compiler_options": "('novalue',)",
    "model.llm.rope_scaling": "(1.0, 2.0)",
}


def all_fields(kind=RunConfig, at=""):
    """(dotted name, type, dataclass field) of every value of the configuration; the entry of a mapping is NAME."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint, name = hints[item.name], f"{at}{item.name}"
        if dataclasses.is_dataclass(hint):
            yield from all_fields(hint, f"{name}.")
        elif typing.get_origin(hint) is Mapping:
            yield from all_fields(typing.get_args(hint)[1], f"{name}.dialogues.")
        else:
            yield name, hint, item


FIELDS = list(all_fields())


def refused(capsys, name, text):
    """What the command line says; the error of an entry point, which ends with exit code 2."""
    with pytest.raises(ConfigError) as caught:
        train.main(["--config", RECIPE, "--show-config", f"--config.{name}={text}"])
    capsys.readouterr()
    return str(caught.value)


@pytest.mark.parametrize(("name", "hint", "item"), FIELDS, ids=[name for name, _, _ in FIELDS])
def test_a_field_says_what_it_holds_and_the_rest_is_refused(name, hint, item, capsys):
    allowed = item.metadata["allowed"]  # every field declares it
    kind = next((kind for kind in (bool, int, float, str, tuple) if kind in (hint, typing.get_origin(hint))), tuple)
    for text in WRONG.get(kind, ()):
        assert f"config.{name}" in refused(capsys, name, text)
    if allowed is ANYTHING or kind is bool:
        return
    if name in OUTSIDE:
        wrong = [OUTSIDE[name]]
    elif kind in (int, float):
        candidates = (-(10**12), -2, -1, 0, 1, 2, 10**12, 1.0000001, math.inf, math.nan)
        wrong = [
            str(kind(each))
            for each in candidates
            if (kind is float or math.isfinite(each)) and not allowed.fits(kind(each))
        ]
        assert wrong, "no number is refused: it has no bounds"
    else:
        wrong = ["("]  # neither a regular expression nor one of a few words
    for text in wrong:
        said = refused(capsys, name, text)
        assert f"config.{name}: must be {allowed.words}" in said


def test_several_mistakes_are_told_at_once():
    config = get_defaults()
    config.train.accumulate, config.train.log_every, config.data.read_threads = 0, 0, 0
    with pytest.raises(ConfigError) as caught:
        typed(config)
    for name in ("train.accumulate", "train.log_every", "data.read_threads"):
        assert f"config.{name}: must be at least 1, not 0" in str(caught.value)


def test_defaults_and_recipes_are_the_same_before_and_after_the_door():
    for config in (get_defaults(), *(load_config(f"configs/demo.py:{stage}") for stage in ("write", "align", "joint"))):
        assert to_json(to_section(typed(config))) == to_json(config)
        assert as_plain(typed(config)) == json.loads(to_json(config))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("config.train.stpes = 3", r"there is no field config\.train\.stpes; did you mean config\.train\.steps\?"),
        ("config.train.steps = 'many'", r"line \d+: TypeError|config\.train\.steps: must be int"),
        ("import no_such_module", r"recipe\.py: line 4: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise KeyError('x')", r"recipe\.py: line 4: KeyError: 'x'"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_a_sentence(body, text, tmp_path):
    file = tmp_path / "recipe.py"
    lines = ["from ieat_jax.config.defaults import get_defaults", "def get_config():", "    config = get_defaults()"]
    file.write_text("\n".join([*lines, f"    {body}", "    return config"]))
    with pytest.raises(ConfigError, match=text):
        train.main(["--config", str(file), "--show-config"])
    file.write_text(f"{body.replace('config.', 'undefined.')}\ndef get_config():\n    return 1\n")
    with pytest.raises(ConfigError, match=r"recipe\.py: line 1"):
        train.main(["--config", str(file), "--show-config"])
