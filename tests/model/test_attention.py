import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ieat_jax.model.attention import attend, rope, rotate
from ieat_jax.model.sight import Sight, clean, visible


def oracle_visible(segments, branches, causal=True):
    rows, length = segments.shape
    seen = np.zeros((rows, length, length), bool)
    for b, i, j in np.ndindex(seen.shape):
        same = segments[b, i] == segments[b, j] > 0
        branch = branches[b, j] == 0 or branches[b, j] == branches[b, i]
        seen[b, i, j] = same and branch and (j <= i or not causal)
    return seen


@pytest.mark.parametrize("causal", [True, False])
def test_visibility_is_the_rule_of_the_layout(make_stream, causal):
    segments = np.array([[1, 1, 1, 1, 1, 2, 2, 0], [0, 1, 1, 1, 1, 1, 1, 1]])
    branches = np.array([[0, 1, 1, 2, 0, 0, 1, 0], [0, 0, 0, 1, 2, 1, 0, 2]])
    sight = make_stream(segments, branches)
    np.testing.assert_array_equal(visible(sight, sight, causal=causal), oracle_visible(segments, branches, causal))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_with_grouped_heads_matches_a_loop(make_stream, kv_heads):
    rng = np.random.default_rng(0)
    segments = np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    branches = np.array([[0, 0, 0, 1, 2, 0], [0, 1, 1, 2, 2, 0]])
    sight = make_stream(segments, branches)
    q = rng.normal(size=(2, 6, 4, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 6, kv_heads, 8)).astype(np.float32)
    out = attend(q, k, v, sight, sight, causal=True)
    seen = oracle_visible(segments, branches)
    for b, i, h in np.ndindex(2, 6, 4):
        keys = np.flatnonzero(seen[b, i])
        if not len(keys):
            assert np.isfinite(out[b, i, h]).all()
            continue
        group = h // (4 // kv_heads)
        scores = k[b, keys, group] @ q[b, i, h] / np.sqrt(8)
        weights = np.exp(scores - scores.max())
        expected = (weights / weights.sum()) @ v[b, keys, group]
        np.testing.assert_allclose(out[b, i, h], expected, atol=1e-5)


def test_attention_without_streams_sees_everything():
    q = np.zeros((1, 3, 2, 4), np.float32)  # equal scores: the mean of all values
    v = np.random.default_rng(0).normal(size=(1, 5, 2, 4)).astype(np.float32)
    out = attend(q, v, v, None, None, causal=False)
    np.testing.assert_allclose(out, np.broadcast_to(v.mean(1, keepdims=True), out.shape), atol=1e-6)


def test_clean_stops_nan_in_padding_in_values_and_gradients():
    sight = Sight.plain(jnp.array([[True, True, False]]))
    x = jnp.array([[[1.0], [2.0], [jnp.nan]]])

    def loss(x, scale):
        return jnp.sum(clean(x * scale, sight))

    value, grads = jax.value_and_grad(loss, argnums=0)(x, 3.0)
    assert value == 9.0
    np.testing.assert_array_equal(grads, [[[3.0], [3.0], [0.0]]])


def test_plain_stream_counts_positions_over_valid_tokens():
    sight = Sight.plain(jnp.array([[False, True, True, False], [True, True, True, True]]))
    np.testing.assert_array_equal(sight.positions, [[0, 0, 1, 1], [0, 1, 2, 3]])
    np.testing.assert_array_equal(sight.segment_ids, [[0, 1, 1, 0], [1, 1, 1, 1]])


def test_rope_depends_on_distance_only():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def score(i, j):
        rotated = [rotate(x, rope(jnp.array([[p]]), 8, 1e4)) for x, p in ((q, i), (k, j))]
        return float(jnp.sum(rotated[0] * rotated[1]))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(7, 5), abs=1e-2)
