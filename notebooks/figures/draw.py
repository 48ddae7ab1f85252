"""Draw the figure of the README for light and for dark pages: `python notebooks/figures/draw.py`."""

import math
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
THEMES = {
    "light": {"ink": "#1c2430", "quiet": "#566071", "card": "#eef3fc", "edge": "#1d5fd0", "voice": "#c04a00"},
    "dark": {"ink": "#e8eaef", "quiet": "#a3acbb", "card": "#1b2534", "edge": "#7fb0ff", "voice": "#ff9d57"},
}
WIDTH, HEIGHT = 960, 330


def text(x, y, words, *, fill="ink", size=15, anchor="middle", style=""):
    """One line of words; `fill` names a colour of the theme."""
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{{{fill}}}" {style}>{words}</text>'


def box(x, y, width, height, title, *lines):
    """A part of the model: its name, and what it is."""
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="{{card}}" stroke="{{edge}}"/>']
    parts.append(text(x + width // 2, y + 26, title, size=17, style='font-weight="bold"'))
    parts += [text(x + width // 2, y + 48 + 18 * n, line, fill="quiet", size=13) for n, line in enumerate(lines)]
    return "".join(parts)


def arrow(*points):
    """A line through points (x, y), with a head at the last."""
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{{quiet}}" stroke-width="1.6" marker-end="url(#head)"/>'


def wave(x, y, width, loud, fast):
    """Something like a waveform around y: `loud` pixels at most, with `fast` syllables."""
    bars = []
    for at in range(0, width, 4):
        place = at / width
        envelope = abs(math.sin(math.pi * fast * place)) * math.sin(math.pi * (0.06 + 0.88 * place))
        height = max(2, round(loud * envelope * (0.72 + 0.28 * math.sin(at * 1.7))))
        bars.append(f"M{x + at} {y - height}v{2 * height}")
    return f'<path d="{"".join(bars)}" stroke="{{voice}}" stroke-width="2.2" stroke-linecap="round"/>'


def picture():
    """The figure with colours left open."""
    bold = 'font-weight="bold"'
    return "".join([
        text(92, 40, "the user says, softly", fill="quiet", size=13),
        text(92, 62, "“I lost my keys again.”", size=14),
        wave(20, 115, 140, 24, 4.0),
        arrow((168, 115), (192, 115)),
        box(196, 70, 160, 90, "Listen", "Whisper encoder,", "mix of its layers"),
        arrow((356, 115), (388, 115)),
        box(392, 70, 160, 90, "Think", "lower layers", "of the LLM"),
        arrow((552, 98), (588, 98)),
        box(592, 30, 160, 90, "Speak", "a copy of Write,", "4 units a step"),
        arrow((552, 130), (576, 130), (576, 222), (588, 222)),
        box(592, 195, 160, 90, "Write", "upper layers", "of the LLM"),
        arrow((592, 262), (556, 262)),
        text(574, 256, "first", fill="quiet", size=12),
        '<rect x="196" y="204" width="356" height="114" rx="10" fill="none" stroke="{edge}" stroke-dasharray="5 4"/>',
        text(212, 229, "&lt;think&gt;", anchor="start", fill="quiet", size=14),
        text(212, 251, "The user is sad (moderate). The cause is", anchor="start", style='font-style="italic"'),
        text(212, 273, "“lost my keys”. I should answer in a", anchor="start", style='font-style="italic"'),
        text(212, 295, "comforting tone.", anchor="start", style='font-style="italic"'),
        text(346, 295, "&lt;/think&gt;", anchor="start", fill="quiet", size=14),
        arrow((472, 204), (472, 164)),
        text(480, 188, "read back", anchor="start", fill="quiet", size=12),
        arrow((752, 75), (782, 75)),
        text(870, 36, "speech", fill="quiet", size=13, style=bold),
        wave(800, 75, 140, 20, 5.0),
        text(870, 118, "in a comforting voice", fill="quiet", size=13),
        arrow((752, 240), (782, 240)),
        text(767, 230, "then", fill="quiet", size=12),
        text(870, 205, "text", fill="quiet", size=13, style=bold),
        text(870, 236, "“Oh no. Where did", size=14),
        text(870, 257, "you last see them?”", size=14),
    ])  # fmt: skip


def draw(theme):
    """The figure as SVG in the colours of a theme."""
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    head += '<path d="M0 0L8 4L0 8z" fill="{quiet}"/></marker>'
    body = f"<defs>{head}</defs>{picture()}"
    for name, colour in THEMES[theme].items():
        body = body.replace(f"{{{name}}}", colour)
    title = "<title>Listen, Think, Write, Speak: from a spoken sentence to text and speech</title>"
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">{title}{body}</svg>\n'


if __name__ == "__main__":
    for name in THEMES:
        (FOLDER / f"model-{name}.svg").write_text(draw(name), encoding="utf-8")
