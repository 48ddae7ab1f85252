"""The report: one HTML page (and a console table) that compares scored runs and lets a reader hear what was heard
and said.

Reads only what `score` wrote: `metrics.json`, `predictions.jsonl`, `training.jsonl` and `samples/`.
"""

import base64
import html
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import soundfile

from ieat_jax.errors import UserError
from ieat_jax.evaluation.report.charts import interval_chart, line_chart, spectrogram
from ieat_jax.evaluation.report.html import page


class ReportError(UserError):
    """A scored folder that the report cannot read."""


@dataclass(frozen=True)
class ScoredRun:
    """What `score` left in one folder."""

    name: str
    folder: Path
    metrics: dict
    predictions: list[dict]
    training: list[dict]


@dataclass(frozen=True)
class Row:
    """One line of the comparison: where the number is, how it reads, which way is better."""

    title: str
    path: tuple[str, ...]
    better: str
    note: str


ROWS = (
    Row("Emotion UAR, read from the thinking", ("emotion", "uar"), "up", "chance {emotion.chance:.2f}"),
    Row("- with another clip's audio", ("controls", "shuffled", "uar"), "chance", "control"),
    Row("- with silence", ("controls", "silence", "uar"), "chance", "control"),
    Row("Well-formed thinking", ("think_format", "value"), "up", "closed by the model and readable"),
    Row("- on the clips that score emotion", ("think_format_scored", "value"), "up", "the words say nothing there"),
    Row("Cause recall in the thinking", ("cause", "value"), "up", "content words of the annotated cause"),
    Row("Response style accuracy", ("style", "value"), "up", "words of the reply match the style"),
    Row("Reply ended by the model", ("response_ended", "value"), "up", "share of replies within the limit"),
    Row("Unit accuracy, teacher-forced", ("units", "accuracy"), "up", "always the commonest unit: {units.unigram:.3f}"),
    Row("Word error rate of the spoken reply", ("speech", "wer"), "down", "Whisper on n = {speech.n} replies"),
    Row("Text dominance", ("text_dominance", "value"), "down", "answers that follow the words, not the voice"),
)


def read_scored(name: str, folder: Path) -> ScoredRun:
    """Read one folder written by `python -m ieat_jax.evaluate score`."""
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        raise ReportError(
            f"report: {folder} (run {name!r}) has no metrics.json; write it with `python -m ieat_jax.evaluate "
            f"score --out {folder} ...`"
        )
    try:
        return ScoredRun(
            name,
            folder,
            json.loads(metrics.read_text(encoding="utf-8")),
            _read_jsonl(folder / "predictions.jsonl"),
            _read_jsonl(folder / "training.jsonl"),
        )
    except ValueError as error:
        raise ReportError(
            f"report: {folder} (run {name!r}) holds a file that is not JSON: {error}; score the run again"
        ) from error


