"""Attention kernels give the reference's numbers: packed rows, branches, grouped heads, padding, every mesh."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ieat_jax.model.attention import attend
from ieat_jax.model.cudnn import cudnn_attend, cudnn_fits
from ieat_jax.model.llm import recompute
from ieat_jax.model.sharding import MESH_AXES, make_mesh, put
from ieat_jax.model.sight import Sight, visible
from ieat_jax.model.splash import BASE, DIGITS, PENALTY, branch_code, splash_fits

ROWS, HEADS, KV_HEADS, HEAD_DIM = 2, 4, 2, 16


def sight(length, seed=0):
    """Two packed dialogues and padding; in each, a trunk and two branches."""
    rng = np.random.default_rng(seed)
    segments, branches = np.zeros((2, ROWS, length), np.int32)
    for row in range(ROWS):
        cut, end = length // 3 + row, length - 9 * (row + 1)
        segments[row, :cut], segments[row, cut:end] = 1, 2
        for branch, start in enumerate(rng.integers(5, end - 40, 4), 1):
            branches[row, start : start + 30] = branch
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), segments.shape)
    return Sight(positions, segments, branches)


def arrays(length):
    rng = np.random.default_rng(1)
    shapes = ((ROWS, length, heads, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def value_and_grads(kernel, causal, where, q, k, v):
    """Output at tokens that are not padding, and gradients of a weighted sum of it."""

    def loss(q, k, v, where):
        out = attend(q, k, v, where, where, causal=causal, kernel=kernel)
        if where is not None:
            out = jnp.where(where.segment_ids[..., None, None] > 0, out, 0)
        return jnp.sum(out * jnp.cos(jnp.arange(HEAD_DIM))), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v, where)
    return [np.asarray(x) for x in (out, *grads)]


def assert_close(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(("length", "causal"), [(256, True), (200, True), (150, False)])
def test_splash_equals_the_reference(length, causal):
    where = sight(length)
    if not causal:
        where = Sight(where.positions, np.minimum(where.segment_ids, 1))  # Listen's: padding, no branches
    expected = value_and_grads("xla", causal, where, *arrays(length))
    assert_close(value_and_grads("splash", causal, where, *arrays(length)), expected)
    other = value_and_grads("xla", causal, Sight(where.positions, where.segment_ids), *arrays(length))
    assert not causal or np.abs(other[0] - expected[0]).max() > 1e-2  # the branches matter


def test_splash_without_streams_sees_everything():
    assert_close(
        value_and_grads("splash", False, None, *arrays(150)), value_and_grads("xla", False, None, *arrays(150))
    )


@functools.cache
def mesh(*sizes):
    return make_mesh(types.SimpleNamespace(**dict(zip(MESH_AXES, sizes, strict=True))), jax.devices()[: np.prod(sizes)])


@pytest.mark.parametrize(
    ("kernel", "sizes"), [("splash", (1, 1, 2, 2)), ("splash", (1, 2, 1, 1)), ("xla", (1, 1, 2, 2))]
)
def test_kernels_are_equal_on_a_mesh(kernel, sizes):
    expected = value_and_grads("xla", True, sight(256), *arrays(256))
    with jax.set_mesh(mesh(*sizes)):
        q, k, v = put(arrays(256), "batch", "sequence", "heads", None)
        assert kernel == "xla" or splash_fits(q)
        assert_close(value_and_grads(kernel, True, put(sight(256), "batch", "sequence"), q, k, v), expected)


@pytest.mark.parametrize("sizes", [None, (1, 1, 2, 2)])
def test_cudnns_arguments_say_who_sees_whom(sizes):
    """Off a GPU the same call runs JAX's own attention: mask, scale and grouped heads are tested here."""
    q, k, v = arrays(64)
    where = sight(64)
    expected = np.asarray(attend(q, k, v, where, where, causal=True, kernel="xla"))

    def run(q, k, v, where):
        return cudnn_attend(q, k, v, visible(where, where, causal=True), causal=True)

    if sizes is None:
        got = jax.jit(run)(q, k, v, where)
    else:
        with jax.set_mesh(mesh(*sizes)):
            keys = put((k, v), "batch", None, "heads", None)
            got = jax.jit(run)(put(q, "batch", "sequence", "heads", None), *keys, put(where, "batch", "sequence"))
    real = where.segment_ids > 0
    np.testing.assert_allclose(np.asarray(got)[real], expected[real], atol=2e-5)


