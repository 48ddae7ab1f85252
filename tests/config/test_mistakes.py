"""What a recipe does wrong to a field: one sentence with line, field, what it may hold and what it was given."""

import re

import pytest

from ieat_jax import train
from ieat_jax.config.defaults import get_defaults
from ieat_jax.config.recipes import ConfigError, fields, load_config, typed

FIELDS = fields(get_defaults())
WRONG = ("'ten'", "2.5", "('a', 3)", "None", "{'a': 1}", "[None]")
# Sections that a recipe can mistake for a value.
SECTIONS = sorted({field.rpartition(".")[0] for field in FIELDS} - {""})


def recipe(folder, *lines):
    body = "".join(f"    {line}\n" for line in lines)
    (folder / "mine.py").write_text(
        "from ieat_jax.config.defaults import get_defaults, source\n\n\ndef get_config():\n"
        f"    config = get_defaults()\n{body}    return config\n"
    )
    return str(folder / "mine.py")


def said(spec):
    with pytest.raises(ConfigError) as found:
        typed(load_config(spec))
    return str(found.value)


@pytest.mark.parametrize("field", FIELDS)
def test_a_value_of_a_wrong_type_names_field_type_and_value(field, tmp_path):
    told = 0
    for value in WRONG:
        try:
            typed(load_config(recipe(tmp_path, f"config.{field} = {value}")))
        except ConfigError as error:
            sentence, told = str(error), told + 1
        else:
            continue
        assert f"config.{field}" in sentence, value
        assert "must be" in sentence, sentence
        assert "original type" not in sentence, sentence
        assert "\n" not in sentence, sentence
        assert value.strip("[]").replace("None,", "None") in sentence, sentence
    assert told >= 3


@pytest.mark.parametrize("field", ["train.steps", "model.speak.enabled", "data.shapes.tokens", "seed"])
@pytest.mark.parametrize("line", ["config.{} = 'x'", "config.{}['{}'] = 'x'", "config.{}.update(dict({}='x'))"])
def test_however_it_is_set(field, line, tmp_path):
    parent, _, name = field.rpartition(".")
    if line.count("{}") == 2:
        line = line.format(parent, name) if parent else line.replace(".{}", "", 1).format(name)
    sentence = said(recipe(tmp_path, line.format(field)))
    assert re.search(rf"mine\.py: line 6: config\.{field}: must be (int|bool) \(.*\), not 'x'$", sentence)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_no_value(section, tmp_path):
    sentence = said(recipe(tmp_path, f"config.{section} = 3"))
    assert f"line 6: config.{section} is a section, not a value; set its fields one by one: " in sentence


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (
            "print(config.train.stpes)",
            r"line 6: there is no field config\.train\.stpes; did you mean config\.train\.steps",
        ),
        ("config.lock().train.stpes = 3", r"line 6: there is no field config\.train\.stpes; did you mean"),
        ("config['train.steps'] = 3", r"line 6: config\['train\.steps'\]: write a field as config\.train\.steps"),
        ("config.train.steps.more = 3", r"line 6: AttributeError: 'int' object has no attribute 'more'"),
        ("int('x')", r"line 6: ValueError: invalid literal"),
        ("config.data.sources.mine = source(5)", r"config\.data\.sources\.mine\.records: must be str, not 5"),
    ],
)
def test_other_mistakes(line, wanted, tmp_path):
    assert re.search(wanted, said(recipe(tmp_path, line)))


@pytest.mark.parametrize("stage", ["algn", "", "Align", "write ", "0"])
def test_a_stage_that_is_not_there_is_refused_before_it_is_shown(stage, tmp_path, capsys):
    spec = recipe(tmp_path, "config.objective.ce = 1.0")
    with pytest.raises(ConfigError, match=rf"config\.stage: must be one of write, align, joint, not '{stage}'"):
        train.main(["--config", spec, f"--config.stage={stage}", "--show-config"])
    assert capsys.readouterr().out == ""
    assert train.main(["--config", spec, "--config.stage=write", "--show-config"]) == 0
    assert '"stage": "write"' in capsys.readouterr().out
