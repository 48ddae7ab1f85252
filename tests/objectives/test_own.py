"""A loss that lives in a user's own file: trained, logged, stored, and refused with a sentence where it cannot be."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.tiny_stage_rows import batch_of, tiny_model
from helpers.tiny_stages import recipe, start, use_mesh, write_corpus

from ieat_jax.config.sections import ObjectiveConfig, RunConfig
from ieat_jax.errors import ConfigError
from ieat_jax.objectives import own
from ieat_jax.objectives.losses import total
from ieat_jax.objectives.own import Forward, own_losses
from ieat_jax.objectives.stages import STAGES, make_objective
from ieat_jax.runs.folder import load_run
from ieat_jax.training.resume import TrainError

MINE = """
import jax.numpy as jnp

def quiet(model, batch, forward):
    audio, lengths = forward.heard
    return jnp.sum(jnp.square(audio)), jnp.float32(audio.size)

def reading(model, batch, forward):
    assert forward.written.shape == forward.states.shape == (*batch.tokens.shape, forward.states.shape[-1])
    return jnp.sum(batch.segment_ids > 0), 2.0
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    (folder / "mine.py").write_text(MINE)
    return folder


@pytest.fixture(autouse=True)
def one_device():
    use_mesh(1, 1, 1, 1)
    yield
    use_mesh()


ONE_STEP = {"train__steps": 1, "train__log_every": 1, "optimizer__warmup_steps": 0}


