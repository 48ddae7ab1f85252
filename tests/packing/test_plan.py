"""Planned rows: sizes are those of the layout, every turn is trained once an epoch, for any cut of the work."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from helpers.many_sizes import OPTIONS, opened, spec_of, write_corpus

from ieat_jax.data import layout
from ieat_jax.packing.account import COLUMNS
from ieat_jax.packing.best_fit import best_fit_decreasing
from ieat_jax.packing.pipeline import make_plan
from ieat_jax.packing.plan import Position, cut
from ieat_jax.packing.rows import RowMaker
from ieat_jax.packing.sizes import BUDGETS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def planned(corpus, spec, **options):
    sources, quarantine = opened(corpus)
    return sources, make_plan(sources, spec, quarantine, **options)


@pytest.mark.parametrize(("thinks", "shared"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_planned_sizes_are_those_of_the_layout(name, thinks, shared, corpus, monkeypatch):
    spec = spec_of(name, shared=shared)
    spec = dataclasses.replace(spec, chat=dataclasses.replace(spec.chat, thinks=thinks))
    sources, plan = planned(corpus, spec)
    maker, found = RowMaker(sources, spec, plan), []

    def watched(row, *arguments, **options):
        found.append(row.size())
        return to_arrays(row, *arguments, **options)

    to_arrays = layout.to_arrays
    monkeypatch.setattr(layout, "to_arrays", watched)
    count = sum(len(plan.window(number).rows) for number in range(4))
    for index in range(count):
        assert maker(index).bad == ()
        ((_, sums),) = plan.account(index, index + 1)
        assert found[-1] == dict(zip(BUDGETS, sums.tolist(), strict=False)), index
    assert any(piece.first for index in range(count) for piece in plan.row(index))  # some dialogue went on


@pytest.mark.parametrize("name", OPTIONS)
def test_every_turn_is_trained_once_an_epoch_and_history_is_not(name, corpus):
    spec = spec_of(name)
    sources, plan = planned(corpus, spec)
    windows = 2  # of an epoch of 40 dialogues
    for epoch in range(2):
        seen = Counter()
        for number in range(epoch * windows, (epoch + 1) * windows):
            window = plan.window(number)
            assert window.epoch == epoch
            for row in window.rows:
                assert len(row) <= spec.pack
                seen.update((piece.record, turn) for piece in row for turn in range(piece.first, piece.last + 1))
        records = map(sources[0].record, range(len(sources[0])))
        wanted = {(number, turn) for number, record in enumerate(records) for turn in range(len(record.turns))}
        assert seen == Counter(wanted)
    assert [plan.row(index) for index in range(8)] != [
        plan.row(index + sum(len(plan.window(number).rows) for number in range(windows))) for index in range(8)
    ]


def test_a_run_that_goes_on_from_any_step_has_the_rows_of_one_that_never_stopped(corpus):
    spec = spec_of("align")
    _, whole = planned(corpus, spec)
    for step in range(20):
        _, later = planned(corpus, spec, position=whole.at(step, 3))
        assert [later.row(row) for row in range(step * 3, step * 3 + 6)] == [
            whole.row(row) for row in range(step * 3, step * 3 + 6)
        ]
    # Another size of the batch goes on behind the rows that were read.
    _, wider = planned(corpus, spec, position=whole.at(7, 3))
    assert wider.at(9, 5)[:2] == Position(9, 21 + 10)[:2]


def test_the_account_counts_what_was_read(corpus):
    sources, plan = planned(corpus, spec_of("twins"))
    rows = sum(len(plan.window(number).rows) for number in range(4))
    sums = {}
    for epoch, part in plan.account(0, rows):
        sums[epoch] = sums.get(epoch, 0) + part
    turns = int(sources[0].index["offsets"][-1])
    for epoch in range(2):
        named = dict(zip(COLUMNS, sums[epoch].tolist(), strict=True))
        assert (named["dialogues"], named["turns"], named["quarantined"]) == (40, turns, 0)
        assert named["explicit"] + named["partial"] + named["empty"] == turns
        assert named["context"] > 0
    assert sums[0][COLUMNS.index("rows")] + sums[1][COLUMNS.index("rows")] == rows


def test_a_turn_that_never_fits_is_named_and_the_rest_of_its_dialogue_is_trained(corpus, tmp_path):
    for path in corpus.glob("*.wav"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = [json.loads(line) for line in (corpus / "all.jsonl").read_text().splitlines()]
    lines[0]["turns"][1]["response_text"] = "so " * 900
    count = len(lines[0]["turns"])
    assert count > 2
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sources, quarantine = opened(tmp_path)
    plan = make_plan(sources, spec_of("align"), quarantine)
    ((name, (code, message)),) = quarantine.notes.items()
    assert name == "all: d0"
    assert code == "too_long"
    assert "d0: turn 2 alone needs up to" in message
    assert "config.data.shapes." in message
    pieces = [p for number in range(2) for row in plan.window(number).rows for p in row if p.record == 0]
    trained = sorted(turn for piece in pieces for turn in range(piece.first, piece.last + 1))
    assert trained == [0, *range(2, count)]
    assert all(piece.context != 1 and (piece.context > 1 or piece.last == 0) for piece in pieces)


@pytest.mark.parametrize("seed", range(200))
def test_cuts_of_random_dialogues_hold_every_turn_once_and_fit(seed):
    rng = np.random.default_rng(seed)
    count, budgets = int(rng.integers(1, 30)), 3
    user, history, answer = (rng.integers(0, 12, (count, budgets)) for _ in range(3))
    opening = rng.integers(0, 5, budgets)
    room = (opening + (user + answer).max(axis=0)) * rng.integers(1, 6)
    broken = rng.random(count) < 0.1
    seen = []
    for context, first, last in cut(opening, user, history, answer, room, broken):
        assert context <= first <= last
        assert not broken[context : last + 1].any()
        size = (
            opening + user[context : last + 1].sum(0) + history[context:last].sum(0) + answer[first : last + 1].sum(0)
        )
        assert (size <= room).all()
        seen += range(first, last + 1)
    assert seen == np.flatnonzero(~broken).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_bins_hold_every_piece_once_and_are_nearly_as_few_as_can_be(seed):
    rng = np.random.default_rng(seed)
    room = np.array([100, 60, 16])
    sizes = np.minimum(rng.integers(1, (60, 30, 8), (300, 3)), room)
    bins = best_fit_decreasing(sizes, room)
    assert sorted(piece for pieces in bins for piece in pieces) == list(range(300))
    assert all((sizes[pieces].sum(0) <= room).all() for pieces in bins)
    assert len(bins) <= 1.12 * (sizes.sum(0) / room).max() + 1
