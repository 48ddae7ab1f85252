"""What a tokenizer is trained on: everything that is written in a dialogue, thinking in all its wordings included.

Chinese has no spaces, so a byte-level tokenizer would take whole sentences of a small corpus for single words. It is
given Chinese characters one by one, and so learns one token for each.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np

from ieat_jax.data.chance import chooser
from ieat_jax.data.injection import joined, privileged, thinking
from ieat_jax.data.labels import EMOTIONS, INTENSITIES, LANGUAGES, STYLES, emotion_word, intensity_word, style_word
from ieat_jax.data.pools import ARROW, POOLS, fill
from ieat_jax.data.records import Record

_CHINESE = r"\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_PIECE = re.compile(rf"[{_CHINESE}]|[^{_CHINESE}]+")
ROLES = ("system\n", "user\n", "assistant\n", "\n\n", "You are a helpful assistant.")


def tokenizer_texts(records: Iterable[Record], *, seed: int = 0) -> Iterator[str]:
    """Transcripts, replies, think blocks, what a teacher is told of all records; then every sentence of the pools."""
    for text in _texts(records, seed):
        yield from _PIECE.findall(text)


def _texts(records: Iterable[Record], seed: int) -> Iterator[str]:
    pick = chooser(np.random.default_rng(seed))
    yield from ROLES
    for record in records:
        for index, turn in enumerate(record.turns):
            known = "".join(joined(privileged(record, index, pick), record.language))
            yield from filter(None, (turn.text, turn.response_text, known))
            if sentences := thinking(record, index, pick):
                yield " ".join(sentences.values())
    yield from pool_sentences()


def pool_sentences() -> Iterator[str]:
    """Every paraphrase with every label, so that a label that the records lack does not fall apart into letters."""
    for language in LANGUAGES:
        pools = POOLS[language]
        feelings = [emotion_word(label, language) for label in EMOTIONS]
        for kind in ("state", "steady"):
            for template in pools[kind]:
                yield from (fill(template, {"emotion": word}) for word in feelings)
        for template in pools["state"]:
            for intensity in INTENSITIES:
                yield fill(template, {"emotion": feelings[0], "intensity": intensity_word(intensity, language)})
        for template in pools["plan"]:
            yield from (fill(template, {"style": style_word(label, language)}) for label in STYLES)
        for template in pools["trajectory"]:
            yield from (fill(template, {"path": word + ARROW + word}) for word in feelings)
        for template in pools["cause"]:
            yield fill(template, {"cause": feelings[0]})
