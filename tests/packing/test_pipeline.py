"""The stateless pipeline: the same global batches for any number of hosts and after any restart; bad records."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from ieat_jax.audio.files import AudioError
from ieat_jax.config.sections import DataConfig, InjectionConfig, Shapes, SourceConfig
from ieat_jax.data.batch import Batch
from ieat_jax.data.layout import LayoutOptions
from ieat_jax.data.quarantine import Quarantine, QuarantineError
from ieat_jax.data.sources import jsonl, retry
from ieat_jax.data.sources.open import open_sources
from ieat_jax.data.sources.store import DataError
from ieat_jax.packing.account import COLUMNS
from ieat_jax.packing.pipeline import make_batches, make_plan
from ieat_jax.packing.readers import Readers
from ieat_jax.packing.signs import Signs
from ieat_jax.packing.spec import RowSpec
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

TEXTS = ["I lost my keys.", "The bus was late.", "We won the match.", "It is raining.", "He called me back."]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """12 spoken dialogues of one or two turns, and 3 of text alone."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for name, kinds in (("spoken", 12), ("text", 3)):
        lines = []
        for number in range(kinds):
            turns = []
            for turn in range(1 + number % 2):
                text = TEXTS[(number + turn) % 5]
                entry = {"turn_id": turn + 1, "text": text, "emotion": ("sad", "happy")[number % 2]}
                entry |= {"response_text": f"I see. {text}"}
                if name == "spoken":
                    entry["split_audio_file"] = f"{number}_{turn}.wav"
                    time = np.arange(4000 + 800 * number) / 16000
                    wave = 0.2 * np.sin(2 * np.pi * (200 + 20 * number) * time) + 0.01 * rng.normal(size=time.size)
                    soundfile.write(folder / entry["split_audio_file"], wave, 16000)
                turns.append(entry)
            lines.append(json.dumps({"dialogue_id": f"{name}{number}", "turns": turns}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def recipe():
    chat = ChatFormat(train_tokenizer(TEXTS * 3 + ["The user feels sad. happy because"], 320), True, "Be kind.")
    shapes = Shapes(tokens=256, clips=2, targets=160, answers=2, teacher_tokens=256, speak=0, groups=0)
    return RowSpec(
        chat=chat,
        clip_seconds=1.0,
        num_mels=8,
        clip_positions=lambda frames: -(-frames // 16),
        clip_slot=lambda frames: frames // 16 * 16 + 16,
        stride=16,
        shapes=shapes,
        options=LayoutOptions(teacher=True),
        injection=InjectionConfig(mode="schedule", decay_examples=20),
        user="audio",
        pack=1,
        privileged=True,
        seed=3,
    )


def sources_of(corpus, quarantine, **weights):
    settings = {
        name: SourceConfig(str(corpus / f"{name}.jsonl"), weight=weight)
        for name, weight in (weights or {"spoken": 1.0}).items()
    }
    return open_sources(settings, quarantine)


def batches(corpus, recipe, *, steps=6, batch_size=8, quarantine=None, weights=None, **hosts):
    quarantine = Quarantine(0.0) if quarantine is None else quarantine
    sources = sources_of(corpus, quarantine, **(weights or {}))
    plan = make_plan(sources, recipe, quarantine)
    return make_batches(sources, recipe, plan, batch_size=batch_size, steps=steps, **hosts)


def assert_same(one, two):
    for name in Batch.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def rows(batch, start, stop):
    return Batch(**{name: getattr(batch, name)[start:stop] for name in Batch.__dataclass_fields__})


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_together_read_the_same_global_batches(corpus, recipe, hosts):
    whole = batches(corpus, recipe)
    parts = [batches(corpus, recipe, host=host, hosts=hosts) for host in range(hosts)]
    for step in (0, 3, 5):
        for host, part in enumerate(parts):
            size = 8 // hosts
            assert_same(part[step].batch, rows(whole[step].batch, host * size, (host + 1) * size))
            for (epoch, one), (same, two) in zip(part[step].account, whole[step].account, strict=True):
                assert epoch == same
                np.testing.assert_array_equal(one, two)


def test_reading_on_from_a_step_gives_the_batches_of_an_uninterrupted_run(corpus, recipe):
    run = list(Readers(batches(corpus, recipe), 0, DataConfig(), Signs()))
    assert len(run) == 6
    for first in (1, 4):
        again = list(Readers(batches(corpus, recipe), first, DataConfig(read_threads=1, read_ahead=1), Signs()))
        assert len(again) == 6 - first
        for one, two in zip(run[first:], again, strict=True):
            assert_same(one.batch, two.batch)
    longer = batches(corpus, recipe, steps=9)
    assert_same(longer[5].batch, run[5].batch)
    assert not np.array_equal(run[0].batch.tokens, run[1].batch.tokens)


def test_every_dialogue_comes_once_per_epoch_and_epochs_differ(corpus, recipe):
    data = batches(corpus, recipe, batch_size=12, steps=2)
    first, second = (
        [float(row.mel.sum()) for row in (rows(data[k].batch, i, i + 1) for i in range(12))] for k in (0, 1)
    )
    assert len(set(first)) == 12
    assert sorted(first) == sorted(second)
    assert first != second


def test_choices_differ_between_epochs_and_seeds(corpus, recipe):
    one, two = batches(corpus, recipe, batch_size=12, steps=2), batches(corpus, dataclasses.replace(recipe, seed=4))
    kinds = [np.bincount(one[step].batch.target_kind.reshape(-1), minlength=9)[1:6].sum() for step in (0, 1)]
    assert kinds[0] > kinds[1]  # the schedule fades the thinking
    assert not np.array_equal(one[0].batch.tokens[:8], two[0].batch.tokens)


def test_mixture_follows_the_weights_and_packed_rows_hold_more(corpus, recipe):
    text = dataclasses.replace(
        recipe,
        user="text",
        options=LayoutOptions(),
        shapes=dataclasses.replace(recipe.shapes, clips=0, teacher_tokens=0),
    )
    ids = recipe.chat.tokenizer.encode("I lost my keys.")
    assert ids
    only = batches(corpus, text, weights={"spoken": 0.0, "text": 1.0}, batch_size=3, steps=1)[0].batch
    assert len({tuple(row) for row in only.tokens}) == 3
    wide = dataclasses.replace(text, shapes=dataclasses.replace(text.shapes, tokens=512, answers=4, targets=320))
    alone = batches(corpus, wide, steps=1)[0].batch
    packed = batches(corpus, dataclasses.replace(wide, pack=2), steps=1)[0].batch
    assert (packed.segment_ids > 0).sum() > 1.5 * (alone.segment_ids > 0).sum()
    assert set(np.unique(packed.segment_ids)) == {0, 1, 3}


def test_a_row_makes_every_text_tokens_once(corpus, recipe):
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(recipe.chat.tokenizer, name)

        def encode(self, text):
            calls.append(text)
            return recipe.chat.tokenizer.encode(text)

    chat = dataclasses.replace(recipe.chat, tokenizer=Counting())
    sizes = {"tokens": 512, "teacher_tokens": 512, "answers": 4, "targets": 320, "clips": 4}
    spec = dataclasses.replace(recipe, chat=chat, pack=4, shapes=dataclasses.replace(recipe.shapes, **sizes))
    data, kept = batches(corpus, spec, batch_size=1, steps=3), []
    for step in range(3):
        data[step]  # its window is planned
        calls.clear()
        kept.append(np.unique(data[step].batch.branch_ids).size - 1)
        assert len(calls) == len(set(calls)) > 0
    assert max(kept) > 1


def copied(corpus, folder):
    for path in corpus.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return [json.loads(line) for line in (folder / "spoken.jsonl").read_text().splitlines()]


def written(folder, records):
    (folder / "spoken.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_what_sizes_show_to_be_bad_is_known_before_anything_is_decoded(corpus, recipe, tmp_path):
    records = copied(corpus, tmp_path)
    del records[1]["turns"][0]["response_text"]
    written(tmp_path, records)
    (tmp_path / "2_0.wav").write_bytes(b"not audio at all")
    (tmp_path / "4_0.wav").unlink()
    quarantine = Quarantine(0.25, tmp_path / "quarantine.jsonl")
    data = batches(tmp_path, recipe, quarantine=quarantine, batch_size=10, steps=2)
    assert quarantine.summary() == {"no_response": 1, "not_audio": 1, "missing": 1}
    notes = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert {(note["id"], note["source"]) for note in notes} == {(f"spoken{number}", "spoken") for number in (1, 2, 4)}
    for step in range(2):
        assert (data[step].batch.segment_ids > 0).any(axis=1).all()
        assert data[step].bad == ()
        # Ten rows: 12 dialogues without the two whose only turn is bad; the second turn of spoken1 is still trained.
        ((_, sums),) = data[step].account
        named = dict(zip(COLUMNS, sums.tolist(), strict=True))
        assert (named["dialogues"], named["turns"], named["quarantined"]) == (10, 15, 1)
    with pytest.raises(QuarantineError, match="1 x"):
        batches(tmp_path, recipe, quarantine=Quarantine(0.01), batch_size=12)


def test_sound_that_cannot_be_decoded_costs_its_turn_and_what_follows_and_is_told_with_its_step(
    corpus, recipe, tmp_path
):
    copied(corpus, tmp_path)
    for name in ("3_0", "5_1"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(8000), 16000)  # silent: its header is as good as any
    wide = dataclasses.replace(recipe, shapes=dataclasses.replace(recipe.shapes, targets=320, tokens=400))
    data = [batches(tmp_path, wide, batch_size=4, steps=6, host=host, hosts=2) for host in (0, 1)]
    told = [(k, {(bad.record, bad.code) for part in data for bad in part[k].bad}) for k in range(6)]
    for epoch in range(2):
        found = [bad for k, found in told[epoch * 3 : epoch * 3 + 3] for bad in found]
        assert sorted(found) == [("spoken3", "silent"), ("spoken5", "silent")]
    first = next(k for k, found in told if found)
    again = batches(tmp_path, wide, batch_size=4, steps=6, host=0, hosts=2)
    assert [bad.record for bad in again[first].bad] == [bad.record for bad in data[0][first].bad]
    clips = sum(int((part[k].batch.clip_frames > 0).sum()) for k in range(3) for part in data)
    assert clips == 18 - 2 - 1  # two turns of spoken3, one of spoken5


def test_equal_ids_of_two_sources_do_not_share_their_fate(corpus, recipe, tmp_path):
    """MELD numbers its dialogues from 0 in every split."""
    for name in ("train", "dev"):
        (tmp_path / name).mkdir()
        copied(corpus, tmp_path / name)
    (tmp_path / "dev/4_0.wav").write_bytes(b"no sound")
    soundfile.write(tmp_path / "train/8_0.wav", np.zeros(9000), 16000)
    settings = {name: SourceConfig(str(tmp_path / name / "spoken.jsonl")) for name in ("train", "dev")}
    quarantine = Quarantine(0.5)
    sources = open_sources(settings, quarantine)
    plan = make_plan(sources, recipe, quarantine)
    assert list(quarantine.notes) == ["dev: spoken4"]
    data = make_batches(sources, recipe, plan, batch_size=23, steps=1)
    (bad,) = data[0].bad
    assert (bad.source, bad.record) == ("train", "spoken8")
    names = [source.key for source in sources]
    pieces = [piece for row in range(23) for piece in plan.row(row)]
    trained = {(names[piece.source], sources[piece.source].record(piece.record).dialogue_id) for piece in pieces}
    assert {("train", "spoken4"), ("dev", "spoken8")} <= trained
    assert ("dev", "spoken4") not in trained
    ((_, sums),) = data[0].account
    assert dict(zip(COLUMNS, sums.tolist(), strict=True))["dialogues"] == 23


def test_storage_that_fails_for_a_moment_changes_nothing_and_for_long_ends_the_run(corpus, recipe, monkeypatch):
    monkeypatch.setattr(retry, "PAUSES", (0.0, 0.0))
    whole = batches(corpus, recipe)[0].batch
    failing = {"left": 2}
    read = jsonl.read_audio

    def flaky(path, **options):
        if failing["left"]:
            failing["left"] -= 1
            raise AudioError("unreadable", path, "cannot be read (Input/output error)")
        return read(path, **options)

    monkeypatch.setattr(jsonl, "read_audio", flaky)
    assert_same(batches(corpus, recipe)[0].batch, whole)
    assert failing["left"] == 0
    failing["left"] = 100
    with pytest.raises(DataError, match=r"spoken\d+: turn \d: \d+_\d\.wav: cannot be read .*3 tries failed"):
        batches(corpus, recipe)[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sound_that_is_no_number_names_the_file_and_line_of_its_record(value, corpus, recipe, tmp_path):
    copied(corpus, tmp_path)
    soundfile.write(tmp_path / "2_0.wav", np.full(8000, value, np.float32), 16000, subtype="FLOAT")
    data = batches(tmp_path, recipe, batch_size=12, steps=1)
    (bad,) = data[0].bad
    assert bad.code == "not_finite"
    assert bad.message.startswith(f"{tmp_path}/spoken.jsonl:3: spoken2: turn 1: 2_0.wav: ")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hosts": 3}, r"config\.data\.batch_size = 8 does not divide over 3 processes"),
        ({"weights": {"spoken": 0.0}}, "names no records with a weight above 0"),
    ],
)
def test_recipes_that_can_not_work_are_errors_for_people(corpus, recipe, changes, text):
    with pytest.raises(DataError, match=text):
        batches(corpus, recipe, **changes)


def test_balanced_emotions_reach_the_batches(corpus, recipe):
    weights = {"spoken": 1.0}
    plain = batches(corpus, recipe, steps=3, weights=weights)
    again = batches(corpus, dataclasses.replace(recipe, balance=1.0), steps=3, weights=weights)
    assert_same(plain[0].batch, again[0].batch)  # six sad and six happy dialogues are balanced already
