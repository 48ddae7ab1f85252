"""Clips that share a window of the encoder: the same numbers and gradients as each in a window of its own."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ieat_jax.model.adapters import adapter_length, adapter_stride, slot_length
from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, ModelConfigError
from ieat_jax.model.listen import Listen
from ieat_jax.model.names import map_named, named_leaves
from ieat_jax.model.sharding import MESH_AXES, make_mesh, put

MELS, OWN = 8, 100
ENCODER = EncoderConfig(num_layers=2, width=16, num_heads=4, mlp_width=32, num_mels=MELS, max_positions=50)
ADAPTER = AdapterConfig(
    num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=32, conv_width=24, hidden_width=40
)
KINDS = ("goat", "mlp", "linear", "stack", "stack+layers")
ROWS = ([100, 57, 4, 5, 33], [3, 16, 15, 17, 0], [0, 0, 0, 0, 0])  # the shortest clip that is accepted has 10 frames


def adapter_of(kind):
    name, _, layers = kind.partition("+")
    return dataclasses.replace(ADAPTER, kind=name, stack_layers=2 if layers else 0)


def configure(kind, mix="learned", padding="masked", **fields):
    listen = ListenConfig(ENCODER, adapter_of(kind), layer_mix=mix, clip_seconds=1.0, padding=padding)
    return ModelConfig(listen=listen, llm=LLMConfig(width=24), **fields)


@functools.cache
def random_model(config):
    rng = np.random.default_rng(0)
    abstract = jax.eval_shape(functools.partial(Listen, config), jax.random.key(0))
    return map_named(lambda _, leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), abstract)


listen = jax.jit(lambda model, mel, frames, starts=None: model(mel, frames, starts))


def clips(kind, rows=ROWS, width=0, seed=0):
    """(mel of own windows, frames, mel of a shared window, starts); what is behind a clip is noise everywhere.

    The shared window has `width` frames where its clips need fewer.
    """
    rng = np.random.default_rng(seed)
    adapter, behind = adapter_of(kind), configure(kind).listen.behind or 0
    frames = np.array(rows, np.int32)
    own = rng.normal(size=(*frames.shape, OWN, MELS)).astype(np.float32)
    slots = np.where(frames > 0, np.vectorize(lambda count: slot_length(adapter, int(count)))(frames), 0)
    starts = np.where(frames > 0, np.cumsum(slots, axis=1) - slots, -1).astype(np.int32)
    stride = adapter_stride(adapter)
    width = max(width, -(-int(slots.sum(axis=1).max()) // stride) * stride)
    shared = rng.normal(size=(len(frames), 1, width, MELS)).astype(np.float32)
    for row, clip in zip(*np.nonzero(frames), strict=True):
        start, count = starts[row, clip], min(frames[row, clip] + behind, OWN)
        shared[row, 0, start : start + count] = own[row, clip, :count]
    return own, frames, shared, starts


def told(adapter, frames, starts, own, shared):
    """The positions of every clip, from its own window and from the shared one."""
    stride = adapter_stride(adapter)
    for row, clip in zip(*np.nonzero(frames), strict=True):
        count, first = int(adapter_length(adapter, int(frames[row, clip]))), starts[row, clip] // stride
        yield own[row, clip, :count], shared[row, 0, first : first + count]


@pytest.mark.parametrize(("kind", "mix"), [*((kind, "learned") for kind in KINDS), ("goat", "last")])
def test_a_shared_window_holds_what_windows_of_their_own_hold(kind, mix):
    config = configure(kind, mix)
    model, adapter = random_model(config), config.listen.adapter
    own_mel, frames, shared_mel, starts = clips(kind, width=288)
    own, own_lengths = listen(model, own_mel, frames)
    shared, lengths = listen(model, shared_mel, frames, starts)
    np.testing.assert_array_equal(lengths, own_lengths)
    assert shared.shape[:3] == (3, 1, shared_mel.shape[2] // adapter_stride(adapter))
    pairs = list(told(adapter, frames, starts, np.asarray(own), np.asarray(shared)))
    assert len(pairs) == 9
    for alone, together in pairs:
        np.testing.assert_allclose(together, alone, atol=3e-5)
    assert float(jnp.abs(shared[2]).max()) == 0.0  # a row without clips
    assert float(jnp.abs(shared).sum()) == pytest.approx(sum(float(np.abs(one).sum()) for one, _ in pairs), rel=1e-4)


@pytest.mark.parametrize("kind", ["goat", "mlp", "stack"])
def test_gradients_are_those_of_windows_of_their_own(kind):
    config = configure(kind)
    model = random_model(config)
    own_mel, frames, shared_mel, starts = clips(kind)

    def loss(model, mel, starts):
        audio, _ = model(mel, frames, starts)
        return jnp.sum(jnp.sin(audio))  # positions outside of clips are zero, and their sine is

    grads = [jax.jit(jax.grad(loss))(model, mel, at) for mel, at in ((own_mel, None), (shared_mel, starts))]
    for (name, alone), (_, together) in zip(*(named_leaves(grad).items() for grad in grads), strict=True):
        scale = max(float(jnp.abs(alone).max()), 1e-3)
        np.testing.assert_allclose(together / scale, alone / scale, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("kind", ["goat", "linear", "stack"])
def test_a_neighbour_of_any_length_changes_nothing(kind):
    config = configure(kind)
    model, adapter = random_model(config), config.listen.adapter
    for count in (*range(3, 20), 37):
        results = []
        for neighbour in (0, 1):
            _, frames, mel, starts = clips(kind, rows=([count, 20, 7],), width=96)
            rng = np.random.default_rng(neighbour)
            for clip in (0, 2):
                start = starts[0, clip]
                mel[0, 0, start : start + frames[0, clip]] = rng.normal(size=(frames[0, clip], MELS)) * 3
            audio, _ = listen(model, mel, frames, starts)
            first = starts[0, 1] // adapter_stride(adapter)
            results.append(np.asarray(audio[0, 0, first : first + int(adapter_length(adapter, 20))]))
        np.testing.assert_allclose(*results, atol=1e-6, err_msg=f"beside {count} frames")


@pytest.mark.parametrize("sizes", [(1, 8, 1, 1), (1, 2, 2, 2), (2, 2, 1, 2)])
def test_the_same_numbers_on_every_mesh(sizes):
    config = configure("goat")
    rows = [[100, 57, 9], [3, 16, 0]] * 4
    _, frames, mel, starts = clips("goat", rows=rows)
    model = random_model(config)
    expected, _ = listen(model, mel, frames, starts)
    with jax.set_mesh(make_mesh(types.SimpleNamespace(**dict(zip(MESH_AXES, sizes, strict=True))))):
        layouts = jax.eval_shape(functools.partial(Listen, config), jax.random.key(0))
        mesh = jax.sharding.get_mesh()
        model = jax.tree.map(lambda x, to: jax.device_put(x, jax.NamedSharding(mesh, to.sharding.spec)), model, layouts)
        batch = put((mel, frames, starts), "batch")
        audio, _ = jax.jit(lambda model, *batch: model(*batch))(model, *batch)
    np.testing.assert_allclose(audio, expected, atol=3e-5)


def test_clips_that_hear_their_padding_cannot_share():
    _, frames, mel, starts = clips("goat")
    with pytest.raises(ModelConfigError, match=r"needs config\.model\.listen\.padding='masked'"):
        random_model(configure("goat", padding="heard"))(mel, frames, starts)


@pytest.mark.parametrize("kind", ["goat", "mlp"])
def test_padding_says_what_the_encoder_sees(kind):
    own, frames, _, _ = clips(kind, rows=([40],))
    results = {
        padding: np.asarray(listen(random_model(configure(kind, padding=padding)), own, frames)[0])
        for padding in ("auto", "heard", "masked")
    }
    same = "heard" if kind == "goat" else "masked"
    other = "masked" if kind == "goat" else "heard"
    np.testing.assert_array_equal(results["auto"], results[same])
    assert np.abs(results["auto"] - results[other]).max() > 1e-3
