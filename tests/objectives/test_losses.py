"""Losses in chunks on a mesh, against whole logits on one device: values, gradients of the head and of the states."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ieat_jax.model.sharding import MESH_AXES, Divided, make_mesh, put, spec
from ieat_jax.objectives.losses import chunked_losses

ROWS, WIDTH, VOCABULARY, GROUP = 8, 16, 24, 2
HEADS = {  # names, shape and product
    "untied": (("embed", "vocab"), (WIDTH, VOCABULARY), "...d,dv->...v"),
    "tied": (("vocab", "embed"), (VOCABULARY, WIDTH), "...d,vd->...v"),
    "units": ((None, "embed", None), (GROUP, WIDTH, VOCABULARY), "...d,gdv->...gv"),
}


def arrays(kind, size):
    rng = np.random.default_rng(size)
    student, teacher = rng.normal(size=(2, ROWS, size, WIDTH)).astype(np.float32)
    head = rng.normal(size=HEADS[kind][1]).astype(np.float32)
    shape = (ROWS, size, GROUP) if kind == "units" else (ROWS, size)
    targets = rng.integers(-1, VOCABULARY, shape).astype(np.int32)
    return head, student, targets, teacher, rng.uniform(size=(2, *shape)).astype(np.float32)


def loss(kind, chunk, head, student, targets, teacher, weights):
    names, _, product = HEADS[kind]
    ce, kl = chunked_losses(
        lambda states, head: jnp.einsum(product, states, head),
        Divided(head, names, jnp.float32),
        student,
        targets,
        teacher,
        temperature=2.0,
        chunk=chunk,
    )
    return jnp.sum(ce * (targets >= 0) * weights[0]) + jnp.sum(kl * weights[1]), (ce, kl)


def expected(kind, head, student, targets, teacher, weights):
    """Whole logits, and nothing of ours."""

    def value(head, student):
        logits, taught = (jnp.einsum(HEADS[kind][2], states, head) for states in (student, teacher))
        taught = jax.lax.stop_gradient(taught)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        p, q = jax.nn.softmax(taught / 2), jax.nn.log_softmax(logits / 2)
        kl = jnp.sum(p * (jnp.log(p) - q), axis=-1)
        return -jnp.sum(chosen * (targets >= 0) * weights[0]) + jnp.sum(kl * weights[1])

    return jax.value_and_grad(value, argnums=(0, 1))(head, student)


@pytest.mark.parametrize("sizes", [None, (2, 2, 2, 1), (1, 2, 2, 2), (1, 1, 4, 2)])
@pytest.mark.parametrize(("size", "chunk"), [(12, 100), (12, 2), (7, 3), (6, 4)])
@pytest.mark.parametrize("kind", HEADS)
def test_chunks_and_meshes_change_no_number(kind, size, chunk, sizes):
    """7 and 6 positions do not divide over 4 devices; 3 and 4 leave a smaller chunk."""
    given = arrays(kind, size)
    value, gradients = expected(kind, *given)
    run = jax.jit(jax.value_and_grad(lambda *given: loss(kind, chunk, *given), argnums=(0, 1), has_aux=True))
    if sizes is None:
        (got, _), found = run(*given)
    else:
        mesh = make_mesh(types.SimpleNamespace(**dict(zip(MESH_AXES, sizes, strict=True))))
        head, student, targets, teacher, weights = given
        with jax.set_mesh(mesh):
            head = jax.device_put(head, NamedSharding(mesh, spec(*HEADS[kind][0])))
            along = ("batch", "sequence" if size % sizes[2] == 0 else None)
            (got, _), found = run(head, *put((student, targets, teacher), *along), put(weights, None, *along))
            assert found[0].sharding.spec == head.sharding.spec
    np.testing.assert_allclose(got, value, rtol=1e-5)
    for one, two in zip(found, gradients, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_no_logits_outlive_their_chunk():
    """The compiled gradient needs room for a chunk of logits, not for all of them."""

    def room(chunk):
        run = jax.jit(jax.grad(lambda *given: loss("untied", chunk, *given)[0], argnums=(0, 1)))
        return run.lower(*arrays("untied", 2048)).compile().memory_analysis().temp_size_in_bytes

    whole = ROWS * 2048 * VOCABULARY * 4
    assert room(2048) > whole
    assert room(64) < room(2048) - whole
