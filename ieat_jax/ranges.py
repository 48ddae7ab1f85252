"""What a field of the configuration may hold: declared beside its default, checked whenever a section is made."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from ieat_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What values fit a field; `words` complete "must be ..."."""

    words: str
    fits: Callable[[Any], bool]


ANYTHING = Allowed("any text", lambda value: True)


def field(default: Any, allowed: Allowed) -> Any:
    """Return a dataclass field with a default and what it may hold."""
    return dataclasses.field(default=default, metadata={"allowed": allowed})


def number(
    default: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    also: tuple[float, ...] = (),
) -> Any:
    """Return a field for a finite number within bounds; `also` are single values outside of them."""
    bounds = ((least, "at least"), (above, "above"), (most, "at most"), (below, "below"))
    words = " and ".join(f"{word} {bound:g}" for bound, word in bounds if bound is not None)
    words += "".join(f", or {value:g}" for value in also)

    def fits(value: float) -> bool:
        inside = (
            (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
            and (below is None or value < below)
        )
        return value in also or (math.isfinite(value) and inside)

    return field(default, Allowed(words or "a finite number", fits))


def one_of(default: Any, values: Sequence[Any]) -> Any:
    """Return a field for one of a few values."""
    return field(default, Allowed(f"one of {', '.join(map(str, values))}", lambda value: value in values))


def flag(default: bool) -> Any:
    """Return a field that is true or false."""
    return field(default, Allowed("true or false", lambda value: isinstance(value, bool)))


def text(default: str = "") -> Any:
    """Return a field for free text, such as a path: what is wrong with it is known where it is used."""
    return field(default, ANYTHING)


def is_regex(value: Any) -> bool:
    """Whether a value is text that compiles as a regular expression."""
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return True


def regex(default: str) -> Any:
    """Return a field for a regular expression."""
    return field(default, Allowed("a regular expression", is_regex))


def tuple_of(default: tuple[Any, ...], words: str, fits: Callable[[Any], bool], *, least: int = 0) -> Any:
    """Return a field for a tuple of at least `least` members that each fit."""
    return field(default, Allowed(words, lambda value: len(value) >= least and all(fits(each) for each in value)))


def section(kind: type) -> Any:
    """Return a field that is a section of its own."""
    return dataclasses.field(default_factory=kind)


class Section:
    """A part of the configuration: a frozen dataclass whose fields are checked when it is made.

    Raises:
        ConfigError: a value that its field may not hold; names all such fields.
    """

    AT: ClassVar[str]  # where it stands, such as config.optimizer

    def __post_init__(self) -> None:
        refuse(problems(self))


def problems(made: Any) -> Iterable[str]:
    """Yield a sentence for every field of a section whose value it may not hold."""
    for item in dataclasses.fields(made):
        allowed, value = item.metadata.get("allowed"), getattr(made, item.name)
        if allowed is not None and value is not None and not allowed.fits(value):
            yield f"{made.AT}.{item.name}: must be {allowed.words}, not {value!r}"


def refuse(sentences: Iterable[str]) -> None:
    """Raise one error for all of them, if there are any.

    Raises:
        ConfigError: there are.
    """
    told = list(sentences)
    if told:
        raise ConfigError("\n".join(told))
