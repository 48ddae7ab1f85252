import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from ieat_jax.config.defaults import get_defaults
from ieat_jax.config.recipes import typed
from ieat_jax.config.sections import OptimizerConfig
from ieat_jax.errors import ConfigError, UserError
from ieat_jax.model.names import named_leaves
from ieat_jax.model.partition import RuleError, join, multipliers, split
from ieat_jax.training.optimizer import (
    abstract_state,
    apply_gradients,
    init_state,
    make_optimizer,
    make_schedule,
    too_many_bad_steps,
    updates_done,
)

RULES = ((r"listen\.adapter\..*", 2.0), (r"(listen|think)\..*", None), (r".*", 1.0))


def test_the_first_full_match_counts():
    names = ["think.embed", "listen.adapter.conv1.kernel", "listen.mix", "write.norm.scale"]
    assert multipliers(names, RULES) == dict(zip(names, (None, 2.0, None, 1.0), strict=True))


@pytest.mark.parametrize(
    ("rules", "parts"),
    [
        (((r"think", 1.0), (".*", None)), ("'think' matches no parameter", "think.embed")),
        (((r"think\..*", 1.0),), ("no rule covers listen.mix, write.norm.scale", "'.*', None")),
        (((".*", None), (r"write\..*", 1.0)), (r"'write\\..*' comes after rules that match all", "write.norm.scale")),
    ],
)
def test_rules_must_cover_everything_and_each_must_count(rules, parts):
    with pytest.raises(RuleError, match=r"config.optimizer.rules") as error:
        multipliers(["think.embed", "listen.mix", "write.norm.scale"], rules)
    for part in parts:
        assert part in str(error.value)


def test_split_and_join_are_inverse_also_under_jit(make_model, abstract, mesh_of):
    mesh = mesh_of(1, 4, 1, 2)
    model = make_model(mesh)
    trainable, frozen = split(model, RULES)
    assert "write.norm.scale" in trainable
    assert {name.split(".")[0] for name in frozen} == {"listen", "think"}
    # The abstract tree splits in the same way, which is what restoring needs.
    for part, expected in zip(split(abstract(mesh), RULES), (trainable, frozen), strict=True):
        assert {name: leaf.shape for name, leaf in part.items()} == {n: leaf.shape for n, leaf in expected.items()}
    with jax.set_mesh(mesh):
        joined = jax.jit(functools.partial(join, abstract(mesh)))(trainable, frozen)
    assert type(joined) is type(model)
    for name, leaf in named_leaves(model).items():
        assert named_leaves(joined)[name].sharding == leaf.sharding, name
        np.testing.assert_array_equal(named_leaves(joined)[name], leaf)
    del trainable["write.norm.scale"]
    with pytest.raises(ValueError, match=r"write\.norm\.scale"):
        join(model, trainable, frozen)
    with pytest.raises(RuleError, match="nothing would train"):
        split(model, ((".*", None),))


def test_state_lies_as_the_parameters_on_the_mesh(make_model, mesh_of):
    mesh = mesh_of(1, 4, 1, 2)
    trainable, _ = split(make_model(mesh), RULES)
    optimizer, _ = make_optimizer(OptimizerConfig(rules=RULES, warmup_steps=0), 10, trainable)
    with jax.set_mesh(mesh):
        state = init_state(optimizer, trainable)
        abstract = abstract_state(optimizer, trainable)
    adam = state.inner[1]
    assert adam.mu.keys() == trainable.keys()
    for moments in (adam.mu, adam.nu):
        for name, leaf in moments.items():
            assert leaf.sharding == trainable[name].sharding, name
    assert adam.mu["speak.layers.mlp.up.kernel"].sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    for leaf, expected in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (expected.shape, expected.dtype, expected.sharding)
    with jax.set_mesh(mesh):
        step = jax.jit(functools.partial(apply_gradients, optimizer), donate_argnums=(1, 2))
        new, state, _ = step(trainable, state, jax.tree.map(jnp.copy, trainable))
    assert {name: leaf.sharding for name, leaf in new.items()} == {n: leaf.sharding for n, leaf in trainable.items()}
    assert state.inner[1].nu["speak.heads"].sharding == trainable["speak.heads"].sharding


def problem():
    parameters = {"a.kernel": jnp.array([1.0, -2.0, 3.0]), "b.bias": jnp.array([0.5, -0.0]), "c.kernel": jnp.ones(2)}
    grads = {"a.kernel": jnp.array([0.3, -0.1, 0.2]), "b.bias": jnp.array([1.0, 2.0]), "c.kernel": -jnp.ones(2)}
    return parameters, grads


