"""Every shipped recipe takes a step, with tiny sizes and a tiny corpus in place of its own."""

from pathlib import Path

import pytest
from helpers.tiny_stages import recipe, start, use_mesh, write_corpus

from ieat_jax.config.recipes import load_config, normal, typed
from ieat_jax.costs.hardware import MACHINES
from ieat_jax.errors import UserError

ROOT = Path(__file__).parents[1]
ARGUMENTS = {
    "configs/demo.py": ("write", "align", "joint"),
    "configs/emodb.py": ("hear_learned", "hear_last", "learned", "last"),
    "configs/align.py": ("goat_8b,v5e-256",),
    "configs/joint.py": ("smollm2_135m",),
}
RECIPES = [f"{path}:{argument}" for path, arguments in ARGUMENTS.items() for argument in arguments]
# Those whose programs differ most; the quick start trains the demo's.
STEPPED = ("configs/emodb.py:learned", "configs/align.py:goat_8b,v5e-256", "configs/joint.py:smollm2_135m")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(autouse=True)
def one_device():
    use_mesh(1, 1, 1, 1)
    yield
    use_mesh()


def stand_in(config, corpus):
    """The recipe with the sizes, data and weights of the tiny runs; objective, rules and injection stay its own."""
    tiny = recipe(corpus, config.stage)
    with config.unlocked(), config.ignore_type():
        lora, speaks, mix = config.model.lora, config.model.speak.enabled, config.model.listen.layer_mix
        config.model = tiny.model
        config.model.lora, config.model.speak.enabled, config.model.listen.layer_mix = lora, speaks, mix
        config.data.sources, config.data.shapes = tiny.data.sources, tiny.data.shapes
        config.data.batch_size = 2 * config.train.accumulate
        config.tokenizer, config.codec, config.init = tiny.tokenizer, tiny.codec, tiny.init
        config.mesh, config.train.steps, config.train.log_every = tiny.mesh, 1, 1
        config.optimizer.warmup_steps = 0
    return normal(config)


def test_every_recipe_is_here():
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("configs/*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_whole(name, corpus):
    config = load_config(str(ROOT / name))
    typed(config)
    typed(stand_in(config, corpus))


@pytest.mark.parametrize("name", STEPPED)
def test_a_shipped_recipe_takes_a_step(name, corpus, tmp_path):
    assert start(stand_in(load_config(str(ROOT / name)), corpus), tmp_path / "run").step == 1
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


@pytest.mark.parametrize("model", sorted(path.stem for path in ROOT.glob("configs/models/*.py")))
@pytest.mark.parametrize("machine", [*MACHINES, ""])
def test_every_model_and_machine_make_a_configuration(model, machine):
    for stage in ("align", "joint"):
        config = load_config(f"{ROOT / 'configs'}/{stage}.py:{model}{',' * bool(machine)}{machine}")
        sizes = typed(config).model
        if machine:
            assert config.mesh.replica * config.mesh.fsdp == MACHINES[machine] == config.data.batch_size
            assert sizes.llm.width % config.mesh.fsdp == sizes.listen.encoder.width % config.mesh.fsdp == 0


def test_an_unknown_model_or_machine_is_named():
    with pytest.raises(UserError, match=r"there is no model 'goat' in .*, only goat_8b, qwen2_5_7b"):
        load_config(f"{ROOT / 'configs/align.py'}:goat")
    with pytest.raises(UserError, match="no settings for the machine 'v5e-8', only for v5e-256"):
        load_config(f"{ROOT / 'configs/align.py'}:goat_8b,v5e-8")