def logged(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def aligned(corpus, tmp_path_factory):
    """(extra, folder) of a run of one step with two losses of a user's own."""
    folder = tmp_path_factory.mktemp("align") / "run"
    extra = ((f"{corpus}/mine.py:quiet", 100.0), (f"{corpus}/mine.py:reading", 0.0))
    use_mesh(1, 1, 1, 1)
    only = dict.fromkeys(("objective__kl", "objective__eot", "objective__ce", "objective__attribute"), 1e-6)
    start(recipe(corpus, "align", objective__extra=extra, checkpoint__initial=True, **ONE_STEP, **only), folder)
    return extra, folder


def test_it_is_logged_trained_and_stored(aligned, corpus):
    extra, folder = aligned
    metrics, run = logged(folder), load_run(folder)
    assert {"quiet", "reading"} <= set(metrics)
    others = sum(metrics[name] for name in ("kl", "eot", "ce", "attribute"))
    assert metrics["loss"] == pytest.approx(100 * metrics["quiet"] + 1e-6 * others, rel=1e-3)
    assert run.config.objective.extra == extra
    kernels = (np.asarray(each.model.listen.adapter.conv1.kernel[...]) for each in (load_run(folder, step=0), run))
    assert not np.array_equal(*kernels)
    with pytest.raises(TrainError, match=r"config\.objective\.extra: .*quiet"):
        start(recipe(corpus, "align", **ONE_STEP), folder)


def test_a_file_that_says_something_else_is_refused_at_a_resume(corpus, tmp_path):
    own, moved, workdir = tmp_path / "own.py", tmp_path / "moved.py", tmp_path / "run"

    def run(file=own, **more):
        extra = ((f"{file}:reading", 1.0),)
        return start(recipe(corpus, "write", objective__extra=extra, **ONE_STEP, **more), workdir).step

    recipe_of = "def get_config():\n    return {steps}\n"
    own.write_text(recipe_of.format(steps=1) + MINE)
    assert run() == run() == 1
    # A recipe may hold the function: what its get_config returns is compared itself.
    moved.write_text(MINE + "\n\n" + recipe_of.format(steps=2))
    assert run(moved) == 1
    own.write_text(MINE.replace("2.0", "4.0"))
    with pytest.raises(TrainError, match=r"\(config\.objective\.extra: the file of reading says something else"):
        run()
    assert run(checkpoint__allow_changes=("objective.extra",)) == 1


def traced(stage, *extra, **factors):
    """The names of what an objective computes: traced, as training does it."""
    objective, _ = make_objective(RunConfig(stage=stage, objective=ObjectiveConfig(extra=extra, **factors)))
    return set(jax.eval_shape(objective, tiny_model(), batch_of(stage)))


def function(folder, text):
    """The name in a recipe of a function with these lines."""
    (folder / "own.py").write_text(f"import jax.numpy as jnp\n\n\ndef own{text}\n")
    return f"{folder}/own.py:own"


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ("nowhere.py:quiet", "there is no file nowhere.py"),
        ("{corpus}/mine.py:loud", "has no function loud"),
        ("mine:quiet", r"config\.objective\.extra: must be pairs"),
    ],
)
def test_what_is_not_there_is_found_before_data_is_read(corpus, tmp_path, extra, text):
    with pytest.raises(ConfigError, match=text):
        start(recipe(corpus, "align", objective__extra=((extra.format(corpus=corpus), 1.0),)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "parameters", ["()", "(model)", "(model, batch)", "(model, batch, forward, more)", "(*, model, batch, forward)"]
)
def test_a_function_that_cannot_be_called_so_is_refused_at_once(tmp_path, parameters):
    spec = function(tmp_path, f"{parameters}: return 0.0, 1.0")
    wanted = rf"own\.py: own{re.escape(parameters)} has to take \(model, batch, forward\)"
    with pytest.raises(ConfigError, match=wanted):
        own_losses(ObjectiveConfig(extra=((spec, 1.0),)), "align", ())


@pytest.mark.parametrize("parameters", ["(*all)", "(model, batch, forward, more=3)", "(a, b, c)"])
def test_any_function_that_can_be_called_so_is_taken(tmp_path, parameters):
    assert "own" in traced("write", (function(tmp_path, f"{parameters}: return 0.0, 1"), 1.0))


# Of every stage, the fields of `forward` that it has none of.
NONE = {"write": ("heard", "teacher", "spoken"), "align": ("spoken",), "joint": ("teacher",)}


@pytest.mark.parametrize(("stage", "field"), [(stage, name) for stage, names in NONE.items() for name in names])
def test_reading_what_a_stage_does_not_compute_is_a_sentence(tmp_path, stage, field):
    spec = function(tmp_path, f"(model, batch, forward):\n    a, b = forward.{field}\n    return a.sum(), b.sum()")
    with pytest.raises(ConfigError) as found:
        traced(stage, (spec, 1.0))
    said = str(found.value)
    assert said.startswith(f"config.objective.extra: {tmp_path}/own.py: own, line 5: TypeError: cannot unpack")
    there = [item.name for item in dataclasses.fields(Forward) if item.name not in NONE[stage]]
    assert f"In stage {stage} it may use forward.{', forward.'.join(there)}; {', '.join(NONE[stage])} " in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "line",
    ["forward.nothing", "model.speek", "forward.written @ batch.tokens", "1 / 0", "[][1]", "assert False",
     "jnp.zeros(3).reshape(2)", "undefined", "{}['a']", "int(forward.written.sum())", "raise StopIteration"],
)  # fmt: skip
def test_whatever_fails_names_file_function_and_line(tmp_path, line):
    spec = function(tmp_path, f"(model, batch, forward):\n    {line}\n    return 0.0, 1.0")
    with pytest.raises(ConfigError, match=r"own\.py: own, line 5: \w+: .*it may use forward\.heard") as found:
        traced("align", (spec, 1.0))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "value",
    ["None", "3.0", "(1.0,)", "(1.0, 2.0, 3.0)", "[1.0, 2.0]", "(None, 1.0)", "('a', 1.0)", "(1j, 1.0)",
     "forward.written", "(forward.written, 1.0)", "(jnp.zeros(1), 1.0)", "{'sum': 1.0}"],
)  # fmt: skip
def test_whatever_is_no_sum_and_weight_is_refused(tmp_path, value):
    spec = function(tmp_path, f"(model, batch, forward): return {value}")
    with pytest.raises(ConfigError, match=r"own\.py: own returned .* two numbers") as found:
        traced("align", (spec, 1.0))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("stage", STAGES)
