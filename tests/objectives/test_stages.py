"""The objectives of the stages: what they count, what they ignore, and the same numbers however a batch is cut."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.host_init import host_init
from helpers.tiny_stage_rows import (
    ALIGN,
    LORA,
    SHAPES,
    batch_of,
    make_turn,
    tiny_chat,
    tiny_config,
    tiny_model,
)

from ieat_jax.config.sections import RunConfig
from ieat_jax.data.batch import SEQUENCE_FIELDS, Batch, padding_like, stack
from ieat_jax.data.layout import lay_out
from ieat_jax.errors import UserError
from ieat_jax.model.names import named_leaves
from ieat_jax.model.sharding import MESH_AXES, make_mesh
from ieat_jax.model.unified import build_model
from ieat_jax.objectives.losses import class_loss, total
from ieat_jax.objectives.stages import STAGES, align_parts, make_objective
from ieat_jax.training.placement import put_batch


@functools.cache
def jitted(stage, settings):
    objective, factors = objective_of(stage, settings)

    def value(model, batch):
        parts = objective(model, batch)
        return total(parts, factors), parts

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def objective_of(stage, settings):
    return make_objective(RunConfig(stage=stage, objective=settings))


@pytest.mark.parametrize("stage", ["write", "align", "joint"])
def test_padding_changes_nothing_and_rows_add_up(stage, settings):
    run, model, batch = jitted(stage, settings), tiny_model(), batch_of(stage)
    (value, parts), grads = run(model, batch)
    assert np.isfinite(value)
    assert set(STAGES[stage].losses) <= set(parts)
    for name in STAGES[stage].losses:
        assert float(parts[name][1]) > 0, name
    rows = [jax.tree.map(lambda x, row=row: x[row].copy(), batch) for row in range(8)]
    empty = padding_like(rows[0])
    (_, clean), clean_grads = run(model, stack([*rows[:4], *[empty] * 4]))
    (_, other), _ = run(model, stack([*rows[4:], *[empty] * 4]))
    for row in rows:
        for clip, frames in enumerate(row.clip_frames):
            row.mel[clip, frames + 2 if frames else 0 :] = np.nan  # two more are read
    dirty = dataclasses.replace(empty, mel=np.full_like(empty.mel, np.nan))
    (_, half), half_grads = run(model, stack([*rows[:4], *[dirty] * 4]))
    for name, (amount, weight) in parts.items():
        np.testing.assert_allclose(half[name], clean[name], rtol=1e-6)
        np.testing.assert_allclose(amount, clean[name][0] + other[name][0], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(weight, clean[name][1] + other[name][1], rtol=1e-6, err_msg=name)
    for one, two in zip(jax.tree.leaves(half_grads), jax.tree.leaves(clean_grads), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("stage", ["align", "joint"])
def test_chunks_change_memory_not_numbers(stage, settings):
    model, batch = tiny_model(), batch_of(stage)
    (value, parts), grads = jitted(stage, settings)(model, batch)
    (other, others), other_grads = jitted(stage, dataclasses.replace(settings, chunk=1000))(model, batch)
    assert float(value) == pytest.approx(float(other), rel=1e-6)
    for name in parts:
        np.testing.assert_allclose(parts[name], others[name], rtol=1e-5, atol=1e-5)
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_distillation_is_zero_when_the_student_reads_what_the_teacher_reads(settings):
    """Audio embeddings := the transcript's embeddings, nothing privileged: the two streams are the same."""
    chat, model = tiny_chat(), tiny_model()
    texts = ("I lost my keys.", "In the kitchen.")
    ids = [chat.tokenizer.encode(text) for text in texts]
    count = max(map(len, ids))
    rows = []
    for row in range(4):
        turns = [make_turn(row + n, positions=len(ids[(row + n) % 2])) for n in range(2)]
        rows.append((turns, [ids[(row + n) % 2] for n in range(2)]))
    shapes = dataclasses.replace(SHAPES, speak=0, groups=0)
    made = [lay_out([t], chat, shapes, ALIGN, frames=100, mels=8, positions_per_clip=count)[0] for t, _ in rows]
    tokens = np.zeros((4, 2, count), np.int32)
    for row, (_, said) in enumerate(rows):
        for clip, words in enumerate(said):
            tokens[row, clip, : len(words)] = words
    heard = (model.think.embed_tokens(tokens), jnp.array([[len(w) for w in said] for _, said in rows]))
    parts = jax.jit(lambda model, batch, heard: align_parts(model, batch, settings, heard)[0])(
        model, stack(made), heard
    )
    for name in ("kl", "eot"):
        assert float(parts[name][1]) > 3
        assert abs(float(parts[name][0] / parts[name][1])) <= 1e-6
    real = jax.jit(lambda model, batch: align_parts(model, batch, settings)[0])(model, stack(made))
    assert float(real["kl"][0] / real["kl"][1]) > 1e-5


def test_the_teacher_gets_no_gradient_and_has_no_lora(settings):
    batch = batch_of("align")
    run = jitted("align", dataclasses.replace(settings, ce=0.0, attribute=0.0, eot=0.0))
    (_, parts), grads = run(tiny_model(lora=True), batch)
    leaves = named_leaves(grads)
    assert float(jnp.abs(leaves["think.layers.attention.q.lora_b"]).max()) > 0
    assert float(parts["kl"][0] / parts["kl"][1]) > 1e-6


