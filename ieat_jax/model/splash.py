"""TPU splash attention (Pallas) with the masks of packed rows and of branches.

The kernel compares one segment id of a query with one of a key, which is enough for packing. That a branch is hidden
from everything but itself is said in the scores instead: query and key get DIGITS * BASE more dimensions, in which a
key names the digits of its branch, and a query forbids all digits but its own. Every term of their product is 0 where
the key is visible, so that nothing is rounded, and at least one is -PENALTY where it is not. A TPU pads heads to
multiples of 128 anyway, so that heads of 64 pay nothing for it; those of 128 pay for q k twice.

The kernel is JAX's, with two backward kernels: compiled for v5e, a row of 4,096 tokens in 32 heads takes 0.18 GiB, and
0.52 with one fused kernel; tokamax 0.0.12's, which is fused, takes 1.02, or 0.24 with `dq_reduction_steps=3`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from ieat_jax.model.sharding import array_spec, current_mesh, lay, out_sharding, platform

if TYPE_CHECKING:
    from ieat_jax.model.sight import Sight

LANES = 128
BLOCK = 512  # queries and keys of a tile, as large as divides the sequence
DIGITS, BASE = 3, 16  # of a branch's number: 4,095 branches in a row
PENALTY = 16384.0  # exp(-PENALTY) is 0 in float32
SAVED = "attention"  # checkpoint name of what the remat policy of this name keeps


def branch_code(branch_ids: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """More dimensions of (queries, keys), [B, T] -> [B, T, DIGITS * BASE] each; the trunk's id is 0."""
    places = jnp.arange(DIGITS * BASE, dtype=branch_ids.dtype)
    digits = (branch_ids[..., None] // BASE ** (places // BASE)) % BASE
    named = digits == places % BASE
    return jnp.where(named, 0, -PENALTY).astype(dtype), (named & (branch_ids[..., None] > 0)).astype(dtype)


def splash_fits(q: jax.Array) -> bool:
    """Whether the kernel's tiles fit queries [B, T, H, hd] as they lie on the mesh."""
    length, parts = q.shape[1], _ways(array_spec(q)[1])
    return length >= LANES if parts == 1 else length % (LANES * parts) == 0


def splash_attend(
    q: jax.Array, k: jax.Array, v: jax.Array, q_sight: Sight | None, kv_sight: Sight | None, *, causal: bool
) -> jax.Array:
    """`attention.attend` for queries and keys of the same tokens, where `splash_fits`.

    `k`, `v` and `kv_sight` are whole over the mesh's context axis; queries may be divided over it. Off a TPU, Pallas'
    interpreter runs the kernel.
    """
    layout = array_spec(q)
    rows, tokens, heads = layout[:3]
    q = q * (1 / math.sqrt(q.shape[-1]))
    ids = () if q_sight is None else (q_sight.segment_ids, kv_sight.segment_ids)
    if q_sight is not None and q_sight.branch_ids is not None:
        q = _widen(q, branch_code(q_sight.branch_ids, q.dtype)[0])
        k = _widen(k, branch_code(kv_sight.branch_ids, k.dtype)[1])
    parts, length = _ways(tokens), -(-q.shape[1] // LANES) * LANES
    kernel = _kernel(length, q.shape[2] // _ways(heads), causal, parts)
    run = functools.partial(_run, length=length, parts=parts)
    mesh = current_mesh()
    if mesh is None:
        return run(kernel, q, k, v, *ids)
    specs = kernel.manual_sharding_spec(jax.NamedSharding(mesh, PartitionSpec(None, tokens)))
    whole = PartitionSpec(rows, None, heads, None)
    in_specs = (specs, layout, whole, whole, PartitionSpec(rows, tokens), PartitionSpec(rows, None))
    mapped = jax.shard_map(run, in_specs=in_specs[: 4 + len(ids)], out_specs=layout, check_vma=False)
    return mapped(jax.tree.map(lay, kernel, specs), q, k, v, *ids)


def _ways(axis: str | None) -> int:
    mesh = current_mesh()
    return 1 if mesh is None or axis is None else mesh.shape[axis]


def _widen(x: jax.Array, code: jax.Array) -> jax.Array:
    """[B, T, heads, hd] with `code` [B, T, n] appended to every head."""
    shape, layout = (*x.shape[:3], code.shape[-1]), out_sharding(array_spec(x))
    return jnp.concatenate((x, jnp.broadcast_to(code[:, :, None], shape, out_sharding=layout)), axis=-1)


def _kernel(length: int, heads: int, causal: bool, parts: int) -> splash.SplashAttentionKernel:
    mask = masks.CausalMask((length, length)) if causal else masks.FullMask((length, length))
    tiles = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(**dict.fromkeys(tiles, math.gcd(length // parts, BLOCK))),
        head_shards=1,
        q_seq_shards=parts,
        residual_checkpoint_name=SAVED,
        interpret=platform() != "tpu",
    )


def _run(
    kernel: splash.SplashAttentionKernel,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *ids: jax.Array,
    length: int,
    parts: int,
) -> jax.Array:
    """On one device: q [b, T / parts, h, hd], k and v [b, T, kv, hd] -> [b, T / parts, h, hd]; tiles need `length`."""
    size = q.shape[1]
    if length != k.shape[1] and not ids:  # keys that are padded must be hidden
        ids = (jnp.ones(q.shape[:2], jnp.int32), jnp.ones(k.shape[:2], jnp.int32))
    q, k, v = _pad(q, length // parts), _pad(k, length), _pad(v, length)
    heads_first = [jnp.swapaxes(x, 1, 2) for x in (q, k, v)]
    if ids:
        heads_first.append(splash.SegmentIds(_pad(ids[0], length // parts), _pad(ids[1], length)))
    return jnp.swapaxes(jax.vmap(functools.partial(_call, kernel))(*heads_first), 1, 2)[:, :size]


def _call(kernel: splash.SplashAttentionKernel, *arguments: jax.Array) -> jax.Array:
    return kernel(*arguments)


def _pad(x: jax.Array, length: int) -> jax.Array:
    """[b, t, ...] with zeros up to `length`."""
    return x if x.shape[1] == length else jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
