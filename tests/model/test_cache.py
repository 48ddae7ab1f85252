"""Decoding with a cache, padding, packing and branches: all equal to the plain forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ieat_jax.model.llm import Think, Write
from ieat_jax.model.sight import Sight

TOKENS = np.random.default_rng(0).integers(0, 32, (2, 10)).astype(np.int32)
SEGMENTS = np.array([[1] * 10, [1] * 6 + [0] * 4])
BRANCHES = np.array([[0, 0, 1, 1, 2, 2, 0, 0, 3, 3], [0, 0, 0, 1, 0, 2, 0, 0, 0, 0]])


def part(sight, start, stop):
    return jax.tree.map(lambda x: x[:, start:stop], sight)


def forward(model, tokens, sight, audio=None, audio_index=None):
    states = model[0](tokens, sight, audio, audio_index)
    return states, model[1](states, sight)


@pytest.fixture
def model(tiny, init):
    config = tiny(qk_norm=True, num_kv_heads=2)
    return init(Think, config), init(Write, config, seed=1)


def assert_close(got, expected, valid, atol=1e-5):
    valid = np.asarray(valid)
    for one, other in zip(got, expected, strict=True):
        assert np.abs(np.asarray(one)[valid] - np.asarray(other)[valid]).max() <= atol


@pytest.mark.parametrize("cuts", [[10], [4, 10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [7, 8, 10]])
def test_prefill_and_steps_equal_the_forward_pass(model, make_stream, cuts):
    think, write = model
    sight = make_stream(SEGMENTS, BRANCHES)
    expected = forward(model, TOKENS, sight)
    caches, outputs, start = [think.new_cache(2, 12), write.new_cache(2, 12)], [], 0
    for stop in cuts:
        piece = part(sight, start, stop)
        states, caches[0] = think(TOKENS[:, start:stop], piece, cache=caches[0])
        last, caches[1] = write(states, piece, cache=caches[1])
        outputs.append((states, last))
        start = stop
    got = [jnp.concatenate(arrays, axis=1) for arrays in zip(*outputs, strict=True)]
    assert_close(got, expected, SEGMENTS > 0)
    np.testing.assert_array_equal(caches[0].next, [10, 6])


def test_right_padded_prompts_of_different_lengths_decode_in_one_batch(model, make_stream):
    think, _ = model
    lengths, prompt, steps = [5, 3], 6, 3
    whole = think(TOKENS[:, :9], make_stream(np.ones((2, 9))))
    valid = np.arange(prompt) < np.array(lengths)[:, None]
    states, cache = think(np.where(valid, TOKENS[:, :prompt], 31), Sight.plain(valid), cache=think.new_cache(2, 9))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(states[row, :length], whole[row, :length], atol=1e-5)
    for step in range(steps):
        at = np.array(lengths) + step
        sight = Sight(at[:, None].astype(np.int32), np.ones((2, 1), np.int32), np.zeros((2, 1), np.int32))
        states, cache = think(TOKENS[np.arange(2), at][:, None], sight, cache=cache)
        np.testing.assert_allclose(states[:, 0], whole[np.arange(2), at], atol=1e-5)


def test_a_full_cache_drops_what_comes_and_keeps_what_it_holds(model, make_stream):
    think, _ = model
    sight = make_stream(np.ones((2, 10)))
    _, cache = think(TOKENS[:, :4], part(sight, 0, 4), cache=think.new_cache(2, 4))
    _, full = think(TOKENS[:, 4:5], part(sight, 4, 5), cache=cache)
    np.testing.assert_array_equal(full.k, cache.k)
    np.testing.assert_array_equal(full.sight.segment_ids, np.ones((2, 4)))


def test_nan_in_padding_changes_nothing(model, make_stream):
    sight = make_stream(SEGMENTS, BRANCHES)
    index = np.full((2, 10), -1, np.int32)
    index[:, 1:3] = [0, 3]
    audio = np.random.default_rng(1).normal(size=(2, 2, 3, 16)).astype(np.float32)
    hole = audio.copy()
    hole[:, 0, 1:] = hole[:, 1, 1:] = np.nan  # positions that no token reads
    padding = np.where((SEGMENTS == 0) & (np.arange(10) % 2), 4, index)  # padding tokens that read NaN audio
    weight = jnp.asarray(SEGMENTS > 0)[..., None]

    def loss(model, audio, index):
        states, last = forward(model, TOKENS, sight, audio, index)
        return jnp.sum(jnp.where(weight, jnp.square(last) + states, 0))

    clean = jax.value_and_grad(loss, argnums=(0, 1))(model, audio, index)
    dirty = jax.value_and_grad(loss, argnums=(0, 1))(model, hole, padding)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_write_ignores_nan_states_in_padding(model, make_stream):
    _, write = model
    sight = make_stream(SEGMENTS)
    states = np.random.default_rng(1).normal(size=(2, 10, 16)).astype(np.float32)
    dirty = np.where(SEGMENTS[..., None] > 0, states, np.nan)
    valid = SEGMENTS > 0
    np.testing.assert_array_equal(write(states, sight)[valid], write(dirty, sight)[valid])


def test_a_batch_of_two_equals_two_batches_of_one(model, make_stream):
    sight = make_stream(SEGMENTS, BRANCHES)
    together = forward(model, TOKENS, sight)
    for row in range(2):
        alone = forward(model, TOKENS[row : row + 1], jax.tree.map(lambda x, row=row: x[row : row + 1], sight))
        assert_close([x[0] for x in alone], [x[row] for x in together], SEGMENTS[row] > 0)


def test_packed_equals_unpacked(model, make_stream):
    packed = make_stream([[1] * 4 + [2] * 5 + [0]])
    row = forward(model, TOKENS[:1], packed)
    for start, stop in ((0, 4), (4, 9)):
        alone = forward(model, TOKENS[:1, start:stop], make_stream(np.ones((1, stop - start))))
        assert_close([x[0] for x in alone], [x[0, start:stop] for x in row], np.ones(stop - start, bool))


def test_branches_do_not_see_each_other_and_the_trunk_sees_none(model, make_stream):
    sight = make_stream([[1] * 10], [[0, 0, 1, 1, 2, 2, 0, 0, 0, 0]])
    base = forward(model, TOKENS[:1], sight)
    for changed, same in (((2, 3), (0, 1, 4, 5, 6, 7, 8, 9)), ((4, 5), (0, 1, 2, 3, 6, 7, 8, 9))):
        tokens = TOKENS[:1].copy()
        tokens[:, changed] = (tokens[:, changed] + 5) % 32
        other = forward(model, tokens, sight)
        for a, b in zip(base, other, strict=True):
            np.testing.assert_array_equal(a[0, same], b[0, same])
            assert np.abs(a[0, changed] - b[0, changed]).max() > 1e-3


def test_tree_of_answers_equals_one_example_per_answer(model, make_stream):
    """user1 <think1> | reply1 user2 <think2>: each answer as a branch, or alone behind its history."""
    user1, think1, reply1, user2, think2 = [0, 1], [2, 3], [4], [5, 6], [7, 8, 9]
    tree = make_stream([[1] * 10], [[0, 0, 1, 1, 0, 0, 0, 2, 2, 2]])
    whole = forward(model, TOKENS[:1], tree)
    for example in (user1 + think1, user1 + reply1 + user2 + think2):
        alone = forward(model, TOKENS[:1, example], make_stream(np.ones((1, len(example)))))
        assert_close([x[0] for x in alone], [x[0, example] for x in whole], np.ones(len(example), bool))
