"""What a checkpoint folder holds, below the steps: arrays under nested names, and the record that verifies them.

The record (Orbax's custom metadata, JSON) has the caller's metadata, every array's type, shape and fingerprint, and a
checksum over both.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import AbstractMesh, NamedSharding, Sharding, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from ieat_jax import processes
from ieat_jax.errors import UserError
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.fingerprints import fingerprints
from ieat_jax.runs.manifest import HASHED, changes, marks_of, read_manifest, write_manifest

# What only damaged files give. All other causes lie outside of a step (access, memory, mesh, versions, names), which is
# not set aside for them.
DAMAGE = (json.JSONDecodeError, UnicodeDecodeError)
DAMAGE_CODES = ("DATA_LOSS", "OUT_OF_RANGE")

Result = TypeVar("Result")
Named = dict[str, Any]
Table = dict[str, list[Any]]  # name -> [type, shape, fingerprint]


class CheckpointError(UserError):
    """A checkpoint that cannot be written, is not there, is damaged, or does not fit; names the folder."""


class DamagedError(Exception):
    """A step whose files are not what was saved."""


def prepare(items: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Items as Orbax takes them, and the record that goes with them."""
    named = {item: {name: _array(leaf) for name, leaf in by_name(tree).items()} for item, tree in items.items()}
    tables = {}
    for item, arrays in named.items():
        marks = fingerprints(arrays)
        tables[item] = {name: [str(x.dtype), list(x.shape), marks[name]] for name, x in arrays.items()}
    # Orbax refuses empty arrays and empty items; both are restored from the record alone.
    nested = {item: nest({name: x for name, x in arrays.items() if x.size}) for item, arrays in named.items()}
    record = {"metadata": dict(metadata), "items": tables}
    return {item: tree for item, tree in nested.items() if tree}, record | {"check": _checksum(record)}


def _checksum(record: Mapping[str, Any]) -> int:
    text = json.dumps([record["metadata"], record["items"]], sort_keys=True)
    return zlib.crc32(text.encode())


def saving_context() -> ocp.Context:
    """How arrays are written."""
    context = ocp.Context()
    # Replicas share the writing of large arrays; for small ones, cutting them up costs more than writing them.
    context.array.saving.min_slice_bytes_for_replica_parallel = 1 << 20
    return context