def test_the_example_of_the_readme_runs_in_every_stage_that_hears(stage, tmp_path):
    text = (Path(own.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import jax\.numpy as jnp\n\n\ndef quiet.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(example)
    (factor,) = re.findall(r'config\.objective\.extra = \(\("configs/mine\.py:quiet", ([\d.]+)\),\)', text)
    settings = ObjectiveConfig(extra=((f"{tmp_path}/mine.py:quiet", float(factor)),))
    objective, factors = make_objective(RunConfig(stage=stage, objective=settings))
    model, batch = tiny_model(), batch_of(stage)
    if not STAGES[stage].hears:
        with pytest.raises(ConfigError, match=r"mine\.py: quiet, line 6: TypeError.*heard, teacher, spoken are None"):
            jax.eval_shape(objective, model, batch)
        return
    parts = jax.jit(objective)(model, batch)
    heard, lengths = model.listen(batch.mel, batch.clip_frames)
    said = [np.asarray(heard[row, clip, : lengths[row, clip]]) for row, clip in np.ndindex(*lengths.shape)]
    mean = float(parts["quiet"][0] / parts["quiet"][1])
    assert mean == pytest.approx(np.square(np.concatenate(said)).mean(), rel=1e-4)
    without = {name: value for name, value in factors.items() if name != "quiet"}
    assert float(total(parts, factors) - total(parts, without)) == pytest.approx(float(factor) * mean, rel=1e-3)


@pytest.mark.parametrize("stage", ["align", "joint"])
def test_no_name_that_is_logged_can_be_taken(stage, aligned, corpus, tmp_path):
    """Every figure that a run of the stage logs, and every factor."""
    folder = aligned[1] if stage == "align" else tmp_path / "run"
    if stage == "joint":
        start(recipe(corpus, stage, **ONE_STEP), folder)
    line = logged(folder)
    assert {"ce_response", "loss", "grad_norm", "step"} <= set(line)
    names = {*line, *(item.name for item in dataclasses.fields(ObjectiveConfig))} - {"quiet", "reading"}
    for name in names:
        (tmp_path / "own.py").write_text(f"def {name}(model, batch, forward): return 0.0, 1.0\n")
        settings = ObjectiveConfig(extra=((f"{tmp_path}/own.py:{name}", 1.0),))
        with pytest.raises(ConfigError, match=f"{name} of .*own.py: training has .* of that name already; rename"):
            make_objective(RunConfig(stage=stage, objective=settings))


@pytest.mark.parametrize("stage", STAGES)
def test_a_name_stands_once(stage, tmp_path):
    extra = ((function(tmp_path, "(a, b, c): return 0.0, 1"), 1.0),) * 2
    with pytest.raises(ConfigError, match="own stands twice; rename"):
        traced(stage, *extra)


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_of_the_package_that_its_stage_does_not_return_is_refused(stage, monkeypatch):
    """Whatever else is switched on or off. `chunk` stands for a factor that the stage's function knows nothing of."""
    losses = STAGES[stage].losses
    monkeypatch.setitem(STAGES, stage, dataclasses.replace(STAGES[stage], losses=(*losses, "chunk")))
    for only in losses:
        factors = dict.fromkeys(losses, 0.0) | {only: 1.0}
        with pytest.raises(ConfigError, match=f"objective.chunk = 7: stage {stage} does not compute it in this run"):
            traced(stage, chunk=7, **factors)


def test_losses_without_what_they_need_are_refused():
    def run(stage, batch, **factors):
        objective, _ = make_objective(RunConfig(stage=stage, objective=ObjectiveConfig(**factors)))
        return set(jax.eval_shape(objective, tiny_model(), batch))

    silent = batch_of("align")
    with pytest.raises(ConfigError, match=r"objective\.units = 1, .*consistency = 0\.1: .*: nothing is spoken .*speak"):
        run("joint", silent)
    assert "ce" in run("joint", silent, units=0.0, consistency=0.0)
    with pytest.raises(ConfigError, match=r"objective\.kl = 1, .*eot = 1: .*: no teacher reads along"):
        run("align", batch_of("joint"))
    assert "ce" in run("align", batch_of("joint"), kl=0.0, eot=0.0)
