"""In which style a reply answers. Known for replies of the demo corpus only: its openers each have one style."""

from collections.abc import Sequence

from ieat_jax.data.records import Record
from ieat_jax.preparation.demo import text as demo_text

# Share of a file's replies that must begin with an opener for it to count as of the demo corpus.
_ENOUGH = 0.9


def style_of(text: str) -> str | None:
    """Style of a reply by its opener; None when it begins with no opener of the demo corpus."""
    return demo_text.style_of(text)


def styles_are_known(records: Sequence[Record]) -> bool:
    """Whether the records are of the demo corpus, so that the style of a reply can be read from its words.

    Elsewhere an opener says nothing: a good reply in other words would count as wrong.
    """
    known = [
        style_of(turn.response_text) == turn.response_emotion
        for record in records
        for turn in record.turns
        if turn.response_text and turn.response_emotion
    ]
    return bool(known) and sum(known) >= _ENOUGH * len(known)
