"""Parameters by rules: which of them train, and a model taken apart and put together by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from ieat_jax.errors import UserError
from ieat_jax.model.names import map_named, named_leaves

EVERYTHING = ".*"


Rules = tuple[tuple[str, float | None], ...]


Arrays = dict[str, jax.Array]


class RuleError(UserError):
    """Rules that cannot be used on these parameters; names the config field."""


def multipliers(names: Iterable[str], rules: Rules) -> dict[str, float | None]:
    """Every parameter's learning rate multiplier, None = frozen: that of the first rule that fully matches its name.

    Raises:
        RuleError: parameters that no rule covers; a rule that decides about no parameter.
    """
    names = list(names)
    found: dict[str, float | None] = {}
    for number, (pattern, multiplier) in enumerate(rules):
        matched = [name for name in names if re.fullmatch(pattern, name)]
        new = [name for name in matched if name not in found]
        closing = pattern == EVERYTHING and number == len(rules) - 1  # 'and the rest', which may be nothing
        if not new and not closing:
            problem = "matches no parameter" if not matched else "comes after rules that match all its parameters"
            example = ", ".join(matched[:3] or names[:3])
            raise RuleError(
                f"config.optimizer.rules: {pattern!r} {problem} (such as {example}); correct, move or remove it"
            )
        found |= dict.fromkeys(new, multiplier)
    uncovered = [name for name in names if name not in found]
    if uncovered:
        more = f" and {len(uncovered) - 20} more" if len(uncovered) > 20 else ""
        raise RuleError(
            f"config.optimizer.rules: no rule covers {', '.join(uncovered[:20])}{more}; "
            f"add rules, or ({EVERYTHING!r}, None) last to freeze the rest"
        )
    return found


def split(model: Any, rules: Rules) -> tuple[Arrays, Arrays]:
    """(trainable, frozen) parameters of a model, or of its abstract tree, by name.

    Raises:
        RuleError: see `multipliers`; or nothing trains.
    """
    leaves = named_leaves(model)
    scale = multipliers(leaves, rules)
    trainable = {name: leaf for name, leaf in leaves.items() if scale[name] is not None}
    if not trainable:
        raise RuleError("config.optimizer.rules: every parameter is frozen; nothing would train")
    return trainable, {name: leaf for name, leaf in leaves.items() if scale[name] is None}


def join(template: Any, trainable: Mapping[str, jax.Array], frozen: Mapping[str, jax.Array]) -> Any:
    """The model of `split`'s two parts; `template` (a model or its abstract tree) gives the structure alone.

    Raises:
        ValueError: a parameter is in the template or in the parts, not in both.
    """
    parameters = {**frozen, **trainable}
    names = named_leaves(template).keys()
    if names != parameters.keys():
        raise ValueError(f"join: {sorted(names ^ parameters.keys())[:8]} are in the template or the parts, not in both")
    return map_named(lambda name, _: parameters[name], template)
