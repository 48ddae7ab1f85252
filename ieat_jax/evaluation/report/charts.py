"""Charts for the report as inline SVG: no plotting library, nothing to download when the page opens."""

import html
import math
from collections.abc import Sequence


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(title: str, series: dict[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str = "step") -> str:
    """Lines name -> (x, y) over one pair of axes."""
    width, height, left, right, top, bottom = 420, 230, 52, 12, 12, 34
    xs = [x for x_values, _ in series.values() for x in x_values]
    ys = [y for _, y_values in series.values() for y in y_values if math.isfinite(y)]
    if not xs or not ys:
        return ""
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(0.0, min(ys)), max(ys)
    x_span, y_span = (x_high - x_low) or 1, (y_high - y_low) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / x_span * (width - left - right),
            height - bottom - (y - y_low) / y_span * (height - top - bottom),
        )

    parts = []
    for tick in _ticks(y_low, y_high):
        y = place(x_low, tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(x_low, x_high):
        x = place(tick, y_low)[0]
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<text class="tick" x="{(left + width - right) / 2}" y="{height - 2}" '
        f'text-anchor="middle">{html.escape(x_label)}</text>'
    )
    legend = []
    for number, (name, (x_values, y_values)) in enumerate(series.items()):
        points = [place(x, y) for x, y in zip(x_values, y_values, strict=True) if math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        tone = f"s{number % 8}"
        parts.append(f'<polyline class="line {tone}" points="{path}"/>')
        legend.append(f'<li class="{tone}">{html.escape(name)} <span class="quiet">{y_values[-1]:.3g}</span></li>')
    picture = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>{picture}'
        f'<ul class="legend">{"".join(legend)}</ul></figure>'
    )


def interval_chart(title: str, rows: Sequence[tuple[str, float, float, float, str]], *, chance: float | None) -> str:
    """Values with intervals on a 0..1 axis: rows of (label, value, low, high, tone class)."""
    width, left, right, row_height, top = 640, 210, 60, 26, 8
    height = top + row_height * len(rows) + 26
    parts = []

    def place(value: float) -> float:
        return left + min(max(value, 0.0), 1.0) * (width - left - right)

    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = place(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 22}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    if chance is not None and math.isfinite(chance):
        x = place(chance)
        parts.append(f'<line class="chance" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 22}"/>')
    for number, (label, value, low, high, tone) in enumerate(rows):
        y = top + row_height * (number + 0.5)
        parts.append(
            f'<text class="label" x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{html.escape(label)}</text>'
        )
        if math.isfinite(value):
            parts.append(
                f'<line class="range {tone}" x1="{place(low):.1f}" x2="{place(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<circle class="dot {tone}" cx="{place(value):.1f}" cy="{y:.1f}" r="5"/>'
            )
        shown = f"{value:.2f}" if math.isfinite(value) else "not measured"
        parts.append(f'<text class="label" x="{width - right + 8}" y="{y + 4:.1f}">{shown}</text>')
    return (
        f'<figure class="chart wide"><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {width} '
        f'{height}" '
        f'role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg></figure>'
    )
