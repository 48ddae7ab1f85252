"""The same numbers on every mesh, and errors for people where a size does not fit."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.host_init import host_init

from ieat_jax.model.config import LoraConfig
from ieat_jax.model.llm import Think
from ieat_jax.model.names import named_leaves
from ieat_jax.model.sharding import AXES, MESH_AXES, ShardingError, check_divides, make_mesh, put, spec
from ieat_jax.model.sight import Sight
from ieat_jax.model.unified import build_model


def sizes(*values):
    return types.SimpleNamespace(**dict(zip(MESH_AXES, values, strict=True)))


def batch():
    rng = np.random.default_rng(0)
    rows, length = 8, 12
    tokens = rng.integers(0, 32, (rows, length)).astype(np.int32)
    segments = np.ones((rows, length), np.int32)
    segments[1::2, 9:] = 0
    branches = np.zeros((rows, length), np.int32)
    branches[:, 6:8] = 1
    sight = Sight(np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)), segments, branches)
    audio_index = np.full((rows, length), -1, np.int32)
    audio_index[:, 2:5] = [0, 1, 7]
    states = np.tile(np.array([0, 1, 2, 5, -1, -1], np.int32), (rows, 1))
    units = rng.integers(-1, 11, (rows, 6, 4)).astype(np.int32)
    return {
        "tokens": tokens,
        "sight": sight,
        "mel": rng.normal(size=(rows, 2, 100, 8)).astype(np.float32),
        "clip_frames": np.tile(np.array([100, 57], np.int32), (rows, 1)),
        "audio_index": audio_index,
        "speak": (states, units),
        "speak_sight": Sight(*(np.tile(x, (rows, 1)) for x in (np.arange(6), np.ones(6, int), np.zeros(6, int)))),
    }


def loss(model, batch):
    audio, _ = model.listen(batch["mel"], batch["clip_frames"])
    states = model.think(batch["tokens"], batch["sight"], audio, batch["audio_index"])
    last = model.write(states, batch["sight"])
    chosen = jax.nn.one_hot(batch["tokens"], 32) * jax.nn.log_softmax(model.text_logits(last))
    text = jnp.mean(jnp.where(batch["sight"].segment_ids[..., None] > 0, chosen, 0))
    spoken = model.speak(model.speak.feed(states, *batch["speak"]), batch["speak_sight"])
    units = jnp.mean(jax.nn.log_softmax(model.speak.unit_logits(spoken))[..., 3])
    heads = [jnp.mean(jnp.square(head(audio[:, :, 0]))) for head in (model.emotion.attribute, model.emotion.style)]
    return sum(heads) - text - units


@functools.cache
def run(config, mesh_sizes):
    mesh = make_mesh(sizes(*mesh_sizes), jax.devices()[: int(np.prod(mesh_sizes))])
    with jax.set_mesh(mesh):
        model = host_init(build_model, config)
        value, grads = jax.jit(jax.value_and_grad(loss))(model, put(batch(), "batch", "sequence"))
        shardings = {name: leaf.sharding.spec for name, leaf in named_leaves(grads).items()}
        assert shardings == {name: leaf.sharding.spec for name, leaf in named_leaves(model).items()}
        return float(value), {name: np.asarray(leaf) for name, leaf in named_leaves(grads).items()}


@pytest.mark.parametrize("mesh", [(2, 2, 2, 1)])
def test_loss_and_gradients_are_equal_on_every_mesh(tiny, mesh):
    config = tiny(tie_embeddings=False, qk_norm=True, lora=LoraConfig(rank=2), remat="dots")
    value, grads = run(config, mesh)
    expected, expected_grads = run(config, (1, 1, 1, 1))
    assert value == pytest.approx(expected, abs=1e-5)
    for name, grad in expected_grads.items():
        np.testing.assert_allclose(grads[name], grad, atol=1e-5, err_msg=name)


def test_no_mesh_equals_a_mesh_of_one(tiny):
    config = tiny()  # tied embeddings
    model = host_init(build_model, config)
    value = jax.jit(loss)(model, put(batch(), "batch", "sequence"))
    assert float(value) == pytest.approx(run(config, (1, 1, 1, 1))[0], abs=1e-5)


def test_decoding_with_a_cache_is_equal_on_a_mesh(tiny, init):
    tokens, sight = batch()["tokens"], batch()["sight"]
    expected = init(Think, tiny())(tokens, sight)
    with jax.set_mesh(make_mesh(sizes(2, 2, 1, 2))):
        think = host_init(Think, tiny())
        tokens, sight = put((tokens, sight), "batch")
        cache, got = think.new_cache(8, 12), []
        step = jax.jit(lambda think, tokens, sight, cache: think(tokens, sight, cache=cache), donate_argnums=3)
        for start, stop in ((0, 6), (6, 7), (7, 8), (8, 12)):
            piece = jax.tree.map(lambda x, start=start, stop=stop: x[:, start:stop], sight)
            states, cache = step(think, tokens[:, start:stop], piece, cache)
            got.append(np.asarray(states))
    valid = batch()["sight"].segment_ids > 0
    np.testing.assert_allclose(np.concatenate(got, axis=1)[valid], np.asarray(expected)[valid], atol=1e-5)


def test_large_parameters_are_divided_and_abstract_trees_carry_it(tiny):
    with jax.set_mesh(make_mesh(sizes(1, 4, 1, 2))):
        abstract = jax.eval_shape(functools.partial(build_model, tiny(tie_embeddings=False)), jax.random.key(0))
    layouts = {name: leaf.sharding.spec for name, leaf in named_leaves(abstract).items()}
    assert layouts["think.embed"] == spec("vocab", "embed")
    assert layouts["write.head"] == spec("embed", "vocab")
    assert layouts["write.layers.attention.q.kernel"] == spec(None, "embed", "heads", None)
    assert layouts["write.layers.attention.o.kernel"] == spec(None, "heads", None, "embed")
    assert layouts["speak.heads"] == spec(None, "embed", None)
    for name, layout in layouts.items():
        if name.split(".")[0] in ("think", "write", "speak") and name.endswith("kernel"):
            assert {"fsdp", "tensor"} <= set(layout), name


def test_the_axis_table_is_small_and_uses_the_mesh():
    assert len(AXES) <= 12
    used = {axis for entry in AXES.values() for axis in ((entry,) if isinstance(entry, str) else entry or ())}
    assert used == set(MESH_AXES)


@pytest.mark.parametrize(
    ("change", "mesh", "parts"),
    [
        (
            dict(vocab_size=30),
            (1, 2, 1, 4),
            ("think.embed", "'vocab' = 30", "config.model.llm.vocab_size", "config.mesh.tensor=4"),
        ),
        (dict(num_kv_heads=2), (1, 2, 1, 4), ("attention.k.kernel", "config.model.llm.num_kv_heads")),
        (dict(width=12), (1, 8, 1, 1), ("'embed' = 12", "config.model.llm.width", "config.mesh.fsdp=8")),
    ],
)
def test_a_size_that_does_not_divide_is_named(tiny, change, mesh, parts):
    with jax.set_mesh(make_mesh(sizes(*mesh))), pytest.raises(ShardingError) as error:
        build_model(tiny(**change), jax.random.key(0))
    for part in parts:
        assert part in str(error.value)


def test_a_batch_that_does_not_divide_names_both_axes():
    message = r"'batch' = 6 \(config.train.batch_size\).*config.mesh.replica=2 x config.mesh.fsdp=2"
    with jax.set_mesh(make_mesh(sizes(2, 2, 1, 2))), pytest.raises(ShardingError, match=message):
        check_divides(6, "batch", "tokens", "config.train.batch_size")


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (-1, -1, 1, 1), (0, 8, 1, 1), (-1, 3, 1, 1)])
def test_meshes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ShardingError, match=r"config\.mesh\.fsdp"):
        make_mesh(sizes(*shape))


def test_one_mesh_size_may_be_what_is_left():
    assert dict(make_mesh(sizes(1, -1, 1, 2)).shape) == {"replica": 1, "fsdp": 4, "context": 1, "tensor": 2}