def _read_jsonl(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _value(metrics: dict, path: tuple[str, ...]) -> float | None:
    value: object = metrics
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _note(row: Row, metrics: dict) -> str:
    """A row's note with its numbers filled in; empty when the run has none of them."""
    text = row.note
    while "{" in text:
        field, _, rest = text.partition("{")[2].partition("}")
        path, _, form = field.partition(":")
        value = _value(metrics, tuple(path.split(".")))
        if value is None:
            return ""
        shown = format(value, form) if form else f"{value:g}"
        text = text.partition("{")[0] + shown + rest
    return text


def _interval(metrics: dict, path: tuple[str, ...]) -> str:
    low, high = _value(metrics, (*path[:-1], "low")), _value(metrics, (*path[:-1], "high"))
    return f"{low:.2f} to {high:.2f}" if low is not None and high is not None else ""


def _measured(runs: list[ScoredRun]) -> list[Row]:
    return [row for row in ROWS if any(_value(run.metrics, row.path) is not None for run in runs)]


def print_table(runs: list[ScoredRun]) -> None:
    """The comparison on the console."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="ieat_jax evaluation", caption="brackets: bootstrap 95 % interval")
    table.add_column("measure")
    for run in runs:
        table.add_column(run.name, justify="right")
    table.add_column("better / note")
    for row in _measured(runs):
        cells = []
        for run in runs:
            value, interval = _value(run.metrics, row.path), _interval(run.metrics, row.path)
            cells.append("-" if value is None else f"{value:.3f}" + (f"  \\[{interval}]" if interval else ""))
        notes = [note for note in (_note(row, run.metrics) for run in reversed(runs)) if note]
        table.add_row(row.title, *cells, f"{row.better}; {notes[0] if notes else ''}")
    Console().print(table)


def _comparison(runs: list[ScoredRun]) -> str:
    head = "".join(f'<th scope="col">{html.escape(run.name)}</th>' for run in runs)
    body = []
    for row in _measured(runs):
        cells, before = [], None
        for run in runs:
            value = _value(run.metrics, row.path)
            if value is None:
                cells.append('<td><span class="quiet" aria-label="not measured">–</span></td>')
                continue
            change = ""
            if before is not None and row.better in ("up", "down") and abs(value - before) >= 0.0005:
                good = (value > before) == (row.better == "up")
                change = f' <span class="{"up" if good else "down"}">{value - before:+.3f}</span>'
            cells.append(f"<td>{value:.3f}{change}<small>{_interval(run.metrics, row.path)}</small></td>")
            before = value
        note = next((note for note in (_note(row, run.metrics) for run in reversed(runs)) if note), "")
        arrow = {"up": "higher is better", "down": "lower is better", "chance": "near chance is right"}[row.better]
        body.append(
            f'<tr><th scope="row">{html.escape(row.title)}<br><small class="quiet">{arrow}; '
            f"{html.escape(note)}</small></th>"
            f"{''.join(cells)}</tr>"
        )
    return (
        '<div class="scroll"><table><caption>Each number from generated replies unless it says teacher-forced. '
        "Signed: "
        "change from the column before. Small: bootstrap 95 % interval.</caption>"
        f'<thead><tr><th scope="col">Measure</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def _matrix(run: ScoredRun) -> str:
    emotion = run.metrics.get("emotion") or {}
    counts, classes = emotion.get("confusion"), emotion.get("classes")
    if not counts or not classes:
        return ""
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
        f'<div class="card"><h3>{html.escape(run.name)}</h3><div class="scroll"><table '
        f'class="matrix"><caption>rows: true emotion '
        f"of the voice; columns: emotion in the "
        f"thinking</caption><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _emotion_section(runs: list[ScoredRun]) -> str:
    rows, chance = [], None
    for number, run in enumerate(runs):
        for label, part in (
            ("true audio", ("emotion",)),
            ("another clip's audio", ("controls", "shuffled")),
            ("silence", ("controls", "silence")),
        ):
            value = _value(run.metrics, (*part, "uar"))
            if value is None:
                continue
            low, high = (_value(run.metrics, (*part, bound)) for bound in ("low", "high"))
            rows.append((f"{run.name}: {label}", value, low or value, high or value, f"s{number % 8}"))
        chance = _value(run.metrics, ("emotion", "chance")) or chance
    if not rows:
        return ""
    chart = interval_chart(
        "Unweighted average recall; dashed: chance; bars: bootstrap 95 % interval", rows, chance=chance
    )
    return f'<div class="card">{chart}</div><div class="grid2">{"".join(map(_matrix, runs))}</div>'


def _training_section(runs: list[ScoredRun]) -> str:
    charts = []
    for run in runs:
        series: dict[str, tuple[list[float], list[float]]] = {}
        for line in run.training:
            for key, value in line.items():
                if "loss" in key and isinstance(value, int | float) and "step" in line:
                    xs, ys = series.setdefault(key, ([], []))
                    xs.append(line["step"])
                    ys.append(value)
        chart = line_chart(f"{run.name}: losses", series)
        if chart:
            charts.append(f'<div class="card">{chart}</div>')
    return f'<div class="grid2">{"".join(charts)}</div>' if charts else ""


def _player(path: Path, label: str) -> str:
    """An audio player with the file inside the page, and its spectrogram."""
    if not path.is_file():
        return f'<p class="quiet">{html.escape(label)}: {html.escape(path.name)} is missing</p>'
    waveform, rate = soundfile.read(path, dtype="float32", always_2d=False)
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="FLAC", subtype="PCM_16")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<audio controls preload="none" aria-label="{html.escape(label)}" '
        f'src="data:audio/flac;base64,{data}"></audio>'
        f"{spectrogram(waveform, f'spectrogram: {label}', sample_rate=rate)}"
    )


def _reply(run: ScoredRun, number: int, item: dict) -> str:
    gold, heard = item.get("gold_emotion"), item.get("predicted_emotion")
    tags = ""
    if gold:
        verdict = "right" if gold == heard else "wrong"
        tags = f'<span class="tag {verdict}">{html.escape(heard or "no answer")} ({verdict})</span>'
    if not item.get("think_closed", True):
        tags += '<span class="tag wrong">thinking cut at the limit</span>'
    said = item.get("sample", {}).get("said")
    player = _player(run.folder / said, f"what {run.name} said") if said else ""
    spoken = item.get("spoken_transcript")
    written = f'<p class="quiet">Whisper hears: {html.escape(spoken)}</p>' if spoken is not None else ""
    return (
        f'<div class="reply s{number % 8}"><h3>{html.escape(run.name)} {tags}</h3><div class="what">thought</div>'
        f'<p class="thought">{html.escape(item.get("think") or "(nothing)")}</p><div class="what">said</div>'
        f'<p class="said">{html.escape(item.get("text") or "(nothing)")}</p>{player}{written}</div>'
    )


def _dialogues(runs: list[ScoredRun]) -> str:
    """Turns for which any run kept a sample, in the order of the first run that has them."""
    by_turn: dict[tuple, dict[str, dict]] = {}
    for run in runs:
        for item in run.predictions:
            if item.get("sample"):
                by_turn.setdefault((item["dialogue_id"], item["turn_id"]), {})[run.name] = item
    cards = []
    for (dialogue, turn), items in by_turn.items():
        owner = next(run for run in runs if run.name in items)
        item = items[owner.name]
        heard = item["sample"].get("heard")
        player = _player(owner.folder / heard, "what was heard") if heard else ""
        truth = (
            f"<p>true emotion: <strong>{html.escape(item['gold_emotion'])}</strong></p>"
            if item.get("gold_emotion")
            else ""
        )
        words = html.escape(item.get("transcript") or "")
        replies = "".join(_reply(run, number, items[run.name]) for number, run in enumerate(runs) if run.name in items)
        reference = html.escape(item.get("reference_text") or "")
        cards.append(
            f'<article class="card dialogue"><div><h3>{html.escape(str(dialogue))}, turn {turn}</h3><div '
            f'class="what">heard</div>'
            f'<p class="said">{words}</p>{player}{truth}<p class="quiet">reference reply: {reference}</p></div>'
            f"<div>{replies}</div></article>"
        )
    return "".join(cards)


_METHOD = """<p>Replies are decoded greedily from held-out dialogues; earlier turns of a dialogue keep their audio and
their reference replies. The emotion is read from the sentence in the thinking that states it; a thinking that states
none, or is not closed, counts as wrong. Chance is one over the number of classes present. Controls run the same
model with silence, and with the audio of another clip (each true class is given clips of all classes evenly), in the
place of the user's voice: a model that listens falls to chance. Cause recall is the share of content words of the
annotated cause that the thinking names. Unit accuracy feeds the true units and counts the true next unit; its
baseline always answers the commonest unit. Word error rate compares Whisper's transcript of the spoken reply with
the text the model wrote for it.</p>"""


def write_report(runs: list[ScoredRun], out: Path, *, title: str = "What the model heard, thought and said") -> None:
    """Write the page, one self-contained file."""
    facts = "; ".join(
        f"{run.name}: step {run.metrics.get('step', '?')}, {run.metrics.get('n', '?')} turns" for run in runs
    )
    sections = [
        ("compare", "Before and after each stage", f'<div class="card">{_comparison(runs)}</div>'),
        ("emotion", "Emotion in the thinking", _emotion_section(runs)),
        ("training", "Training", _training_section(runs)),
        ("dialogues", "Dialogue by dialogue", _dialogues(runs)),
        ("method", "How it was measured", _METHOD),
    ]
    lead = f'<p class="quiet">{html.escape(facts)}</p>'
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(title, lead, [section for section in sections if section[2]]), encoding="utf-8")
