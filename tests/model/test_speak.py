import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ieat_jax.model.sight import Sight
from ieat_jax.model.speak import Speak

# Two answers in one row: prefix states 0-2 (and 5), then lock-step: state + units of the last group, then units alone.
STATE = np.array([[0, 1, 2, 3, 4, -1, -1, 5, 6, -1, -1, -1]], np.int32)
IDS = np.array([[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0]], np.int32)
UNITS = np.full((1, 12, 4), -1, np.int32)
UNITS[0, 4:7] = [[1, 2, 3, 4], [5, 5, 5, 5], [0, 10, 0, 10]]
UNITS[0, 8:11] = [[7, 7, 8, 8], [9, 1, 9, 1], [2, 2, 2, 2]]


@pytest.fixture
def speak(tiny, init):
    return init(Speak, tiny())


@pytest.fixture
def states():
    return np.random.default_rng(0).normal(size=(1, 7, 16)).astype(np.float32)


def stream_of(ids):
    positions = np.array([[sum(row[:i] == row[i]) for i in range(len(row))] for row in ids], np.int32)
    return Sight(positions, ids, np.zeros_like(ids))


def test_feed_adds_unit_embeddings_to_think_states(speak, states):
    fed = speak.feed(states, STATE, UNITS)
    table = speak.embed.get_value()
    for s in range(12):
        expected = states[0, STATE[0, s]] if STATE[0, s] >= 0 else np.zeros(16)
        expected = expected + sum(np.asarray(table[u]) for u in UNITS[0, s] if u >= 0)
        np.testing.assert_allclose(fed[0, s], expected, atol=1e-6)


def test_unit_logits_are_one_head_per_unit_of_the_group(speak):
    x = np.random.default_rng(1).normal(size=(2, 3, 16)).astype(np.float32)
    logits = speak.unit_logits(x)
    assert logits.shape == (2, 3, 4, 11)
    for head in range(4):
        np.testing.assert_allclose(logits[:, :, head], x @ np.asarray(speak.heads.get_value()[head]), atol=1e-5)


def test_lock_step_equals_the_forward_pass(speak, states):
    whole = speak.unit_logits(speak(speak.feed(states, STATE, UNITS), stream_of(IDS)))
    for answer, prefix in ((1, 3), (2, 1)):
        at = np.flatnonzero(IDS[0] == answer)
        cache, got = speak.new_cache(1, 8), []
        for piece in (at[:prefix], *at[prefix:, None]):
            sight = Sight(
                (piece - at[0])[None].astype(np.int32),
                np.ones((1, len(piece)), np.int32),
                np.zeros((1, len(piece)), np.int32),
            )
            x, cache = speak(speak.feed(states, STATE[:, piece], UNITS[:, piece]), sight, cache=cache)
            got.append(speak.unit_logits(x))
        np.testing.assert_allclose(jnp.concatenate(got, axis=1)[0], whole[0, at], atol=1e-5)


def test_nan_states_that_are_not_fed_change_nothing(speak, states):
    def loss(speak, states):
        x = speak(speak.feed(states, STATE, UNITS), stream_of(IDS))
        return jnp.sum(jnp.where(IDS[..., None] > 0, jnp.square(x), 0))

    wider = np.concatenate([states, np.full((1, 2, 16), np.nan, np.float32)], axis=1)
    clean, dirty = (jax.value_and_grad(loss)(speak, value) for value in (states, wider))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert np.isfinite(clean[0])