def test_cudnn_is_for_half_precision():
    assert cudnn_fits(jnp.zeros((1, 64, 4, 128), jnp.bfloat16))
    assert not cudnn_fits(jnp.zeros((1, 64, 4, 128), jnp.float32))
    assert not cudnn_fits(jnp.zeros((1, 64, 4, 192), jnp.bfloat16))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What is traced here is for a GPU; to run it needs one."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91400)
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    monkeypatch.setattr("ieat_jax.model.cudnn.platform", lambda: "gpu")


def gradient(function):
    return jax.jit(jax.grad(lambda *arguments: jnp.sum(function(*arguments).astype(jnp.float32))))


def half_precision(length):
    return tuple(jnp.asarray(x, jnp.bfloat16) for x in arrays(length))


@pytest.mark.parametrize(("sizes", "mask"), [(None, "CAUSAL"), ((2, 1, 1, 1), "CAUSAL"), ((1, 1, 2, 1), "NO_MASK")])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_gpu_is_given_cudnns_kernels(sizes, mask):
    """Forward and backward, the mask as a bias; what lies above the diagonal is skipped where queries are whole."""
    q, k, v = half_precision(64)
    where = sight(64)
    run = gradient(lambda q, k, v, where: attend(q, k, v, where, where, causal=True, kernel="cudnn"))

    def lower(*arguments):
        return run.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()

    if sizes is None:
        lowered = lower(q, k, v, where)
    else:
        with jax.set_mesh(mesh(*sizes)):
            tensors = put((q, k, v), "batch", "sequence", "heads", None)
            lowered = lower(*tensors, put(where, "batch", "sequence"))
    for target in ("__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"):
        calls = [line for line in lowered.splitlines() if f"@{target}(" in line or f'"{target}"' in line]
        assert calls, target
        for line in calls:
            assert f"\\22mask_type\\22: \\22{mask}\\22" in line, line[:3000]


@pytest.mark.parametrize(("policy", "times"), [("attention", 1), ("full", 2)])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_remat_keeps_what_cudnn_gives(policy, times):
    """Under `attention` the backward pass has the kernel's result and need not run it again."""
    q, k, v = half_precision(64)
    where = sight(64)
    body = recompute(lambda q, _: (attend(q, k, v, where, where, causal=True, kernel="cudnn"), None), policy)
    traced = str(jax.make_jaxpr(gradient(lambda q: body(jnp.sin(q), None)[0]))(q))
    assert traced.count("dot_product_attention_fwd_wrapper[") == times
    assert traced.count("dot_product_attention_bwd_wrapper[") == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_branch_code_is_exact(dtype):
    """0 where the key is visible, and far below every score where it is not, in the type of the computation."""
    ids = jnp.array([[0, 1, 2, 16, 17, 255, 256, BASE**DIGITS - 1]], jnp.int32)
    query, key = branch_code(ids, dtype)
    products = np.asarray(jnp.einsum("bqd,bkd->bqk", query, key, preferred_element_type=jnp.float32))[0]
    seen = (ids[0][None] == 0) | (ids[0][None] == ids[0][:, None])
    assert (products[np.asarray(seen)] == 0).all()
    assert products[~np.asarray(seen)].max() <= -PENALTY


def test_short_sequences_and_decoding_take_the_reference():
    q, k, v = (x[:, :40] for x in arrays(64))
    assert not splash_fits(q)
    where = jax.tree.map(lambda x: x[:, :40], sight(64))
    same = [attend(q, k, v, where, where, causal=True, kernel=kernel) for kernel in ("xla", "splash", "auto")]
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[0], same[2])
