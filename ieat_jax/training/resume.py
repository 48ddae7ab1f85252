"""Whether a run may go on: its configuration and data against those that it began with."""

from __future__ import annotations

from typing import Any

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


def check_resume(stored: dict[str, Any], now: dict[str, Any], *, allow: bool) -> None:
    """Raise a TrainError when config or data are not those that a run began with, unless that is allowed."""
    differing = [
        f"config.{name}: {old!r} then, {new!r} now"
        for name, old, new in _differences(stored["config"], now["config"])
        if not any(name == free or name.startswith(free + ".") for free in FREE_FIELDS)
    ]
    if stored["data"] != now["data"]:
        changed = [name for name in stored["data"] | now["data"] if stored["data"].get(name) != now["data"].get(name)]
        differing.append(f"the records of {', '.join(changed)}")
    if differing and not allow:
        raise TrainError(
            f"this run began with another configuration ({'; '.join(differing[:8])}); use a new workdir, or set "
            "config.checkpoint.allow_changes=True to go on all the same"
        )


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in old | new:
            found += _differences(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
        return found
    return [] if old == new else [(prefix, old, new)]
