"""Parameter names: dot-joined attribute names, such as `think.layers.attention.q.kernel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


def path_name(key_path: tuple[Any, ...]) -> str:
    """Dot-joined name of a JAX key path; the `.value` below an `nnx.Param` is not part of it."""
    names = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in key_path]
    if names and names[-1] == "value":
        names = names[:-1]
    return ".".join(names)


def named_leaves(tree: Any) -> dict[str, Any]:
    """{name: array (or ShapeDtypeStruct)} of every parameter, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_named(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function also gets the parameter's name: fn(name, leaf, *leaves of rest)."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(path_name(path), *leaves), tree, *rest)


def named_modules(module: nnx.Module, prefix: str = "") -> dict[str, nnx.Module]:
    """{path: module} of a module and everything below it; the root's path is its prefix."""
    found = {prefix: module}
    for name, child in vars(module).items():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(child, nnx.Module):
            found |= named_modules(child, path)
        elif isinstance(child, (nnx.List, list, tuple)):
            for index, item in enumerate(child):
                if isinstance(item, nnx.Module):
                    found |= named_modules(item, f"{path}.{index}")
    return found
