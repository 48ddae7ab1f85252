"""What became of the data: dialogues drawn, turns trained, context only, set aside; how full the rows were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ieat_jax.config.sections import Shapes
from ieat_jax.packing.sizes import BUDGETS

MODES = ("explicit", "partial", "empty")  # thinking as it is shown
COLUMNS = (*BUDGETS, "rows", "dialogues", "turns", "context", "quarantined", *MODES)
LOW = 0.75  # a budget that is less full than this, while another is nearly full, is worth a word
FULL = 0.9


class Account:
    """Sums over rows, by epoch: since the last log line, and of the epochs that are not over."""

    def __init__(self, stored: Mapping[str, Any] | None = None):
        """`stored`: what `state` gave, of a run that goes on."""
        stored = stored or {"recent": [0] * len(COLUMNS), "epochs": {}}
        self.recent = np.array(stored["recent"], np.int64)
        self.epochs = {int(epoch): np.array(sums, np.int64) for epoch, sums in stored["epochs"].items()}

    def add(self, parts: Iterable[tuple[int, np.ndarray]]) -> None:
        """Count rows: (epoch, sums [columns]) of each epoch among them."""
        for epoch, sums in parts:
            self.recent = self.recent + sums
            self.epochs[epoch] = self.epochs.get(epoch, 0) + sums

    def lose(self, epoch: int, turns: int) -> None:
        """Turns of rows that were counted, which their sound kept from being trained."""
        lost = np.zeros(len(COLUMNS), np.int64)
        lost[COLUMNS.index("turns")], lost[COLUMNS.index("quarantined")] = -turns, turns
        self.add([(epoch, lost)])

    def state(self) -> dict[str, Any]:
        """All sums, for a checkpoint."""
        epochs = {str(epoch): sums.tolist() for epoch, sums in self.epochs.items()}
        return {"recent": self.recent.tolist(), "epochs": epochs}

    def metrics(self, shapes: Shapes) -> dict[str, float]:
        """Figures since the last call: share of each mode of thinking, fill of every budget, the rest as counts."""
        sums, self.recent = self.recent, np.zeros(len(COLUMNS), np.int64)
        return _figures(sums, shapes)

    def finished(self, shapes: Shapes) -> list[str]:
        """A sentence on every epoch that is over; it is forgotten."""
        over = sorted(self.epochs)[:-1]
        return [f"epoch {epoch + 1}: {_sentence(self.epochs.pop(epoch), shapes)}" for epoch in over]


def fills(sums: np.ndarray, shapes: Shapes) -> dict[str, float]:
    """How full each budget was: name -> share of the rows' room, of those that the rows have."""
    rows = max(int(sums[COLUMNS.index("rows")]), 1)
    rooms = {name: getattr(shapes, name) for name in BUDGETS}
    return {name: float(sums[COLUMNS.index(name)]) / (rows * size) for name, size in rooms.items() if size}


def waste(sums: np.ndarray, shapes: Shapes) -> str:
    """A sentence on budgets that stay empty because another is full first; '' where none does."""
    shares = fills(sums, shapes)
    first = max(shares, key=lambda name: shares[name])
    low = [name for name in ("tokens", "targets", "teacher_tokens", "speak") if shares.get(name, 1.0) < LOW]
    if shares[first] < FULL or not low:
        return ""
    padding = ", ".join(f"{1 - shares[name]:.0%} of {name}" for name in low)
    return (
        f"config.data.shapes.{first} fills first ({shares[first]:.0%}): {padding} are padding; "
        f"raise {first}, or lower the others"
    )


def _figures(sums: np.ndarray, shapes: Shapes) -> dict[str, float]:
    named = dict(zip(COLUMNS, sums.tolist(), strict=True))
    turns = max(sum(named[mode] for mode in MODES), 1)
    return {
        **{f"think_{mode}": named[mode] / turns for mode in MODES},
        **{f"fill_{name}": share for name, share in fills(sums, shapes).items()},
        **{f"{name}_turns": float(named[name]) for name in ("context", "quarantined")},
        **{name: float(named[name]) for name in ("dialogues", "turns")},
    }


def _sentence(sums: np.ndarray, shapes: Shapes) -> str:
    named = dict(zip(COLUMNS, sums.tolist(), strict=True))
    full = ", ".join(f"{name} {share:.0%}" for name, share in fills(sums, shapes).items())
    return (
        f"{named['dialogues']} dialogues drawn, in {named['rows']} rows; {named['turns']} turns trained, "
        f"{named['context']} again as context, {named['quarantined']} set aside; full: {full}"
    )
