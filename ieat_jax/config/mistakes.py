"""Mistakes of a recipe as sentences: the line of the file, the field, what it may hold, the nearest name."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ieat_jax.errors import ConfigError

EXAMPLES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "such as (1, 2) or ('a',)",
}  # fmt: skip


def failed(path: Path, error: BaseException) -> ConfigError:
    """Say what a recipe's own code raised, with its last line in the recipe, and the field that it is about."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return ConfigError(f"{path}: line {error.lineno}: {error.msg}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    place = f"line {lines[-1]}: " if lines else ""
    said = _about_field(path, error) or f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        said = f"ends Python (sys.exit({error.code!r})), so that nothing is done; a recipe returns a ConfigDict"
    return ConfigError(f"{path}: {place}{said}")


def must_be(field: str, kind: type, value: Any) -> str:
    """'config.train.steps must be int (a whole number), not 'ten''."""
    return f"{field} must be {kind.__name__} ({EXAMPLES.get(kind, 'see the recipe')}), not {shown(value)}"


def shown(value: Any) -> str:
    """A value as a recipe writes it, on one line."""
    return f"{value.to_dict() if isinstance(value, ConfigDict) else value!r:.80}"


def suggest(wrong: str, known: Sequence[str]) -> str:
    """'; did you mean X?' where something is near, else ''."""
    last = wrong.rsplit(".", 1)[-1]
    same = [name for name in known if name.rsplit(".", 1)[-1] == last]
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    near_last = difflib.get_close_matches(last, [name.rsplit(".", 1)[-1] for name in known], n=1, cutoff=0.8)
    if same or near:
        return f"; did you mean {(difflib.get_close_matches(wrong, same, n=1, cutoff=0) or near)[0]}?"
    if near_last:
        return f"; did you mean {next(name for name in known if name.rsplit('.', 1)[-1] == near_last[0])}?"
    return f"; there are {', '.join(known[:12])}" if known and len(known) <= 12 else ""


def _about_field(path: Path, error: BaseException) -> str:
    """What is wrong with a field that the recipe set or read, or '': a ConfigDict's own words name only half of it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    theirs = [frame for frame in frames if isinstance(frame.f_locals.get("self"), ConfigDict)]
    if not theirs or not isinstance(error, TypeError | AttributeError | KeyError | ValueError):
        return ""
    used = theirs[-1].f_locals
    section, key = used["self"], used.get("key", used.get("attribute"))
    if not isinstance(key, str):
        return ""
    recipe = [frame.f_locals for frame in frames if Path(frame.f_code.co_filename) == path]
    roots = [value for names in reversed(recipe) for value in names.values() if isinstance(value, ConfigDict)]
    at = next((where for root in roots for where, found in _sections(root, "config") if found is section), "config")
    if "." in key:
        return f"{at}[{key!r}]: write a field as {at}.{key}"
    if key not in section:
        return f"there is no field {at}.{key}{suggest(f'{at}.{key}', [f'{at}.{name}' for name in section])}"
    kind = section.get_type(key)
    if "value" not in used or not isinstance(error, TypeError):
        return ""
    if kind is ConfigDict:
        return f"{at}.{key} is a section, not a value; set its fields one by one: {', '.join(list(section[key])[:8])}"
    return must_be(f"{at}.{key}:", kind, used["value"])


def _sections(section: ConfigDict, at: str) -> Iterator[tuple[str, ConfigDict]]:
    yield at, section
    for name, value in section.items():
        if isinstance(value, ConfigDict):
            yield from _sections(value, f"{at}.{name}")
