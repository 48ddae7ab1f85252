"""What the tour shows: pictures and sound, as objects that Jupyter displays. No plotting library is needed."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import soundfile

from ieat_jax.pages.sound import spectrogram

INK, QUIET, TRUNK, UP_TO_ITSELF, ACCENT, PAPER = "#1c2430", "#566071", "#1d5fd0", "#7fa8ee", "#c04a00", "#ffffff"


class Svg:
    """A vector picture."""

    def __init__(self, width: int, height: int, parts: Sequence[str]):
        frame = f'<rect width="{width}" height="{height}" fill="{PAPER}"/>'
        style = f'font-family="sans-serif" font-size="13" fill="{INK}"'
        size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        self.text = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{frame}{"".join(parts)}</svg>'

    def __repr__(self) -> str:
        return "<a picture>"

    def _repr_svg_(self) -> str:
        return self.text


class Html:
    """A piece of a page, with sound in it."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return "<pictures and sound>"

    def _repr_html_(self) -> str:
        return self.text


def bars(values: dict[str, float]) -> Svg:
    """A horizontal bar per value between 0 and 1; the scale ends at the largest."""
    left, length, height = 150, 380, 26
    parts = []
    for number, (name, value) in enumerate(values.items()):
        y = 10 + number * height
        width = round(length * value / max(values.values()))
        parts.append(f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{width}" height="{height - 6}" fill="{TRUNK}"/>')
        parts.append(f'<text x="{left + width + 8}" y="{y + 15}">{value:.2f}</text>')
    return Svg(left + length + 60, 20 + height * len(values), parts)


def who_sees_whom(seen: np.ndarray, runs: Sequence[tuple[str, int, int]]) -> Svg:
    """Readers from top to bottom, what they read from left to right; `runs`: (name, first token, last + 1).

    Dark: seen by all tokens of the reader. Pale triangle: every token sees those up to itself.
    """
    left, top, side = 230, 30, 440
    scale = side / seen.shape[0]

    def at(token: int) -> int:
        return round(token * scale)

    parts = [f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="{QUIET}"/>']
    for name, first, last in runs:
        y, height = top + at(first), at(last) - at(first)
        parts.append(f'<text x="{left - 8}" y="{y + height / 2 + 4:g}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(f'<text x="{left + at(first) + height / 2:g}" y="{top - 8}" text-anchor="middle">{name[0]}</text>')
        parts.append(f'<path d="M{left} {y}h{side}M{left + at(first)} {top}v{side}" stroke="{QUIET}" opacity=".25"/>')
        for _, start, stop in runs:
            block = seen[first:last, start:stop]
            x, width = left + at(start), at(stop) - at(start)
            if block.all():
                parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{TRUNK}"/>')
            elif block.any():
                parts.append(f'<path d="M{x} {y}v{height}h{width}z" fill="{UP_TO_ITSELF}"/>')
    return Svg(left + side + 20, top + side + 15, parts)


def player(waveform: np.ndarray, rate: int = 16000) -> str:
    """A player for float32 samples."""
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="MP3")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<audio controls preload="none" src="data:audio/mpeg;base64,{data}"></audio>'


def heard_and_thought(rows: Sequence[tuple[str, np.ndarray, str]]) -> Html:
    """A line per (name, waveform at 16 kHz, thinking): its spectrogram (0 to 8 kHz), a player, the words beside it."""
    cells = [
        f"<tr><td><b>{html.escape(name)}</b><br>{player(waveform)}</td><td>{spectrogram(waveform, name)}</td>"
        f'<td style="text-align:left">{html.escape(words)}</td></tr>'
        for name, waveform, words in rows
    ]
    return Html(f"<table><tr><th></th><th>heard</th><th>thought</th></tr>{''.join(cells)}</table>")
