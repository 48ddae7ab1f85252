"""Whether a run may go on: its configuration and data against those that it began with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ieat_jax.config.recipes import differences, normal, to_section, typed
from ieat_jax.config.sections import RunConfig
from ieat_jax.errors import UserError

# Fields that may differ between the attempts of one run: they change how long it runs and what it writes, not a step.
FREE_FIELDS = (
    "checkpoint",
    "train.log_every",
    "train.compiler_options",
    "data.read_threads",
    "data.read_ahead",
    "data.max_bad_share",
    "mesh",
)


class TrainError(UserError):
    """A run that cannot begin, go on, or resume."""


def check_stage(workdir: Path, stored: Mapping[str, Any], config: RunConfig) -> None:
    """Raise where the run in `workdir`, of which `stored` is a step's metadata, is of another stage than `config`.

    Raises:
        TrainError: it is.
    """
    then = stored["config"].get("stage", config.stage)
    if then != config.stage:
        raise TrainError(
            f"{workdir}: holds a run of stage {then}, config.stage is {config.stage}; every stage has a workdir of its "
            "own: give another one (to begin from that run, name it in config.init.checkpoint)"
        )


def check_resume(stored: Mapping[str, Any], now: Mapping[str, Any], *, allow: bool) -> None:
    """Compare configuration and data, as a checkpoint's metadata hold them, with those that a run began with.

    A field that did not exist then had its default.

    Raises:
        TrainError: they differ, and that is not allowed.
    """
    if stored.get("order", 1) != now["order"] and not allow:
        raise TrainError(
            "this run began with a version of ieat_jax that put the same data into other batches; finish it with that "
            "version, use a new workdir, or set config.checkpoint.allow_changes=True to go on with other batches"
        )
    then, today = to_section(typed(normal(stored["config"]))), normal(now["config"])
    differing = [
        line
        for line in differences(then, today)
        if not any(re.match(rf"config\.{re.escape(free)}[.:]", line) for free in FREE_FIELDS)
    ]
    sources = stored["data"] | now["data"]
    changed = [name for name in sources if not _same(stored["data"].get(name), now["data"].get(name))]
    if changed:
        differing.append(f"the records of {', '.join(changed)}")
    if differing and not allow:
        raise TrainError(
            f"this run began with another configuration ({'; '.join(differing[:8])}); use a new workdir, or set "
            "config.checkpoint.allow_changes=True to go on all the same"
        )


def _same(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Whether a source is what it was, by the fingerprints that were known then."""
    return then is not None and now is not None and all(now.get(name) == value for name, value in then.items())
