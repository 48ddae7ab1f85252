"""A batch as one HTML page with its sound inside, to be opened without a network."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

from ieat_jax.audio.files import AudioError
from ieat_jax.pages.frame import page
from ieat_jax.pages.sound import player
from ieat_jax.showing.terminal import about_sound, about_units, facts, head, state, summary
from ieat_jax.showing.view import GIVEN, Dialogue, Row, Sound, Span, Turn, View, plain, weights_in_words

# Kind of token -> tone of the page. Its shade is the weight.
TONES = {
    "perceive": "s0", "state": "s1", "trajectory": "s5", "cause": "s3", "plan": "s4", "format": "s7", "response": "s2",
    "end of turn": "s6",
}  # fmt: skip
STYLE = """
.card > h3 { overflow-wrap: anywhere; } h3 small { font-weight: normal; color: var(--quiet); }
.budgets { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .5rem 1.2rem; margin: .6rem
0 1.2rem; padding: 0; list-style: none; font-size: .88rem; font-variant-numeric: tabular-nums; }
.bar { height: .45rem; border-radius: 99px; background: var(--rule); overflow: hidden; margin-top: .2rem; }
.bar i { display: block; height: 100%; background: var(--accent); }
.turn { border-top: 1px solid var(--rule); padding: .9rem 0 .2rem; } .turn h4 { margin: 0 0 .5rem; font-size: 1rem; }
.context { border-left: 3px solid var(--rule); padding-left: .8rem; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem 1.4rem; }
.sides > :only-child { grid-column: 1 / -1; }
.sides > *, .turn p { min-width: 0; overflow-wrap: anywhere; } .text { white-space: pre-wrap; overflow-wrap: anywhere;
max-width: none; margin: .2rem 0 .7rem; line-height: 1.9; }
.seg { background: color-mix(in srgb, var(--tone) calc(var(--w) * 32%), transparent); border-bottom: 2px solid
var(--tone); border-radius: 3px; padding: .12em .2em; box-decoration-break: clone;
-webkit-box-decoration-break: clone; }
.seg.none { border-bottom-style: dotted; } .given { color: var(--quiet); } .seg small { color: var(--ink); font-size:
.72rem; margin-left: .35em; white-space: nowrap; } .twin { border-left: 3px solid var(--rule); padding-left: .8rem; }
.legend.kinds { margin-bottom: .8rem; } .legend.kinds li::before { display: none; } .turn p { margin: .2rem 0 .5rem; }
@media (max-width: 760px) { .sides {
grid-template-columns: 1fr; } main { padding: 1.4rem .8rem 3rem; } .card { padding: .9rem .8rem; } }
"""


def write_page(view: View, out: Path) -> None:
    """Write the page, one self-contained file.

    Raises:
        OSError: it cannot be written.
        AudioError: a clip that a row holds cannot be read any more.
    """
    most = max((span.weight for row in view.rows for span in _spans(row)), default=0.0) or 1.0
    lead = "".join(f'<p class="quiet">{_escaped(line)}</p>' for line in facts(view))
    sections = [(f"row{row.number}", f"Row {row.number}", _row(row, most)) for row in view.rows]
    text = page(summary(view), lead + _legend(view, most), sections, style=STYLE)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(text.encode("utf-8", "replace"))  # halves of character pairs, which JSON can hold


def _escaped(text: str) -> str:
    return html.escape(plain(text))


def _spans(row: Row) -> list[Span]:
    return [span for dialogue in row.dialogues for turn in dialogue.turns for span in (*turn.answer, *turn.twin)]


def _legend(view: View, most: float) -> str:
    """The kinds that are there, with their weights."""
    found: dict[tuple[str, str], Span] = {}
    for row in view.rows:
        for span in _spans(row):
            if span.kind != GIVEN:
                found.setdefault((span.kind, weights_in_words(span)), span)
    order = sorted(found.values(), key=lambda span: list(TONES).index(span.kind))
    listed = "".join(f"<li>{_marked(span, most, span.kind)}</li>" for span in order)
    return (
        '<p class="quiet">Underlined words are learned; the stronger their colour, the more they weigh. What is '
        f'grey is read, and nothing is learned from it.</p><ul class="legend kinds">{listed}</ul>'
    )


def _row(row: Row, most: float) -> str:
    bad = "".join(f'<p class="down">left out: {_escaped(message)}</p>' for message in row.bad)
    return f"{_budgets(row.fill)}{bad}" + "".join(_dialogue(dialogue, most) for dialogue in row.dialogues)


def _budgets(fill: Mapping[str, tuple[int, int]]) -> str:
    bar = '<div class="bar" aria-hidden="true"><i style="width:{:.1%}"></i></div>'
    items = (f"<li>{name} {used} of {of} {bar.format(used / of)}</li>" for name, (used, of) in fill.items())
    return f'<ul class="budgets">{"".join(items)}</ul>'


def _dialogue(dialogue: Dialogue, most: float) -> str:
    name, _, rest = head(dialogue).partition(": turn")
    system = "".join(
        f'<p class="quiet">{who} is told: {_escaped(text)}</p>'
        for who, text in zip(("The model", "Speak"), dialogue.system, strict=False)
    )
    turns = "".join(_turn(dialogue, turn, most) for turn in dialogue.turns)
    return (
        f'<article class="card"><h3>{html.escape(name)} <small>turn{html.escape(rest)}</small></h3>'
        f'<p class="quiet text">{_escaped(dialogue.source)}</p>{system}{turns}</article>'
    )


def _turn(dialogue: Dialogue, turn: Turn, most: float) -> str:
    taught = ""
    if turn.taught is not None:
        taught = f'<div><div class="what">the teacher reads</div><p class="text">{_escaped(turn.taught)}</p></div>'
    words = _escaped(turn.said) or "nobody wrote them down"
    if turn.sound is not None:
        student = (
            f'<div><div class="what">the student hears</div>{_player(turn.sound, dialogue, turn)}'
            f'<p class="quiet">{_escaped(turn.sound.path)}: {_escaped(about_sound(turn))}<br>'
            f"its words, which it does not read: {words}</p></div>"
        )
    else:
        student = f'<div><div class="what">the student reads</div><p class="text">{_escaped(turn.read)}</p></div>'
    answer = _answer("answers", turn.answer, most)
    if turn.twin:
        twin = _answer("its twin: the same reply without thinking, taught by the answer above", turn.twin, most)
        answer += f'<div class="twin">{twin}</div>'
    history = f'<div class="what">later turns read</div><p class="text given">{_escaped(turn.history)}</p>'
    notes = [f"labels from: {', '.join(f'{name} {source}' for name, source in turn.sources.items())}"]
    notes = [note for note in (about_units(turn), *(notes if turn.sources and turn.supervised else ())) if note]
    return (
        f'<section class="turn{"" if turn.supervised else " context"}"><h4>turn {turn.number} {_tags(turn)}</h4>'
        f'<div class="sides">{student}{taught}</div>{answer}{history if turn.history else ""}'
        f"{''.join(f'<p class=quiet>{_escaped(note)}</p>' for note in notes)}</section>"
    )


def _tags(turn: Turn) -> str:
    style = [f"reply: {turn.style}"] if turn.style and turn.supervised else []
    return "".join(f'<span class="tag">{_escaped(text)}</span>' for text in (*state(turn).split(", "), *style))


def _player(sound: Sound, dialogue: Dialogue, turn: Turn) -> str:
    label = f"{dialogue.name}, turn {turn.number}: what the user says"
    try:
        waveform = sound.hear()
    except AudioError as error:  # it was read a moment ago
        return f'<p class="down">{_escaped(str(error))}</p>'
    return player(waveform, plain(label))


def _answer(what: str, spans: tuple[Span, ...], most: float) -> str:
    if not spans:
        return ""
    marked = "".join(_marked(span, most, span.text) for span in spans)
    return f'<div class="what">{what}</div><p class="text">{marked}</p>'


def _marked(span: Span, most: float, text: str) -> str:
    """Words in the colour of their kind, as dark as they weigh."""
    shown = _escaped(text).replace("\n", "↵")
    if span.kind == GIVEN:
        return f'<span class="given">{shown}</span>'
    weights = weights_in_words(span)
    none = "" if span.weight else " none"
    return (
        f'<span class="seg {TONES[span.kind]}{none}" style="--w:{span.weight / most:.2f}" '
        f'title="{span.kind}: {weights}, {span.tokens} tokens">{shown}<small>{weights}</small></span> '
    )
