"""Flash attention of cuDNN, for GPUs; which tokens are visible to each other is given as a mask."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ieat_jax.model.sharding import array_spec, current_mesh, platform


def cudnn_fits(q: jax.Array) -> bool:
    """Whether the kernel takes queries [B, T, H, hd] of this type and size."""
    head_dim, half = q.shape[-1], q.dtype in (jnp.bfloat16, jnp.float16)
    return half and head_dim <= 128 and head_dim % 8 == 0 and q.shape[1] % 2 == 0


def cudnn_is_saved(primitive: Any, *_: Any, **__: Any) -> bool:
    """A remat policy that keeps what the kernel gives; it has no checkpoint name."""
    return primitive.name.startswith("dot_product_attention_fwd")


def cudnn_attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, *, causal: bool) -> jax.Array:
    """`attention.attend` where `cudnn_fits`; `mask` bool [B, T, T]. Off a GPU, JAX's own XLA code takes its place.

    `k` and `v` are whole over the mesh's context axis; queries may be divided over it.
    """
    layout, mesh = array_spec(q), current_mesh()
    rows, tokens, heads = layout[:3]
    divided = tokens is not None and mesh.shape[tokens] > 1
    masks = () if mask is None else (mask[:, None],)

    def run(q: jax.Array, k: jax.Array, v: jax.Array, *masks: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=masks[0] if masks else None,
            is_causal=causal and not divided,  # blocks above the diagonal are skipped
            implementation="cudnn" if platform() == "gpu" else "xla",
        )

    if mesh is None:
        return run(q, k, v, *masks)
    whole = PartitionSpec(rows, None, heads, None)
    in_specs = (layout, whole, whole, PartitionSpec(rows, None, tokens, None))[: 3 + len(masks)]
    return jax.shard_map(run, in_specs=in_specs, out_specs=layout, check_vma=False)(q, k, v, *masks)
