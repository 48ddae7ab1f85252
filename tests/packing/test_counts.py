"""Counts of tokens: those of every text by itself, kept until something that they depend on is another one."""

import dataclasses
import pickle

import numpy as np
import pytest
from helpers.many_sizes import WORDS, opened, spec_of, write_corpus

from ieat_jax.data.injection import thinking_wordings, told_wordings
from ieat_jax.data.sources.store import ArrayStore
from ieat_jax.packing import counts as module
from ieat_jax.packing.counts import open_counts
from ieat_jax.packing.sizes import SLOTS
from ieat_jax.packing.tables import make_tables
from ieat_jax.text.tokenizer import train_tokenizer


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path)


@pytest.fixture
def made(monkeypatch):
    """One entry for every time that texts are counted."""
    calls, make = [], module._make

    def watched(*arguments):
        calls.append(1)
        return make(*arguments)

    monkeypatch.setattr(module, "_make", watched)
    return calls


def source_of(corpus):
    return opened(corpus)[0][0]


def with_chat(spec, **changes):
    return dataclasses.replace(spec, chat=dataclasses.replace(spec.chat, **changes))


def test_every_count_is_that_of_its_text(corpus):
    source, spec = source_of(corpus), spec_of("align")
    store, count = open_counts(source, spec), spec.chat.tokenizer.encode
    turns = [(record, index) for record in map(source.record, range(40)) for index in range(len(record.turns))]
    assert store["text"].tolist() == [len(count(record.turns[index].text)) for record, index in turns]
    assert store["reply"].tolist() == [len(count(record.turns[index].response_text)) for record, index in turns]
    for number, (record, index) in enumerate(turns):
        told = {f"told_{name}": wordings for name, wordings in told_wordings(record, index).items()}
        wanted = thinking_wordings(record, index) | told
        for slot, found in zip(SLOTS, store["sentences"][number], strict=True):
            first = [len(count(wording)) for wording in wanted.get(slot, ())]
            assert found[:, 0].tolist() == first + [0] * (module.WORDINGS - len(first))
    np.testing.assert_array_equal(store["most"], store["sentences"].max(axis=(2, 3)))


def test_they_are_made_once(corpus, made):
    spec = spec_of("align")
    tables = [make_tables(source_of(corpus), spec, opened(corpus)[1]) for _ in range(2)]
    assert len(made) == 1
    same = dataclasses.replace(spec, seed=9, shapes=dataclasses.replace(spec.shapes, tokens=900), window=3)
    make_tables(source_of(corpus), same, opened(corpus)[1])
    assert len(made) == 1  # shapes and seeds do not matter
    at = np.arange(len(tables[0]))
    for one, two in zip(*(table.counts(at, at, at) for table in tables), strict=True):
        np.testing.assert_array_equal(one, two)


OTHER = {
    "another tokenizer": lambda spec: with_chat(spec, tokenizer=train_tokenizer([" ".join(WORDS)] * 3, 300)),
    "no thinking": lambda spec: with_chat(spec, thinks=False),
    "a teacher that is told nothing": lambda spec: dataclasses.replace(spec, privileged=False),
}


@pytest.mark.parametrize("other", OTHER)
def test_what_they_depend_on_has_counts_of_its_own(other, corpus, made):
    spec = spec_of("align")
    source = source_of(corpus)
    for each in (spec, OTHER[other](spec), spec, OTHER[other](spec)):
        store = open_counts(source, each)
        first = source.record(0).turns[0]
        assert store["text"][0] == len(each.chat.tokenizer.encode(first.text))
    assert len(made) == 2
    path = corpus / "all.jsonl"
    path.write_text(path.read_text().replace("the user", "a user"))
    open_counts(source_of(corpus), spec)
    assert len(made) == 3


def test_other_wordings_are_counted_anew(corpus, made, monkeypatch):
    open_counts(source_of(corpus), spec_of("align"))
    monkeypatch.setattr(module, "CODE", module.CODE[1:])
    open_counts(source_of(corpus), spec_of("align"))
    assert len(made) == 2


def test_damaged_counts_are_made_again(corpus, made, capsys):
    source, spec = source_of(corpus), spec_of("align")
    store = open_counts(source, spec)
    text = store["text"].tolist()
    file = store.folder / "text.npy"
    held = bytearray(file.read_bytes())
    held[-4] ^= 1
    file.write_bytes(held)
    assert open_counts(source, spec)["text"].tolist() == text
    assert len(made) == 2
    assert "text.npy has another content; it is made again" in capsys.readouterr().err
    ArrayStore(store.folder)


def test_tables_travel_small(corpus):
    source, spec = source_of(corpus), spec_of("align")
    tables = make_tables(source, spec, opened(corpus)[1])
    records, turns, frames = len(source), len(tables), spec.frames
    bare = dataclasses.replace(tables, clips=dataclasses.replace(tables.clips, positions=None, slots=None))
    assert len(pickle.dumps(bare)) < turns + 4 * records + 2500  # a byte a turn, four a record
    again = pickle.loads(pickle.dumps(tables))
    at = np.arange(turns)
    for one, two in zip(tables.counts(at, at, at), again.counts(at, at, at), strict=True):
        np.testing.assert_array_equal(one, two)
    assert len(again.clips.positions) == frames + 1
