"""The stateless pipeline: the same global batches for any number of hosts and after any restart; bad records."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from ieat_jax.config.sections import InjectionConfig, Shapes, SourceConfig
from ieat_jax.data.batch import Batch
from ieat_jax.data.layout import LayoutOptions
from ieat_jax.data.pipeline import balanced, make_batches, prefetched
from ieat_jax.data.quarantine import Quarantine, QuarantineError
from ieat_jax.data.records import parse_record
from ieat_jax.data.rows import RowSpec
from ieat_jax.data.sources.jsonl import DataError, open_sources
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
    return make_batches(
        sources_of(corpus, quarantine, **(weights or {})),
        recipe,
        quarantine,
        batch_size=batch_size,
        steps=steps,
        **hosts,
    )


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
            assert_same(part[step], rows(whole[step], host * size, (host + 1) * size))


def test_reading_on_from_a_step_gives_the_batches_of_an_uninterrupted_run(corpus, recipe):
    run = list(prefetched(batches(corpus, recipe), 0))
    assert len(run) == 6
    for first in (1, 4):
        again = list(prefetched(batches(corpus, recipe), first, threads=1, buffer=1))
        assert len(again) == 6 - first
        for one, two in zip(run[first:], again, strict=True):
            assert_same(one, two)
    longer = batches(corpus, recipe, steps=9)
    assert_same(longer[5], run[5])
    assert not np.array_equal(run[0].tokens, run[1].tokens)


def test_every_dialogue_comes_once_per_epoch_and_epochs_differ(corpus, recipe):
    quarantine = Quarantine(0.0)
    spoken = sources_of(corpus, quarantine)
    marks = {}
    for record in spoken[0].records:
        marks[record.turns[0].audio] = len(marks)
    data = make_batches(spoken, recipe, quarantine, batch_size=12, steps=2)
    first, second = ([row.mel.sum() for row in (rows(data[k], i, i + 1) for i in range(12))] for k in (0, 1))
    assert len(set(map(float, first))) == 12
    assert sorted(map(float, first)) == sorted(map(float, second))
    assert first != second
    assert len(marks) == 12


def test_choices_differ_between_epochs_and_seeds(corpus, recipe):
    one, two = batches(corpus, recipe, batch_size=12, steps=2), batches(corpus, dataclasses.replace(recipe, seed=4))
    kinds = [np.bincount(one[step].target_kind.reshape(-1), minlength=9)[1:6].sum() for step in (0, 1)]
    assert kinds[0] > kinds[1]  # the schedule fades the thinking
    assert not np.array_equal(one[0].tokens[:8], two[0].tokens)


def test_mixture_follows_the_weights_and_packed_rows_hold_more(corpus, recipe):
    text = dataclasses.replace(
        recipe,
        user="text",
        options=LayoutOptions(),
        shapes=dataclasses.replace(recipe.shapes, clips=0, teacher_tokens=0),
    )
    ids = recipe.chat.tokenizer.encode("I lost my keys.")
    assert ids
    only = batches(corpus, text, weights={"spoken": 0.0, "text": 1.0}, batch_size=3, steps=1)[0]
    assert len({tuple(row) for row in only.tokens}) == 3
    wide = dataclasses.replace(text, shapes=dataclasses.replace(text.shapes, tokens=512, answers=4, targets=320))
    alone = batches(corpus, wide, steps=1)[0]
    packed = batches(corpus, dataclasses.replace(wide, pack=2), steps=1)[0]
    assert (packed.segment_ids > 0).sum() > 1.5 * (alone.segment_ids > 0).sum()
    assert set(np.unique(packed.segment_ids)) == {0, 1, 3}


def test_a_row_makes_every_text_tokens_once_also_to_see_whether_a_dialogue_fits_alone(corpus, recipe):
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(recipe.chat.tokenizer, name)

        def encode(self, text):
            calls.append(text)
            return recipe.chat.tokenizer.encode(text)

    chat = dataclasses.replace(recipe.chat, tokenizer=Counting())
    chat.system()  # the format's own pieces become tokens here, once
    sizes = {"tokens": 512, "teacher_tokens": 512, "answers": 4, "targets": 320, "clips": 4}
    spec = dataclasses.replace(recipe, chat=chat, pack=4, shapes=dataclasses.replace(recipe.shapes, **sizes))
    data, kept = batches(corpus, spec, batch_size=1, steps=3), []
    for step in range(3):
        calls.clear()
        kept.append(np.unique(data[step].branch_ids).size - 1)
        assert len(calls) == len(set(calls)) > 0
    assert max(kept) > 1


def test_bad_records_are_replaced_counted_and_end_the_run_when_there_are_too_many(corpus, recipe, tmp_path):
    for path in corpus.iterdir():
        if path.suffix == ".wav":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = (corpus / "spoken.jsonl").read_text().splitlines()
    broken = json.loads(lines[1])
    del broken["turns"][0]["response_text"]
    (tmp_path / "spoken.jsonl").write_text("\n".join([lines[0], json.dumps(broken), *lines[2:]]) + "\n")
    (tmp_path / "2_0.wav").write_bytes(b"not audio at all")
    quarantine = Quarantine(0.25, tmp_path / "quarantine.jsonl")
    data = batches(tmp_path, recipe, quarantine=quarantine, batch_size=12, steps=2)
    for step in range(2):
        assert (data[step].segment_ids > 0).any(axis=1).all()
    assert quarantine.summary() == {"no_response": 1, "not_audio": 1}
    assert {json.loads(line)["id"] for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()} == {
        "spoken1",
        "spoken2",
    }
    with pytest.raises(QuarantineError, match="1 x"):
        batches(tmp_path, recipe, quarantine=Quarantine(0.01), batch_size=12)[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sound_that_is_no_number_names_the_file_and_line_of_its_record(value, corpus, recipe, tmp_path):
    for path in corpus.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    soundfile.write(tmp_path / "2_0.wav", np.full(8000, value, np.float32), 16000, subtype="FLOAT")
    told = rf"First: {tmp_path}/spoken\.jsonl:3: 2_0\.wav: "
    with pytest.raises(QuarantineError, match=told):
        batches(tmp_path, recipe, batch_size=12)[0]


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


@pytest.mark.parametrize(("balance", "repeats"), [(0.0, [1, 1, 1]), (0.5, [1, 1, 2]), (1.0, [1, 2, 6])])
def test_rare_emotions_come_up_more_often(balance, repeats):
    labels = ["sad"] * 6 + ["happy"] * 3 + ["fear"]
    turns = [[{"turn_id": 1, "text": "x", "emotion": label}] for label in labels]
    records = [parse_record({"dialogue_id": str(number), "turns": turn}) for number, turn in enumerate(turns)]
    found = balanced(records, balance)
    assert [found[0], found[6], found[9]] == repeats


def test_balanced_emotions_reach_the_batches(corpus, recipe):
    weights = {"spoken": 1.0}
    plain = batches(corpus, recipe, steps=3, weights=weights)
    again = batches(corpus, dataclasses.replace(recipe, balance=1.0), steps=3, weights=weights)
    assert_same(plain[0], again[0])  # six sad and six happy dialogues are balanced already
