"""What a measure is: figures from predictions, and how the report shows them. The measures are in `measures/`."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ieat_jax.errors import UserError
from ieat_jax.evaluation.predict import Need, Predictions

Keys = tuple[str, ...]  # keys from the top of metrics.json to a number: ("emotion", "uar")


class MeasureError(UserError):
    """A measure that cannot be used, or that failed; names it and its file."""


def line_of(file: str | Path, error: Exception) -> str:
    """', line 9' where the error was raised by a line of the file, else ''."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    A cell shows the number at `path` and, where "low" and "high" stand beside it, its interval.
    """

    title: str
    path: Keys
    better: str  # "up", "down", or "chance": near chance is right
    note: str = ""  # {emotion.chance:.2f} stands for a number of metrics.json; without it the note is left out
    form: str = ".3f"  # how Python formats the number


@dataclass(frozen=True)
class Chart:
    """A section of the report: values between 0 and 1 with their intervals, and a confusion matrix per run."""

    heading: str
    caption: str
    bars: tuple[tuple[str, Keys], ...]  # label and number, a bar per run
    chance: Keys | None = None  # a dashed line there
    matrix: Keys | None = None  # of {"classes": [K], "confusion": [K][K+1], the last column = no answer}
    matrix_caption: str = ""


@dataclass(frozen=True)
class Measure:
    """One measure; `MEASURE` of a file in `measures/`."""

    name: str
    order: int  # of its rows in the table, smallest first
    measure: Callable[[Predictions], dict[str, Any]]  # keys of metrics.json and their figures; {} = nothing to measure
    rows: tuple[Row, ...]
    needs: frozenset[Need] = frozenset()  # what has to be predicted; without it the measure is left out
    uses: frozenset[Need] = frozenset()  # what it also reads, where that was predicted
    method: str = ""  # how it was measured: sentences at the end of the report
    chart: Chart | None = None
