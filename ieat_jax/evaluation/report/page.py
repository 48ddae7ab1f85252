"""The report: one HTML page that compares scored runs and lets a reader hear what was heard and said."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ieat_jax.evaluation.measure import Chart, Measure
from ieat_jax.evaluation.report.charts import interval_chart, line_chart
from ieat_jax.evaluation.report.dialogues import dialogues
from ieat_jax.evaluation.report.folder import ReportError, ScoredRun
from ieat_jax.evaluation.report.table import comparison, interval_at, measured_rows, value_at
from ieat_jax.pages.frame import page


def _chart_section(runs: Sequence[ScoredRun], chart: Chart) -> str:
    rows, chance = [], None
    for number, run in enumerate(runs):
        for label, path in chart.bars:
            value = value_at(run.metrics, path)
            if value is not None:
                low, high = interval_at(run.metrics, path) or (value, value)
                rows.append((f"{run.name}: {label}", value, low, high, f"s{number % 8}"))
        if chart.chance:
            chance = value_at(run.metrics, chart.chance) or chance
    if not rows:
        return ""
    picture = interval_chart(chart.caption, rows, chance=chance)
    matrices = "".join(_matrix(run, chart) for run in runs)
    return f'<div class="card">{picture}</div><div class="grid2">{matrices}</div>'


def _matrix(run: ScoredRun, chart: Chart) -> str:
    found: Any = run.metrics
    for key in chart.matrix or ("",):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not found.get("classes") or not found.get("confusion"):
        return ""
    classes, counts = found["classes"], found["confusion"]
    if not _is_matrix(classes, counts):
        raise ReportError(
            f"report: {run.folder} (run {run.name!r}): {'.'.join(chart.matrix)} of metrics.json holds no confusion "
            "matrix; score the run again"
        )
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in [*classes, "no answer"])
    rows = []
    for number, (name, row) in enumerate(zip(classes, counts, strict=True)):
        total = sum(row)
        if not total:
            continue
        cells = "".join(
            f'<td{" class=hit" if column == number else ""} style="background:rgb(64 120 220 / '
            f'{count / total:.2f})">{count}</td>'
            for column, count in enumerate(row)
        )
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    return (
        f'<div class="card"><h3>{html.escape(run.name)}</h3><div class="scroll"><table class="matrix">'
        f"<caption>{html.escape(chart.matrix_caption)}</caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _is_matrix(classes: object, counts: object) -> bool:
    """K names, and K rows of K + 1 counts."""
    return (
        isinstance(classes, list)
        and isinstance(counts, list)
        and all(isinstance(name, str) for name in classes)
        and len(counts) == len(classes)
        and all(isinstance(row, list) and len(row) == len(classes) + 1 for row in counts)
        and all(type(count) is int and 0 <= count < 2**53 for row in counts for count in row)
    )


def _training_section(runs: Sequence[ScoredRun]) -> str:
    charts = []
    for run in runs:
        series: dict[str, tuple[list[float], list[float]]] = {}
        for line in run.training:
            for key, value in line.items():
                if "loss" in key and _plottable(value) and _plottable(line.get("step")):
                    xs, ys = series.setdefault(key, ([], []))
                    xs.append(line["step"])
                    ys.append(value)
        chart = line_chart(f"{run.name}: losses", series)
        if chart:
            charts.append(f'<div class="card">{chart}</div>')
    return f'<div class="grid2">{"".join(charts)}</div>' if charts else ""


def _plottable(value: object) -> bool:
    """Whether axes can be drawn around the number."""
    return type(value) in (int, float) and (value == 0 or 1e-100 < abs(value) < 1e100)


_METHOD = (
    "Replies are decoded greedily from held-out dialogues; earlier turns of a dialogue keep their audio and their "
    "reference replies."
)


def _method_section(runs: Sequence[ScoredRun], measures: Sequence[Measure]) -> str:
    """How everything that stands in the table was measured."""
    used = [measure.method for measure in measures if measure.method and measured_rows(runs, [measure])]
    return f"<p>{html.escape(' '.join([_METHOD, *used]))}</p>"


def write_report(
    runs: Sequence[ScoredRun],
    out: Path,
    measures: Sequence[Measure],
    *,
    title: str = "What the model heard, thought and said",
) -> None:
    """Write the page, one self-contained file.

    Raises:
        ReportError: the file cannot be written, or a run's metrics are damaged.
    """
    if out.is_dir():
        raise ReportError(f"report: {out} is a folder; give --out the HTML file to write, {out / 'report.html'} say")
    facts = "; ".join(f"{run.name}: step {_fact(run, 'step')}, {_fact(run, 'n')} turns" for run in runs)
    sections = [
        ("compare", "Before and after each stage", f'<div class="card">{comparison(runs, measures)}</div>'),
        *((each.name, each.chart.heading, _chart_section(runs, each.chart)) for each in measures if each.chart),
        ("training", "Training", _training_section(runs)),
        ("dialogues", "Dialogue by dialogue", dialogues(runs)),
        ("method", "How it was measured", _method_section(runs, measures)),
    ]
    lead = f'<p class="quiet">{html.escape(facts)}</p>'
    text = page(title, lead, [section for section in sections if section[2]])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Halves of character pairs, which JSON can hold and UTF-8 cannot, become question marks.
        out.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise ReportError(f"report: {out} cannot be written ({error.strerror or error}); give another --out") from error


def _fact(run: ScoredRun, key: str) -> str:
    value = value_at(run.metrics, (key,))
    return "?" if value is None else f"{value:.0f}"