def _loading_context() -> ocp.Context:
    """Loads the arrays asked for; no process waits for the others, so that one that fails does not leave them there."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    if jax.process_count() > 1:
        context.multiprocessing.primary_host = jax.process_index()
        context.multiprocessing.active_processes = {jax.process_index()}
        context.multiprocessing.barrier_sync_key_prefix = f"process_{jax.process_index()}"
    return context


def read_record(path: epath.Path) -> tuple[dict[str, Any], dict[str, Table]]:
    """(metadata, tables) of a step whose files are those that its manifest names."""
    record = agreed(path, lambda: _read_record(path))
    return record["metadata"], record["items"]


def _read_record(path: epath.Path) -> dict[str, Any]:
    _check_files(path)
    try:
        record = json.loads((path / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
        if record["check"] != _checksum(record):
            raise DamagedError("its metadata was changed after it was saved")
    except FileNotFoundError as error:
        raise DamagedError("its metadata file is missing") from error
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedError(f"its metadata cannot be read ({type(error).__name__}: {error})") from error
    gone = [item for item, table in record["items"].items() if _stored(table) and not (path / item).is_dir()]
    if gone:
        raise DamagedError(f"{some(gone)} is missing")
    return record


def _stored(table: Table) -> bool:
    """Whether Orbax has files for an item: empty arrays and empty items are in the record alone."""
    return any(0 not in shape for _, shape, _ in table.values())


def write_step_manifest(path: epath.Path) -> None:
    """Note what the files of a complete step are. Without it (a run that was killed just then) less is noticed."""
    try:
        write_manifest(path, marks_of(path, hashed=HASHED))
    except OSError as error:
        print(f"{path}: its manifest could not be written ({error})", flush=True)


def _check_files(path: epath.Path) -> None:
    try:
        marks = read_manifest(path)
    except ValueError as error:
        raise DamagedError(str(error)) from error
    found = changes(path, marks or {})
    if found:
        raise DamagedError(some(found))


def agreed(path: epath.Path, read: Callable[[], Result]) -> Result:
    """`read()`, or an error on all processes when it fails on one.

    Raises:
        DamagedError: what is in the files cannot be read.
        CheckpointError: the files cannot be read now.
    """
    severity, problem, results = 0, None, []
    try:
        results.append(read())
    except Exception as error:
        problem = _damage_or_cause(path, error)
        severity = 1 if isinstance(problem, DamagedError) else 2
    worst = max(processes.gather("checkpoint", severity))
    if worst > severity:
        problem = DamagedError("another process finds it so")
        if worst == 2:
            problem = CheckpointError(f"{path}: another process cannot read it now; try again")
    if problem is not None:
        raise problem
    return results[0]


def _damage_or_cause(path: epath.Path, error: Exception) -> Exception:
    """What `error` says of the files at `path`, of which it is the cause."""
    if isinstance(error, DamagedError):
        return error
    found = DamagedError(root_cause(error)) if _is_damage(error) else _outside(path, error)
    found.__cause__ = error
    return found


def _outside(path: epath.Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be read now ({root_cause(error)}), and nothing says that its files are damaged; remove the "
        "cause and try again, or move this folder away to use an earlier step"
    )


def load(path: epath.Path, wanted: Mapping[str, Named], tables: Mapping[str, Table]) -> dict[str, Named]:
    """Load arrays by item and name in their stored types; all processes agree on whether they are intact.

    Raises:
        DamagedError: arrays are missing, or are not what was saved.
    """
    placed = {
        item: {
            name: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(tables[item][name][0]), sharding=_placement(leaf))
            for name, leaf in leaves.items()
        }
        for item, leaves in wanted.items()
    }
    full = {item: {n: leaf for n, leaf in leaves.items() if leaf.size} for item, leaves in placed.items()}
    trees = {item: nest(leaves) for item, leaves in full.items() if leaves}

    def read() -> dict[str, Named]:
        with _loading_context():
            loaded = ocp.load_checkpointables(path, trees) if trees else {}
        arrays = {item: named_leaves(loaded.get(item, {})) for item in placed}
        # Orbax returns what it was asked for (a ShapeDtypeStruct) in place of an array that it does not find.
        lost = [
            f"{item} {name}"
            for item, leaves in full.items()
            for name, leaf in leaves.items()
            if not _is_array(arrays[item].get(name), leaf)
        ]
        if lost:
            raise DamagedError(f"without {some(lost)}")
        return arrays

    loaded = agreed(path, read)
    result = {}
    for item, leaves in placed.items():
        arrays = loaded[item]
        empty = {name: _zeros(leaf) for name, leaf in leaves.items() if not leaf.size}
        result[item] = {name: empty[name] if name in empty else arrays[name] for name in leaves}
        marks = fingerprints({name: arrays[name] for name in full[item]})
        changed = [f"{item} {name}" for name, mark in marks.items() if mark != tables[item][name][2]]
        if changed:
            raise DamagedError(f"other numbers than were saved in {some(changed)}")
    return result


def _is_array(found: Any, wanted: jax.ShapeDtypeStruct) -> bool:
    return isinstance(found, jax.Array) and (found.shape, found.dtype) == (wanted.shape, wanted.dtype)


def check_same(path: epath.Path, item: str, wanted: Named, table: Table) -> None:
    """Raise unless names, shapes and types are those of the step: then the configuration differs, not the files."""
    problems = [f"{name} is missing there" for name in wanted if name not in table]
    problems += [f"{name} is only there" for name in table if name not in wanted]
    for name, leaf in wanted.items():
        if name in table and (tuple(table[name][1]), table[name][0]) != (leaf.shape, str(leaf.dtype)):
            there = f"{table[name][0]}{shape_text(table[name][1])}"
            problems.append(f"{name} is {there} there, {leaf.dtype}{shape_text(leaf.shape)} here")
    if problems:
        raise CheckpointError(
            f"{path}: {item} does not fit this configuration: {some(problems)}. "
            "Use the model and optimizer rules of the run, or start a new run from it with config.init.checkpoint"
        )


def nest(named: Named) -> dict[str, Any]:
    """{'a.b': x} -> {'a': {'b': x}}.

    Raises:
        ValueError: one name is also a prefix of another.
    """
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split(".")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                raise ValueError(f"parameter names collide: {name!r} and the part of it before a dot")
        if last in at:
            raise ValueError(f"parameter names collide: {name!r} twice, or as a part of a longer name")
        at[last] = leaf
    return tree


def by_name(tree: Any) -> Named:
    """Return the leaves of a tree by name; numbers become arrays.

    Raises:
        ValueError: two leaves have the same name.
    """
    count = len(jax.tree.leaves(tree))
    named = named_leaves(tree)
    if len(named) != count:
        raise ValueError("two leaves of the tree have the same dotted name")
    return {name: leaf if hasattr(leaf, "sharding") else _array(leaf) for name, leaf in named.items()}


def _array(leaf: Any) -> Any:
    """JAX arrays as they are; numpy arrays and numbers (which Orbax knows only in part) as copies."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return leaf
    value = np.array(leaf)
    return value.astype(jax.dtypes.canonicalize_dtype(value.dtype))


def _placement(leaf: Any) -> Sharding:
    """Where a leaf shall lie, on real devices."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, AbstractMesh):
        mesh = jax.sharding.get_mesh()
        if mesh.empty:
            raise ValueError("abstract shardings need a mesh: restore inside `jax.set_mesh(mesh)`")
        return NamedSharding(mesh, sharding.spec)
    return sharding


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: np.zeros(leaf.shape, leaf.dtype))


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def _is_damage(error: BaseException) -> bool:
    return any(isinstance(e, DAMAGE) or any(code in str(e) for code in DAMAGE_CODES) for e in _causes(error))


def root_cause(error: BaseException) -> str:
    """The innermost reason in one line: Orbax hides it under 'incompatible handler'."""
    error = _causes(error)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def shape_text(shape: Sequence[int]) -> str:
    """'[2, 3]'."""
    return f"[{', '.join(map(str, shape))}]"


def some(values: Sequence[str]) -> str:
    """The first few, and how many more."""
    return ", ".join(values[:6]) + (f" and {len(values) - 6} more" if len(values) > 6 else "")
