"""Whether a run may go on: its configuration and data against those that it began with."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ieat_jax.config.recipes import differences, fields, normal, stored, to_section
from ieat_jax.config.sections import RunConfig
from ieat_jax.errors import UserError

# Fields that may differ between the attempts of one run: they change how long it runs and what it writes, not a step.
FREE_FIELDS = (
    "checkpoint",
    "train.log_every",
    "train.compiler_options",
    "data.read_workers",
    "data.read_threads",
    "data.read_ahead",
    "data.read_timeout",
    "data.max_bad_share",
    "mesh",
)
# What a source's fingerprint is over, in words.
PARTS = {"records": "another number of records", "content": "other records", "audio": "other recordings"}
OWN = "own"  # in a step's metadata: hashes of the files of a user's own losses
EXTRA = "config.objective.extra"
MOST = 8  # differences that are listed


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


def check_allowed(config: RunConfig) -> None:
    """Check that `config.checkpoint.allow_changes` names what there is.

    Raises:
        TrainError: it does not; names the nearest field.
    """
    known = fields(to_section(config))
    for name in map(_plain, config.checkpoint.allow_changes):
        # A source that the run once had may be gone.
        if not any(_covers(name, field) for field in known) and not name.startswith("data.sources."):
            near = difflib.get_close_matches(name, known, n=1)
            more = f"; did you mean {near[0]}?" if near else ""
            raise TrainError(f"config.checkpoint.allow_changes: there is no field or section {name}{more}")


def check_resume(then: Mapping[str, Any], now: Mapping[str, Any], *, moved: Collection[str] = ()) -> None:
    """Compare configuration, data and own losses, as a checkpoint's metadata hold them, with those of a run's begin.

    A field that did not exist then had its default. Where data lie does not matter, but what they are. `moved`: other
    fields whose paths lead to the same content. `config.checkpoint.allow_changes` names what may differ.

    Raises:
        TrainError: something else differs; names it.
    """
    before, today = to_section(stored(then["config"])), normal(now["config"])
    data, data_now = _by_name(then["data"], before), _by_name(now["data"], today)
    free, found = [*FREE_FIELDS, *moved, *map(_plain, today.checkpoint.allow_changes)], differences(before, today)
    for name in dict.fromkeys([*before.data.sources, *today.data.sources]):
        field = f"data.sources.{name}.records"
        if (name in before.data.sources) != (name in today.data.sources):  # one difference, not one of every field
            source = f"data.sources.{name}"
            found = {other: told for other, told in found.items() if not _covers(source, _plain(other))}
            found[f"config.{source}"] = _new_or_gone(name, before, today)
            continue
        if (name in data) == (name in data_now):  # in both: its content is compared; in neither: it is not read
            found.pop(f"config.{field}", None)
            found.pop(f"config.data.sources.{name}.audio_root", None)
        if name in data and name in data_now and (other := _other(data[name], data_now[name])):
            found[f"config.{field}"] = other
    if OWN in then:  # which earlier versions did not store
        losses, losses_now = _losses(then, before), _losses(now, today)
        if losses == losses_now:
            found.pop(EXTRA, None)
        elif EXTRA not in found:
            changed = [loss[0] for loss, other in zip(losses_now, losses, strict=True) if loss != other]
            found[EXTRA] = f"the file of {', '.join(changed)} says something else than then"
    if then.get("order", 1) != now.get("order", 1):
        found["config.data.window"] = "an earlier version of ieat_jax made other batches of the same data"
    differing = [field for field in found if not any(_covers(name, _plain(field)) for name in free)]
    if differing:
        listed = "; ".join(f"{field}: {found[field]}" for field in differing[:MOST])
        more = f"; and {len(differing) - MOST} more" if len(differing) > MOST else ""
        names = ", ".join(f"'{_plain(field)}'" for field in differing[:MOST])
        raise TrainError(
            f"this run began with another configuration ({listed}{more}); use a new workdir, or name what may differ: "
            f"config.checkpoint.allow_changes=({names},)"
        )


def changed_weights(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """A sentence for a run that goes on with other weights of its sources than it had; '' = it does not.

    Arguments are those of `check_resume`.
    """
    before, today = ({name: each["weight"] for name, each in data["data"].items()} for data in (then, now))
    changed = [
        f"config.data.sources.{name}.weight = {weight:g} (it was {before[name]:g})"
        for name, weight in today.items()
        if before.get(name, weight) != weight
    ]
    if not changed:
        return ""
    return (
        f"from here on {', '.join(changed)}: the mixture goes on at the same dialogue of the order that these weights "
        "give, so that until every source has begun anew some of its dialogues come twice, or not at all"
    )


def _new_or_gone(name: str, before: Any, today: Any) -> str:
    """What is told of a source that only one of two configurations has."""
    new = name in today.data.sources
    records = (today if new else before).data.sources[name].records
    return f"{'absent then, present now' if new else 'present then, absent now'} (records {records!r})"


def _plain(name: str) -> str:
    return name.strip().removeprefix("config.")


def _covers(name: str, field: str) -> bool:
    return field == name or field.startswith(f"{name}.")


def _by_name(data: Mapping[str, Any], config: Any) -> dict[str, Mapping[str, Any]]:
    """Fingerprints by the names of sources; early versions had them by the paths of their records."""
    names = {source.records: name for name, source in config.data.sources.items()}
    return {names.get(key, key) if key not in config.data.sources else key: value for key, value in data.items()}


def _losses(state: Mapping[str, Any], config: Any) -> list[tuple[str, float, Any]]:
    """(name, factor, hash of its file) of every loss of a user's own; where the file lies does not matter."""
    return [(spec.rpartition(":")[2], factor, state[OWN].get(spec)) for spec, factor in config.objective.extra]


def _other(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what a source is another one, by the fingerprints that were known then; '' = it is the same."""
    differing: Iterable[str] = [
        name
        for name, value in then.items()
        # A stage that hears nothing does not depend on recordings; earlier versions noted theirs all the same.
        if name != "weight" and (name != "audio" or name in now) and now.get(name) != value
    ]
    words = [PARTS.get(name, PARTS["content"]) for name in differing]
    return " and ".join(dict.fromkeys(words)) + " than then" if words else ""