def test_internalisation_moves_the_answer_without_thinking_towards_the_one_with(settings):
    batch, model = batch_of("joint"), tiny_model()
    only = dict(ce=0.0, units=0.0, consistency=0.0, attribute=0.0)
    for on in ("internalise", "internalise_units"):
        off = "internalise_units" if on == "internalise" else "internalise"
        run = jitted("joint", dataclasses.replace(settings, **only, **{on: 1.0, off: 0.0}))
        (before, _), grads = run(model, batch)
        after, _ = run(jax.tree.map(lambda p, g: p - 0.05 * g, model, grads), batch)[0]
        assert float(after) < float(before)


@pytest.mark.parametrize("name", STAGES["joint"].losses)
def test_every_loss_can_be_switched_off(name, settings):
    batch, model = batch_of("joint"), tiny_model()
    (value, parts), _ = jitted("joint", settings)(model, batch)
    changed = dataclasses.replace(settings, **{name: 0.0})
    _, factors = objective_of("joint", changed)
    expected = float(value) - getattr(settings, name) * float(parts[name][0] / parts[name][1])
    assert factors[name] == 0
    assert float(total(parts, factors)) == pytest.approx(expected, rel=1e-5)


def test_without_a_loss_on_text_only_listening_is_computed(settings):
    batch, model = batch_of("align"), tiny_model()
    changed = dataclasses.replace(settings, ce=0.0, kl=0.0, eot=0.0)
    alone = jax.jit(lambda model, batch: align_parts(model, batch, changed)[0])(model, batch)
    (_, parts), _ = jitted("align", settings)(model, batch)
    assert alone.keys() == {"attribute"}
    assert float(alone["attribute"][0]) == pytest.approx(float(parts["attribute"][0]), rel=1e-5)


def test_segments_have_their_own_weights(settings):
    batch, model = batch_of("write"), tiny_model()
    (_, parts), _ = jitted("write", settings)(model, batch)
    zero = dataclasses.replace(settings.segment_weights, state=0.0)
    (_, without), _ = jitted("write", dataclasses.replace(settings, segment_weights=zero))(model, batch)
    state = parts["ce_state"]
    assert float(parts["ce"][0] - without["ce"][0]) == pytest.approx(2 * float(state[0]), rel=1e-4)
    assert float(parts["ce"][1] - without["ce"][1]) == pytest.approx(2 * float(state[1]))


def test_mistakes_in_the_objective_are_errors_for_people(settings):
    with pytest.raises(UserError, match=r"config\.stage: must be one of write, align, joint, not 'pretrain'"):
        objective_of("pretrain", settings)
    with pytest.raises(UserError, match=r"config\.objective\.ce: must be at least 0, not -1\.0"):
        dataclasses.replace(settings, ce=-1.0)
    with pytest.raises(UserError, match="every loss is switched off"):
        objective_of("write", dataclasses.replace(settings, ce=0.0))


def mesh_of(*sizes):
    return make_mesh(types.SimpleNamespace(**dict(zip(MESH_AXES, sizes, strict=True))), jax.devices()[: np.prod(sizes)])


@functools.cache
def on_mesh(stage, settings, sizes):
    config = tiny_config(lora=LORA)
    objective, factors = objective_of(stage, settings)
    with jax.set_mesh(mesh_of(*sizes)):
        model = host_init(build_model, config)
        batch = put_batch(batch_of(stage))

        def value(model, batch):
            return total(objective(model, batch), factors)

        value, grads = jax.jit(jax.value_and_grad(value))(model, batch)
        return float(value), {name: np.asarray(leaf) for name, leaf in named_leaves(grads).items()}


@pytest.mark.parametrize(
    ("stage", "sizes"),
    [("align", (1, 2, 2, 2)), ("align", (1, 8, 1, 1)), ("joint", (2, 1, 2, 2)), ("joint", (1, 2, 1, 4))],
)
def test_loss_and_gradients_are_equal_on_every_mesh(stage, sizes, settings):
    value, grads = on_mesh(stage, settings, sizes)
    expected, expected_grads = on_mesh(stage, settings, (1, 1, 1, 1))
    assert value == pytest.approx(expected, abs=1e-5)
    for name, grad in expected_grads.items():
        np.testing.assert_allclose(grads[name], grad, atol=1e-5, err_msg=name)


def test_sequence_fields_are_two_dimensional_at_least():
    batch = batch_of("joint", 2)
    assert all(np.ndim(getattr(batch, name)) >= 2 for name in SEQUENCE_FIELDS)
    assert set(SEQUENCE_FIELDS) <= set(Batch.__dataclass_fields__)


def test_a_label_beyond_the_head_counts_as_unknown():
    logits = jnp.asarray([[1.0, 0.0], [0.0, 3.0], [5.0, 5.0]])
    amount, weight = class_loss(logits, jnp.asarray([0, 7, -1]))
    assert float(weight) == 1
    assert float(amount) == pytest.approx(float(np.log(1 + np.exp(-1))))
