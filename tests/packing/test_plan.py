"""Planned rows: sizes are those of the layout, every turn is trained once an epoch, for any cut of the work."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import soundfile

from ieat_jax.config.sections import InjectionConfig, Shapes, SourceConfig
from ieat_jax.data import layout
from ieat_jax.data.layout import LayoutOptions
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.jsonl import open_sources
from ieat_jax.packing.account import COLUMNS
from ieat_jax.packing.best_fit import best_fit_decreasing
from ieat_jax.packing.pipeline import make_plan
from ieat_jax.packing.plan import Position, cut
from ieat_jax.packing.rows import RowMaker
from ieat_jax.packing.sizes import BUDGETS
from ieat_jax.packing.spec import RowSpec
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

WORDS = "the user feels sad because i lost my keys and you are kind so take your time with it".split()  # noqa: SIM905
CODEC = {"name": "stub", "rate": 50, "vocab_size": 40, "hash": "0"}
OPTIONS = {
    "write": ("text", LayoutOptions()),
    "align": ("audio", LayoutOptions(teacher=True)),
    "joint": ("audio", LayoutOptions(speech=True, unit_end=40)),
    "twins": ("audio", LayoutOptions(speech=True, internalise=True, internalise_units=True, unit_end=40)),
    "all": ("audio", LayoutOptions(teacher=True, speech=True, internalise=True, unit_end=40)),
}


def some_turn(rng, number, audio):
    def words(most):
        return " ".join(rng.choice(WORDS, rng.integers(1, most)))

    entry = {"turn_id": number, "text": words(9), "response_text": words(12), "split_audio_file": audio}
    ours = {}
    if rng.random() < 0.8:
        ours["emotion"] = {"label": str(rng.choice(["sad", "happy", "neutral"])), "source": "gold"}
    if rng.random() < 0.5:
        ours["cause"] = {"text": words(5)}
    if rng.random() < 0.3:
        ours["events"] = ["sigh"]
    if rng.random() < 0.1:
        ours["think"] = {"text": words(9)}
    ours["response"] = {"emotion": "comfort"} if rng.random() < 0.7 else {}
    if rng.random() < 0.8:
        ours["response"]["units"] = rng.integers(0, 40, rng.integers(0, 24)).tolist()
    return entry | {"ieat": ours}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """40 dialogues of 1 to 14 turns, a third of them Chinese by name."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(6):
        length = int(rng.integers(2000, 14_000))
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.normal(size=length).clip(-3, 3), 16_000)
    lines = []
    for number in range(40):
        count = int(rng.integers(1, 15 if number % 4 == 0 else 4))
        turns = [some_turn(rng, place + 1, f"{rng.integers(6)}.wav") for place in range(count)]
        meta = {"codec": CODEC, "language": "zh" if number % 3 == 0 else "en"}
        lines.append(json.dumps({"dialogue_id": f"d{number}", "turns": turns, "ieat_meta": meta}))
    (folder / "all.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def spec_of(name, *, shared=False, **changes):
    user, options = OPTIONS[name]
    tokenizer = train_tokenizer([" ".join(WORDS), "这是因为用户感到悲伤我应该用安慰的语气回答"] * 4, 400)
    fields = {
        "chat": ChatFormat(tokenizer, True, "You are kind.", "You speak."),
        "clip_seconds": 1.0,
        "num_mels": 4,
        "clip_positions": lambda frames: -(-frames // 16),
        "clip_slot": lambda frames: frames // 16 * 16 + 16,
        "stride": 16,
        "shapes": Shapes(
            tokens=700,
            clips=6 if user == "audio" else 0,
            targets=500,
            answers=7,
            teacher_tokens=800 if options.teacher else 0,
            speak=500 if options.speech else 0,
            groups=60 if options.speech else 0,
            frames=320 if user == "audio" and shared else 0,
        ),
        "options": options,
        "injection": InjectionConfig(decay_examples=60),
        "user": user,
        "pack": 5,
        "privileged": True,
        "seed": 3,
        "window": 20,
    }
    return RowSpec(**(fields | changes))


def opened(folder, name="all"):
    quarantine = Quarantine(0.5)
    return open_sources({"all": SourceConfig(str(folder / f"{name}.jsonl"))}, quarantine), quarantine


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
        wanted = {
            (number, turn) for number, record in enumerate(sources[0].records) for turn in range(len(record.turns))
        }
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
    turns = sum(len(record.turns) for record in sources[0].records)
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
