"""How many tokens the turns of a source have: counted once, and kept beside its index.

The arrays of their store:

    array      of                         holds tokens of
    text       turns                      what the user says
    reply      turns                      the reply
    sentences  turns, slots, wordings, 2  each paraphrase, as the first and as a later sentence; 0 = absent
    most       turns, slots               the longest of them
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.data import injection, labels, pools, records
from ieat_jax.data.injection import joined, thinking_wordings, told_wordings
from ieat_jax.data.records import Record
from ieat_jax.data.sources.source import Source
from ieat_jax.data.sources.store import ArrayStore, StoreWriter, open_or_make
from ieat_jax.packing.sizes import SLOTS
from ieat_jax.packing.spec import RowSpec
from ieat_jax.progress import Progress
from ieat_jax.text import checks, tokenizer
from ieat_jax.text.tokenizer import tokenizer_digest

WORDINGS = 3  # most paraphrases of a sentence
FLUSH = 1 << 12  # records that are collected before they are written
REMEMBERED = 1 << 16  # texts whose count is known
CODE = (injection, labels, pools, records, checks, tokenizer)  # and this file: what counts depend on


def open_counts(source: Source, spec: RowSpec) -> ArrayStore:
    """The counts of all turns of a source; made where there are none for this tokenizer and these wordings.

    Raises:
        DataError: they can be written nowhere, or a record cannot be read.
    """
    return open_or_make(source.index.folder, f"counts-{_digest(source, spec)}", functools.partial(_make, source, spec))


def _digest(source: Source, spec: RowSpec) -> str:
    """Over all that counts depend on."""
    code = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in CODE]
    facts = {
        "records": source.index.facts["identity"]["content"],
        "tokenizer": tokenizer_digest(spec.chat.tokenizer),
        "versions": {name: importlib.metadata.version(name) for name in ("tokenizers", "sentencepiece")},
        "code": [*code, Path(__file__).read_text(encoding="utf-8")],
        "thinks": spec.chat.thinks,
        "privileged": spec.privileged,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _make(source: Source, spec: RowSpec, store: StoreWriter) -> dict[str, Any]:
    count = functools.lru_cache(REMEMBERED)(lambda text: len(spec.chat.tokenizer.encode(text)))
    with Progress(f"{source.name}: dialogues counted in tokens", len(source), patient=True) as progress:
        for first in range(0, len(source), FLUSH):
            some = [source.record(number) for number in range(first, min(first + FLUSH, len(source)))]
            turns = [(record, index) for record in some for index in range(len(record.turns))]
            sentences = np.zeros((len(turns), len(SLOTS), WORDINGS, 2), np.int32)
            for out, (record, index) in zip(sentences, turns, strict=True):
                _count_sentences(out, record, index, spec, count)
            texts = [(record.turns[index].text, record.turns[index].response_text) for record, index in turns]
            store.add("text", np.array([count(text) for text, _ in texts], np.int32))
            store.add("reply", np.array([count(reply) for _, reply in texts], np.int32))
            store.add("sentences", sentences)
            store.add("most", sentences.max(axis=(2, 3), initial=0))
            progress.done(len(some))
    return {"turns": int(source.index["offsets"][-1])}


def _count_sentences(out: np.ndarray, record: Record, index: int, spec: RowSpec, count: Callable[[str], int]) -> None:
    found: dict[str, Sequence[str]] = {}
    if spec.chat.thinks:
        found |= thinking_wordings(record, index)
    if spec.privileged:
        found |= {f"told_{name}": wordings for name, wordings in told_wordings(record, index).items()}
    for slot, wordings in found.items():
        language = record.language if slot.startswith("told_") else ""
        for number, sentence in enumerate(wordings):
            _, later = joined((sentence, sentence), language)
            out[SLOTS.index(slot), number] = count(sentence), count(later)