def test_steps_equal_optax_adamw_with_multipliers_and_decay_mask():
    parameters, grads = problem()
    settings = dict(learning_rate=0.1, schedule="constant", weight_decay=0.1, b2=0.99)
    config = OptimizerConfig(rules=((r"c\..*", 0.5), (".*", 1.0)), clip_norm=0.0, warmup_steps=0, **settings)
    optimizer, _ = make_optimizer(config, 10, parameters)
    step = jax.jit(functools.partial(apply_gradients, optimizer))
    state, ours = init_state(optimizer, parameters), parameters
    for _ in range(3):
        ours, state, info = step(grads, state, ours)
    assert float(info["grad_norm"]) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-6)
    for name, rate, decay in (("a.kernel", 0.1, 0.1), ("b.bias", 0.1, 0.0), ("c.kernel", 0.05, 0.1)):
        reference = optax.adamw(rate, 0.9, 0.99, weight_decay=decay)
        value, reference_state = parameters[name], reference.init(parameters[name])
        for _ in range(3):
            update, reference_state = reference.update(grads[name], reference_state, value)
            value = value + update
        np.testing.assert_allclose(ours[name], value, rtol=1e-6, err_msg=name)


def test_clipping_bounds_the_global_norm():
    parameters, grads = problem()
    moved = {}
    for clip, factor in ((0.0, 1.0), (1.0, 1.0), (1.0, 1e4)):
        optimizer, _ = make_optimizer(
            OptimizerConfig(clip_norm=clip, eps=10.0, learning_rate=1e-4, warmup_steps=0), 10, parameters
        )
        scaled = {name: factor * grad for name, grad in grads.items()}
        new, _, info = apply_gradients(optimizer, scaled, init_state(optimizer, parameters), parameters)
        moved[clip, factor] = np.abs(new["b.bias"] - parameters["b.bias"]).max()
        assert float(info["grad_norm"]) == pytest.approx(factor * float(optax.tree.norm(grads)), rel=1e-5)
    assert moved[1.0, 1.0] == pytest.approx(moved[1.0, 1e4], rel=1e-4)
    assert moved[1.0, 1.0] < 0.5 * moved[0.0, 1.0]


def test_non_finite_steps_change_nothing_and_are_counted():
    parameters, grads = problem()
    config = OptimizerConfig(max_bad_steps=2, warmup_steps=0)
    optimizer, _ = make_optimizer(config, 10, parameters)
    step = jax.jit(functools.partial(apply_gradients, optimizer))
    parameters, state, info = step(grads, init_state(optimizer, parameters), parameters)
    assert int(info["skipped"]) == 0
    for number, poison in enumerate((jnp.nan, jnp.inf), 1):
        bad = grads | {"b.bias": grads["b.bias"].at[0].set(poison)}
        after, new_state, info = step(bad, state, parameters)
        for name, value in parameters.items():
            assert np.asarray(value).tobytes() == np.asarray(after[name]).tobytes()
        jax.tree.map(np.testing.assert_array_equal, new_state.inner, state.inner)
        state = new_state
        assert (int(info["skipped"]), int(info["bad_in_a_row"])) == (1, number)
        assert too_many_bad_steps(state, config) == (number == 2)
    _, state, info = step(grads, state, parameters)
    assert (int(state.bad_steps), int(state.bad_in_a_row), int(updates_done(state))) == (2, 0, 2)
    assert not too_many_bad_steps(state, config)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_schedules(schedule):
    rate = make_schedule(
        OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=4, final_fraction=0.2), total_steps=24
    )
    values = [float(rate(step)) for step in range(25)]
    np.testing.assert_allclose(values[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    middle, end = {"constant": (1.0, 1.0), "cosine": (0.6, 0.2), "linear": (0.6, 0.2)}[schedule]
    assert values[14] == pytest.approx(middle)
    assert values[24] == pytest.approx(end)
    assert float(make_schedule(OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=0), 10)(0)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "cosin"}, "config.optimizer.schedule: must be one of .*'cosin'"),
        ({"learning_rate": 0.0}, "config.optimizer.learning_rate: must be above 0"),
        ({"b2": 1.0}, "config.optimizer.b2"),
        ({"rules": (("(", 1.0),)}, r"config.optimizer.rules: must be pairs \(regular expression, multiplier above 0"),
        ({"rules": ((".*", 0.0),)}, r"config.optimizer.rules: must be pairs .*0.0"),
        ({"rules": (".*",)}, "config.optimizer.rules"),
        ({"warmup_steps": -1}, "config.optimizer.warmup_steps: must be at least 0"),
        ({"max_bad_steps": 0}, "config.optimizer.max_bad_steps"),
    ],
)
def test_impossible_settings_name_their_field(change, message):
    with pytest.raises(UserError, match=message):
        make_schedule(OptimizerConfig(**change), total_steps=10)


def test_a_warm_up_yields_to_a_short_run():
    half = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=5), total_steps=10)
    for longer in (6, 9, 10, 20):
        short = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=longer), total_steps=10)
        assert [float(short(step)) for step in range(10)] == [float(half(step)) for step in range(10)]
    assert float(make_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=20), total_steps=1)(0)) == 1


def test_an_unknown_field_is_suggested():
    config = get_defaults()
    config.optimizer.weight_decy = 0.1
    with pytest.raises(ConfigError, match=r"config.optimizer.weight_decy; did you mean config.optimizer.weight_decay"):
        typed(config)
