import dataclasses

import pytest
from ml_collections import ConfigDict

from ieat_jax.config.recipes import (
    ConfigError,
    differences,
    from_json,
    from_section,
    load_config,
    load_model,
    to_json,
    to_section,
    typed,
)
from ieat_jax.model.config import LLMConfig, ModelConfig

RECIPE = '''
"""A recipe."""
from ml_collections import ConfigDict, config_dict

def get_config(arg="small"):
    return ConfigDict({
        "stage": arg, "seed": 0, "sizes": [1, 2], "sources": [{"path": "a", "weights": [1.0, 2.0]}],
        "train": {"steps": 100, "learning_rate": 1e-3, "resume": True, "limit": config_dict.placeholder(int)},
        "optimizer": {"rules": ((".*", 1.0),), "clip_norm": None},
    })
'''


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "plain.py").write_text("from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()\n")
    return str(tmp_path / "recipe.py")


def test_argument_and_overrides_of_every_type(recipe):
    assert load_config(recipe).stage == "small"
    overrides = [
        "--config.train.steps=7",
        "--config.train.learning_rate=2",
        "--config.train.resume=false",
        "--config.train.limit",
        "3",
        "--config.sizes=[4, 5]",
        "--config.optimizer.rules=(('listen.*', 1.0), ('.*', None))",
        "--config.optimizer.clip_norm=0.5",
        "--config.stage=1e3=x",
    ]
    config = load_config(f"{recipe}:large", overrides)
    assert (config.train.steps, config.train.resume, config.train.limit) == (7, False, 3)
    assert isinstance(config.train.learning_rate, float)
    assert config.train.learning_rate == 2
    assert config.sizes == (4, 5)
    assert config.optimizer.rules == (("listen.*", 1.0), (".*", None))
    assert config.optimizer.clip_norm == 0.5
    assert config.stage == "1e3=x"  # strings are taken as they are
    assert load_config(recipe, ["--config.optimizer.clip_norm=none"]).optimizer.clip_norm is None
    with pytest.raises(AttributeError):
        config.train.new = 1  # locked


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.stps=7", r"no field config.train.stps; did you mean config.train.steps\?"),
        ("--config.learning_rate=1", r"no field config.learning_rate; did you mean config.train.learning_rate\?"),
        ("--config.tarin.steps=7", r"no field config.tarin.steps; did you mean config.train.steps\?"),
        ("--config.train.steps.x=7", "config.train.steps is a value, not a section"),
        ("--config.train=7", "config.train is a section, not a value; set its fields one by one: .*steps"),
        ("--config.train.steps=7.5", r"config.train.steps must be int \(a whole number\), not '7.5'"),
        ("--config.train.steps=True", "config.train.steps must be int"),
        ("--config.train.learning_rate=fast", "config.train.learning_rate must be float .*not 'fast'"),
        ("--config.train.resume=2", "config.train.resume must be bool"),
        ("--config.sizes=4", "config.sizes must be tuple .*not '4'"),
        ("--config.seed", "--config.seed: the value is missing"),
        ("--train.steps=7", "'--train.steps=7': overrides are written as --config.FIELD=VALUE"),
    ],
)
def test_wrong_overrides_name_their_field(recipe, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(recipe, [override])


def test_wrong_recipes_are_errors_for_people(recipe, tmp_path):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    for spec, message in [
        (f"{tmp_path}/recipes.py", r"there is no file .*recipes.py; did you mean .*recipe.py\?"),
        ("recipe", "a recipe is a Python file"),
        (f"{tmp_path}/plain.py:x", "takes no argument"),
        (f"{tmp_path}/empty.py", "no function get_config"),
        (f"{tmp_path}/broken.py", "broken.py: line 1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(spec)
    assert load_config(f"{tmp_path}/plain.py").to_dict() == {}


def test_json_gives_an_equal_config(recipe):
    config = load_config(recipe, ["--config.sizes=(1, (2, 'a'))"])
    again = from_json(to_json(config))
    assert again.to_dict() == config.to_dict()
    assert again.sizes == (1, (2, "a"))
    assert again.sources[0].weights == (1.0, 2.0)
    assert again.is_locked
    with pytest.raises(ConfigError, match=r"config.train.limit: .*object.*cannot be stored"):
        to_json(ConfigDict({"train": {"limit": object()}}))
    for text in ("{", "[1]"):
        with pytest.raises(ConfigError, match="damaged"):
            from_json(text)


def test_differences_name_field_and_both_values(recipe):
    config = load_config(recipe)
    assert differences(config, from_json(to_json(config))) == {}
    other = load_config(recipe, ["--config.train.steps=7"]).unlock()
    del other.seed
    assert differences(config, other) == {
        "config.seed": "0 then, absent now",
        "config.train.steps": "100 then, 7 now",
    }


def test_model_section_to_dataclasses_and_back():
    config = ModelConfig(llm=LLMConfig(rope_scaling=(8.0, 1.0, 4.0, 8192.0), num_layers=5), dtype="bfloat16")
    run = ConfigDict({"model": to_section(config)})
    assert typed(run).model == config
    assert typed(from_json(to_json(run))).model == config
    assert hash(typed(run).model) == hash(config)
    partial = ConfigDict({"model": {"llm": {"rope_theta": 10}}})
    assert typed(partial).model == dataclasses.replace(ModelConfig(), llm=LLMConfig(rope_theta=10.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"llm": {"num_layer": 3}}, r"no field config.model.llm.num_layer; did you mean config.model.llm.num_layers\?"),
        ({"llm": {"width": 2.5}}, r"config.model.llm.width: must be int, not 2.5 \(float\)"),
        ({"llm": {"width": True}}, "config.model.llm.width: must be int, not True"),
        ({"llm": {"rope_scaling": 3}}, r"config.model.llm.rope_scaling: must be tuple.* \| None, not 3"),
        ({"listen": 3}, "config.model.listen: must be a section"),
        ({"dtype": None}, "config.model.dtype: must be str, not None"),
    ],
)
def test_wrong_model_fields_are_named(model, message):
    with pytest.raises(ConfigError, match=message):
        typed(ConfigDict({"model": model}))
    with pytest.raises(ConfigError, match=r"config.model.dtype"):
        typed(ConfigDict({"model": {"dtype": "float16"}}))


def test_sections_of_any_dataclass():
    @dataclasses.dataclass(frozen=True)
    class Options:
        count: int = 1
        name: str | None = None

    globals()["Options"] = Options
    assert from_section(Options, {"name": "x"}, "config.options") == Options(name="x")
    with pytest.raises(ConfigError, match=r"config.options.name: must be str \| None, not 3"):
        from_section(Options, {"name": 3}, "config.options")


ENDINGS = {
    "at its import": "import sys\nsys.exit(0)\ndef get_config():\n    return 1\n",
    "in get_config": "def get_config():\n    raise SystemExit\n",
    "in what it loads": (
        "from ieat_jax.config.recipes import load_function\ndef get_config():\n    load_function(__file__, 'other')()\n"
        "def other():\n    exit(3)\n"
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_recipe_that_ends_python_is_told_with_its_line(name, tmp_path):
    """Not the end of the training, with exit code 0 and no word."""
    (tmp_path / "mine.py").write_text(ENDINGS[name])
    with pytest.raises(ConfigError, match=r"mine\.py: line \d: ends Python \(sys\.exit\(.*\)\), so that nothing"):
        load_config(str(tmp_path / "mine.py"))


def test_a_model_that_ends_python_or_fails_is_told_with_its_file(tmp_path):
    for line in ("exit()", "1 / 0"):
        (tmp_path / "small.py").write_text(f"def get_model():\n    {line}\n")
        with pytest.raises(ConfigError, match=r"small\.py: line 2: "):
            load_model(tmp_path, "small")


@pytest.mark.parametrize(
    ("parameters", "given", "told"),
    [
        ("arg", "", r"mine\.py: get_config\(arg\) of .* needs it; write .*mine\.py:ARG$"),
        ("", ":x", r"takes no argument; leave ':x' out$"),
        ("a, b", "", r"get_config\(a, b\) has to take one argument at most"),
        ("a, b", ":x", r"get_config\(a, b\) has to take one argument at most"),
        ("*, a", ":x", r"get_config\(\*, a\) has to take one argument at most"),
    ],
)
def test_an_argument_that_is_missing_or_too_much_is_told(parameters, given, told, tmp_path):
    (tmp_path / "mine.py").write_text(f"def get_config({parameters}):\n    return None\n")
    with pytest.raises(ConfigError, match=told):
        load_config(f"{tmp_path}/mine.py{given}")
