"""A batch on a terminal, in colours, and as plain text elsewhere: what colours say stands there in words, too."""

from __future__ import annotations

import io
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ieat_jax.showing.view import GIVEN, Dialogue, Row, Span, Turn, View, plain, weights_in_words

PLAIN_WIDTH, MOST_WIDTH = 80, 120
_PLAINLY: Any = {"markup": False, "emoji": False, "highlight": False}  # texts are what they are
WHAT = 13  # columns of the names at the left


def print_view(view: View, stream: TextIO | None = None) -> None:
    """Write a batch to a stream, which is a terminal or not; None = stdout."""
    stream = stream or sys.stdout
    if not stream.isatty():
        written = io.StringIO()
        _print(
            view, Console(file=written, width=PLAIN_WIDTH, no_color=True, markup=False, emoji=False, highlight=False)
        )
        stream.writelines(f"{line.rstrip()}\n" for line in written.getvalue().splitlines())
        return
    width = min(Console(file=stream).width, MOST_WIDTH)
    _print(view, Console(file=stream, width=width, **_PLAINLY))


def _print(view: View, console: Console) -> None:
    console.print(Text(summary(view), "bold"))
    for line in facts(view):
        console.print(Text(line))
    most = max((span.weight for row in view.rows for span in _spans(row)), default=0.0)
    for row in view.rows:
        _print_row(console, row, most)


def summary(view: View) -> str:
    """'align, step 3 of 140, epoch 1: rows 1 to 4 of 8'."""
    shown = f"rows 1 to {len(view.rows)} of {view.batch_size}" if len(view.rows) > 1 else f"row 1 of {view.batch_size}"
    return f"{view.stage}, step {view.step} of {view.steps}, epoch {view.epoch}: {shown}"


def facts(view: View) -> list[str]:
    """Sentences on the whole batch."""
    factors = ", ".join(f"{name} {factor:g}" for name, factor in view.losses.items())
    full = ", ".join(f"{name} {share:.0%}" for name, share in view.fill.items())
    return [f"recipe: {plain(view.recipe)}", f"factors of the losses: {factors}", f"the batch is full: {full}"]


def _spans(row: Row) -> list[Span]:
    return [span for dialogue in row.dialogues for turn in dialogue.turns for span in (*turn.answer, *turn.twin)]


def _print_row(console: Console, row: Row, most: float) -> None:
    console.print()
    console.print(Text(f"row {row.number}", "bold reverse"))
    full = [f"{name} {used}/{of} ({used / of:.0%})" for name, (used, of) in row.fill.items()]
    console.print(Text("full: " + ", ".join(full)))
    for message in row.bad:
        console.print(Text(f"left out: {plain(message)}", "red"))
    for dialogue in row.dialogues:
        _print_dialogue(console, dialogue, most)


def head(dialogue: Dialogue) -> str:
    """'d17: turns 2 to 3 of 4; 101 tokens, example 12'."""
    numbers = [turn.number for turn in dialogue.turns]
    turns = f"turns {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"turn {numbers[0]}"
    return f"{plain(dialogue.name)}: {turns} of {dialogue.of}; {dialogue.tokens} tokens, example {dialogue.example}"


def _print_dialogue(console: Console, dialogue: Dialogue, most: float) -> None:
    console.print()
    console.print(Text(head(dialogue), "bold"))
    table = _table()
    _line(table, "from", plain(dialogue.source), "dim")
    for name, text in zip(("is told", "Speak is told"), dialogue.system, strict=False):
        _line(table, name, plain(text), "dim")
    console.print(table)
    for turn in dialogue.turns:
        console.print(Text(f"  turn {turn.number}: {state(turn)}", "underline" if turn.supervised else "dim"))
        console.print(_turn(turn, most))


def state(turn: Turn) -> str:
    """'supervised, thinking explicit', or 'context only'."""
    if not turn.supervised:
        return "context only"
    return "supervised" + (f", thinking {turn.mode}" if turn.mode else "")


def about_sound(turn: Turn) -> str:
    """Where the clip sits."""
    sound = turn.sound
    if sound is None:
        return ""
    first, last = sound.places[0], sound.places[-1]
    emotion = f", emotion to be read: {sound.emotion}" if sound.emotion else ""
    return f"{sound.seconds:.2f} s at tokens {first} to {last} ({len(sound.places)}), {sound.window}{emotion}"


def about_units(turn: Turn) -> str:
    """'48 units, 12 groups are predicted'; '' of a reply that is not spoken."""
    return f"{turn.units} units, {turn.groups} groups are predicted" if turn.groups else ""


def _turn(turn: Turn, most: float) -> Table:
    table = _table()
    if turn.sound is not None:
        _line(table, "hears", f"{plain(turn.sound.path)}: {about_sound(turn)}", "magenta")
        _line(table, "(the words)", plain(turn.said) or "nobody wrote them down", "dim")
    else:
        _line(table, "reads", plain(turn.read), "")
    if turn.taught is not None:
        _line(table, "teacher reads", plain(turn.taught), "blue")
    for name, spans in (("answer", turn.answer), ("twin", turn.twin)):
        for number, span in enumerate(spans):
            if number == 0 and name == "twin":
                _line(table, "its twin", "the same reply without thinking, taught by the answer above", "dim")
            text = Text(plain(span.text).strip().replace("\n", "↵"), _style(span, most))
            if weights := weights_in_words(span):
                text.append(f" · {weights}", "dim")
            table.add_row("", Text(span.kind, "dim"), text)
    if turn.history:
        _line(table, "later read as", plain(turn.history), "dim")
    if units := about_units(turn):
        _line(table, "spoken", units, "")
    notes = [f"{name} {source}" for name, source in turn.sources.items()]
    if notes and turn.supervised:
        _line(table, "labels from", plain(", ".join(notes)), "dim")
    return table


def _style(span: Span, most: float) -> str:
    """Brighter where more is to be learned."""
    if span.kind == GIVEN:
        return "dim"
    if not span.weight:
        return "yellow"
    return "bold green" if span.weight > most / 2 else "green"


def _table() -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=2)
    table.add_column(width=WHAT, overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    table.expand = True
    return table


def _line(table: Table, what: str, text: str, style: str) -> None:
    table.add_row("", Text(what, "dim"), Text(text, style))
