"""The comparison of runs, one row per figure: on the console and in the page."""

import html
import math
from collections.abc import Sequence
from typing import Any

from ieat_jax.evaluation.measure import Keys, Measure, Row
from ieat_jax.evaluation.report.folder import ScoredRun


def value_at(metrics: dict[str, Any], path: Keys) -> float | None:
    """The finite number at a path of metrics.json; None where there is none."""
    value: object = metrics
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return None
    return float(value) if math.isfinite(value) else None


def interval_at(metrics: dict[str, Any], path: Keys) -> tuple[float, float] | None:
    """The interval beside the number at a path; None where there is none."""
    low, high = value_at(metrics, (*path[:-1], "low")), value_at(metrics, (*path[:-1], "high"))
    return None if low is None or high is None else (low, high)


def _interval(metrics: dict[str, Any], path: Keys) -> str:
    found = interval_at(metrics, path)
    return f"{found[0]:.2f} to {found[1]:.2f}" if found else ""


def _note(row: Row, metrics: dict[str, Any]) -> str:
    """A row's note with its numbers filled in; empty when the run has none of them."""
    text = row.note
    while "{" in text:
        field, _, rest = text.partition("{")[2].partition("}")
        path, _, form = field.partition(":")
        value = value_at(metrics, tuple(path.split(".")))
        if value is None:
            return ""
        shown = format(value, form) if form else f"{value:g}"
        text = text.partition("{")[0] + shown + rest
    return text


def _newest_note(row: Row, runs: Sequence[ScoredRun]) -> str:
    """The note of the last run that has one."""
    return next((note for run in reversed(runs) if (note := _note(row, run.metrics))), "")


def measured_rows(runs: Sequence[ScoredRun], measures: Sequence[Measure]) -> list[Row]:
    """The rows for which any run has a number."""
    rows = [row for measure in measures for row in measure.rows]
    return [row for row in rows if any(value_at(run.metrics, row.path) is not None for run in runs)]


def not_measured(runs: Sequence[ScoredRun], measures: Sequence[Measure]) -> list[str]:
    """A sentence for each measure that failed when a run was scored, or was not there yet."""
    told = []
    for run in runs:
        known, failed = run.metrics.get("measures"), run.metrics.get("failed")
        if isinstance(failed, dict):
            told += [f"{run.name}: {sentence}" for sentence in failed.values() if isinstance(sentence, str)]
        if isinstance(known, list):  # scores of an earlier version do not say
            new = [measure.name for measure in measures if measure.name not in known]
            told += [f"{run.name}: not in these scores: {name}; run score again" for name in new]
    return told


def print_table(runs: Sequence[ScoredRun], measures: Sequence[Measure]) -> None:
    """The comparison on the console."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="ieat_jax evaluation", caption="brackets: bootstrap 95 % interval")
    table.add_column("measure")
    for run in runs:
        name = run.name.encode("utf-8", "replace").decode("utf-8")
        table.add_column(Text(name), justify="right")
    table.add_column("better / note")
    for row in measured_rows(runs, measures):
        cells = []
        for run in runs:
            value, interval = value_at(run.metrics, row.path), _interval(run.metrics, row.path)
            shown = "-" if value is None else format(value, row.form) + (f"  [{interval}]" if interval else "")
            cells.append(Text(shown))
        table.add_row(Text(row.title), *cells, Text(f"{row.better}; {_newest_note(row, runs)}"))
    Console().print(table)
    for sentence in not_measured(runs, measures):
        print(sentence.encode("utf-8", "replace").decode("utf-8"))


def comparison(runs: Sequence[ScoredRun], measures: Sequence[Measure]) -> str:
    """The comparison as HTML."""
    head = "".join(f'<th scope="col">{html.escape(run.name)}</th>' for run in runs)
    body = "".join(_html_row(row, runs) for row in measured_rows(runs, measures))
    absent = "".join(f'<p class="quiet">{html.escape(each)}</p>' for each in not_measured(runs, measures))
    return (
        '<div class="scroll"><table><caption>Each number from generated replies unless it says teacher-forced. '
        "Signed: change from the column before. Small: bootstrap 95 % interval.</caption>"
        f'<thead><tr><th scope="col">Measure</th>{head}</tr></thead><tbody>{body}</tbody></table></div>{absent}'
    )


def _html_row(row: Row, runs: Sequence[ScoredRun]) -> str:
    cells, before = [], None
    for run in runs:
        value = value_at(run.metrics, row.path)
        if value is None:
            cells.append('<td><span class="quiet" aria-label="not measured">–</span></td>')
            continue
        change = ""
        if before is not None and row.better in ("up", "down") and abs(value - before) >= 0.0005:
            good = (value > before) == (row.better == "up")
            change = f' <span class="{"up" if good else "down"}">{format(value - before, "+" + row.form)}</span>'
        cells.append(f"<td>{format(value, row.form)}{change}<small>{_interval(run.metrics, row.path)}</small></td>")
        before = value
    arrow = {"up": "higher is better", "down": "lower is better", "chance": "near chance is right"}[row.better]
    return (
        f'<tr><th scope="row">{html.escape(row.title)}<br><small class="quiet">{arrow}; '
        f"{html.escape(_newest_note(row, runs))}</small></th>{''.join(cells)}</tr>"
    )
