"""Whether all processes do the same: program, configuration, data and first step, compared before anything is computed.

Processes that differ would go on without a word, under a log that shows the values of process 0, or wait for each other
for ever.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from ieat_jax import processes
from ieat_jax.config.recipes import as_plain
from ieat_jax.config.sections import RunConfig
from ieat_jax.data.sources.sound import sample
from ieat_jax.interop.hub import PREFIX, weights_path
from ieat_jax.runs.folder import CHECKPOINTS
from ieat_jax.text.tokenizer import tokenizer_digest
from ieat_jax.training.resume import TrainError
from ieat_jax.training.setup import Ingredients
from ieat_jax.version import __version__

PACKAGES = ("jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "soundfile", "soxr", "tokenizers")
SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
MOST = 8  # differing fields that are named
MOST_CHARACTERS = 80  # of a value
ABSENT = "nothing"


def check_same(name: str, facts: Callable[[], Mapping[str, Any]]) -> None:
    """Compare `facts`, nested dictionaries of what JSON holds, with those of all processes, which call this together.

    Only hashes travel where nothing differs. A process that is alone does not ask for its facts.

    Raises:
        TrainError: they differ; on all processes, with the same names of fields, values and processes.
    """
    if processes.count() == 1:
        return
    flat = dict(_flat(facts()))
    digest = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
    digests = processes.gather(name, digest)
    others = [process for process, other in enumerate(digests) if other != digests[0]]
    if not others:
        return
    shown = others[0]
    here = processes.index()
    told = processes.gather(f"{name} in full", flat if here in (0, shown) else None)
    ours, theirs = told[0], told[shown]
    differing = [field for field in dict.fromkeys([*ours, *theirs]) if ours.get(field, ...) != theirs.get(field, ...)]
    values = [
        f"process {shown} has {field} = {_text(theirs, field)}, process 0 {_text(ours, field)}"
        for field in differing[:MOST]
    ]
    more = f", and {len(differing) - MOST} more fields" if len(differing) > MOST else ""
    also = f" (of {len(others)} processes that differ from process 0)" if len(others) > 1 else ""
    raise TrainError(
        f"the processes of this run do not do the same: {'; '.join(values)}{more}{also}. Start the same command on all "
        "hosts, with the same code and files"
    )


def _flat(facts: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", json.loads(json.dumps(value))


def _text(facts: Mapping[str, Any], field: str) -> str:
    text = repr(facts[field]) if field in facts else ABSENT
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 4]} ..."


def program(config: RunConfig) -> dict[str, Any]:
    """Return what a process runs: versions, code and configuration."""
    folder = Path(__file__).parents[1]
    own = (Path(spec.rpartition(":")[0]) for spec, _ in config.objective.extra)
    files = {str(file.relative_to(folder.parent)): file for file in sorted(folder.rglob("*.py"))}
    files |= {str(file): file for file in own}
    return {
        "version": {"ieat_jax": __version__, "jax": jax.__version__, "python": platform.python_version()}
        | {package: _version(package) for package in PACKAGES},
        "config": as_plain(config),
        "jax.config": {name: str(jax.config.values.get(name)) for name in SETTINGS},
        "code": {name: _digest(file.read_bytes()) for name, file in files.items()},
    }


def material(parts: Ingredients, metadata: Mapping[str, Any], begun: tuple[int, Any] | None) -> dict[str, Any]:
    """Return what a process has read, and would compute with.

    Args:
        parts: tokenizer and earlier run are looked at here,
        metadata: of the run's checkpoints, data and codec here.
        begun: step and metadata of the checkpoint that the run goes on from, if it does.
    """
    init, earlier = parts.config.init, parts.earlier
    facts = {f"data {name}": found for name, found in metadata["data"].items()}
    facts |= {"codec": metadata["codec"], "tokenizer": tokenizer_digest(parts.tokenizer), "first step": 0}
    if begun is not None:
        facts |= {"first step": begun[0], "checkpoint": _digest(json.dumps(begun[1], sort_keys=True).encode())}
    if earlier is not None:
        record = earlier.path / CHECKPOINTS / str(earlier.step) / "_CHECKPOINT_METADATA"
        facts[f"run {earlier.path}"] = {"step": earlier.step, "content": _digest(record.read_bytes())}
    for spec in filter(None, (init.llm, init.whisper, init.speak)):
        facts[f"weights {spec}"] = {file.name: _digest(sample(file)) for file in _files(spec)}
    return facts


def _files(spec: str) -> list[Path]:
    """The files of weights given by a folder, a name of the hub or KIND:PATH; of a package, its version is known."""
    if spec.startswith(PREFIX):
        path = weights_path(spec, "weights")
    else:
        path = Path(spec) if Path(spec).exists() else Path(spec.partition(":")[2])
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
