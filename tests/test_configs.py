"""Every shipped recipe takes a step, with tiny sizes and a tiny corpus in place of its own."""

import re
from pathlib import Path

import pytest
from training.tiny_stages import recipe, write_corpus

from ieat_jax.config import load_config, model_config, normal
from ieat_jax.training.loop import train

ROOT = Path(__file__).parents[1]
RECIPES = sorted(
    f"{path.relative_to(ROOT)}:{argument}"
    for path in ROOT.glob("configs/*.py")
    for argument in re.findall(r'"(\w+)"', re.search(r"^(?:STAGES|VARIANTS) = \((.*)\)$", path.read_text(), re.M)[1])
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def stand_in(config, corpus):
    """The recipe with the sizes, data and weights of the tiny runs; objective, rules and injection stay its own."""
    tiny = recipe(corpus, config.stage)
    with config.unlocked(), config.ignore_type():
        lora, speaks, mix = config.model.lora, config.model.speak.enabled, config.model.listen.layer_mix
        config.model = tiny.model
        config.model.lora, config.model.speak.enabled, config.model.listen.layer_mix = lora, speaks, mix
        config.data.sources, config.data.shapes = tiny.data.sources, tiny.data.shapes
        config.data.batch_size = 8 * config.train.accumulate
        config.tokenizer, config.codec, config.init = tiny.tokenizer, tiny.codec, tiny.init
        config.mesh, config.train.steps, config.train.log_every = tiny.mesh, 1, 1
        config.optimizer.warmup_steps = 0
    return normal(config)


def test_there_are_recipes():
    assert {"configs/demo.py:write", "configs/demo.py:align", "configs/demo.py:joint"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_whole_and_takes_a_step(name, corpus, tmp_path):
    config = load_config(str(ROOT / name))
    model_config(config)
    assert train(stand_in(config, corpus), tmp_path / "run").step == 1
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()
