"""Misspelt keys: every key that is documented, with each slip of the pen, is told with its name and counted."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ieat_jax import prepare
from ieat_jax.audio.files import write_wav
from ieat_jax.config.sections import SourceConfig
from ieat_jax.data import keys
from ieat_jax.data.injection import _facts
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import RecordError, parse_record
from ieat_jax.data.sources.open import open_sources
from ieat_jax.evaluation.items import read_items

README = Path(keys.__file__).with_name("README.md")
TURN = {
    "turn_id": 1, "text": "I lost my keys.", "input_text": "I lost my keys.", "emotion": "sad", "input_emotion": "sad",
    "split_audio_file": "a.wav", "response_text": "Oh no.", "response_audio": "b.wav",
    "ieat": {
        "emotion": {"label": "sad", "intensity": "moderate", "source": "human", "raw": "SAD"}, "tone": "a soft voice",
        "events": ["sigh"], "translation": "x", "words": "x", "words_emotion": "happy",
        "cause": {"text": "lost", "evidence": [{"turn_id": 1, "quote": "lost"}], "source": "gold"},
        "think": {"text": "Hm.", "template": "{emotion} {response_emotion}"},
        "response": {"emotion": "comfort", "units": [1, 2], "source": "model:x"},
    },
}  # fmt: skip
CODEC = {"name": "mel", "rate": 50, "group_size": 4, "vocab_size": 9, "hash": "x"}
META = {"language": "en", "kind": "x", "speaker": "anna", "codec": CODEC}
WHOLE = {"dialogue_id": "d", "turns": [TURN], "ieat_meta": META | dict.fromkeys(keys.KEPT, "x")}


def places(value, path=()):
    """(path, key) of every key of ours in a record."""
    for key, item in value.items():
        yield path, key
        if key == "codec":  # which fields a codec's identity has is the codec's
            continue
        if isinstance(item, dict):
            yield from places(item, (*path, key))
        elif isinstance(item, list) and isinstance(item[0], dict):
            yield from places(item[0], (*path, key, 0))


def slips(word):
    """A letter left out, swapped, doubled or changed; and another way to write words together."""
    for at in range(len(word)):
        yield word[:at] + word[at + 1 :]
        yield word[:at] + word[at] + word[at:]
        yield word[:at] + ("x" if word[at] != "x" else "q") + word[at + 1 :]
        yield word[:at] + word[at : at + 2][::-1] + word[at + 2 :]
    yield word.upper()
    yield word.title().replace("_", "")
    yield word.replace("_", "-")
    yield word + " "


def renamed(path, key, to):
    record = copy.deepcopy(WHOLE)
    owner = record
    for step in path:
        owner = owner[step]
    owner[to] = owner.pop(key)
    return record


CASES = [(path, key) for path, key in places(WHOLE)]


def test_a_record_with_every_key_is_read_as_a_whole():
    assert parse_record(WHOLE).unread == ()
    assert len(CASES) == 54
    named = set(
        re.findall(r"`(?:ieat(?:_meta)?\.)?(\w+)`", README.read_text(encoding="utf-8").partition("## Labels")[0])
    )
    missing = {key for path, key in CASES if path} - named
    assert missing == set(), "keys that data/README.md says nothing of"


@pytest.mark.parametrize(("path", "key"), CASES, ids=[".".join(map(str, (*path, key))) for path, key in CASES])
def test_every_slip_is_told_with_the_right_name(path, key):
    there = {name for where, name in CASES if where == path}
    for to in sorted(set(slips(key)) - there - {""}):
        record = renamed(path, key, to)
        if (not path) or key in ("turn_id", "codec"):  # that cannot be left out
            with pytest.raises(RecordError, match=re.escape(f"; is it {to!r}? [")):
                parse_record(record)
            continue
        ((place, near),) = parse_record(record).unread
        assert place.split(".")[-1] == to, to
        assert near.strip("'") == key or keys._slips(to, near.strip("'")) <= 1, (to, near)


@pytest.mark.parametrize("slot", keys.SLOTS)
def test_every_slip_in_a_slot_is_told(slot):
    for to in sorted({word for word in slips(slot) if re.fullmatch(r"\w+", word)} - {*keys.SLOTS, slot}):
        record = copy.deepcopy(WHOLE)
        record["turns"][0]["ieat"]["think"] = {"template": f"The user is {{{to}}}, {{tone}}."}
        ((place, near),) = parse_record(record).unread
        assert place == f"ieat.think.template {{{to}}}"
        assert near.strip("'") == slot or keys._slips(to, near.strip("'")) <= 1


def test_the_slots_are_what_injection_knows():
    known = {"response_emotion"}
    for before in ("happy", "sad"):
        first = {**TURN, "ieat": {**TURN["ieat"], "emotion": {"label": before}}}
        record = parse_record({**WHOLE, "turns": [first, {**TURN, "turn_id": 2}]})
        known |= set(_facts(record, 1, "en"))
    assert known == set(keys.SLOTS)


def test_what_is_a_user_s_own_or_humdial_s_is_left_alone():
    own = {"split": "train", "topic": "keys", "score": 3, "annotators": ["a"], "nested": {"emotoin": 1}}
    record = {**WHOLE, **own, "turns": [{**TURN, **own, "confidence": 0.3, "start": 1.0, "speaker_name": "x"}]}
    assert parse_record(record).unread == ()
    # Inside of ours, everything is ours.
    record = {**WHOLE, "turns": [{**TURN, "ieat": {"mood": "low", "emotion": {"valence": 1}}}]}
    assert parse_record(record).unread == (("ieat.mood", ""), ("ieat.emotion.valence", ""))


def test_what_stands_in_the_wrong_place_is_told():
    record = {**WHOLE, "ieat": {}, "turns": [{**TURN, "ieat_meta": {}}]}
    unread = dict(parse_record(record).unread)
    assert unread == {"ieat": "'ieat' of a turn", "ieat_meta": "'ieat_meta' of the dialogue"}


def test_keys_of_any_kind_and_length_are_read_quickly():
    odd = {"": 1, "x" * 100_000: 2, "ünï": 3, "turn\nid": None, "[]": {}}
    unread = parse_record({**WHOLE, **odd, "turns": [{**TURN, "ieat": odd}]}).unread
    assert len(unread) >= len(odd)


SAID = r"2 of 3 dialogues have keys that nobody reads: 'ieat\.caus' x 2 \(is it 'cause'\?\), 'ieat\.mood' x 1"


@pytest.fixture
def careless(tmp_path):
    for name in ("a", "b"):
        write_wav(tmp_path / f"{name}.wav", np.random.default_rng(0).normal(size=16000).astype("f") * 0.1)
    turn = {"turn_id": 1, "text": "x", "emotion": "sad", "response_text": "y", "split_audio_file": "a.wav"}
    ieats = ({"caus": {"text": "x"}}, {"caus": None, "mood": 3}, {"cause": {"text": "x"}})
    records = [{"dialogue_id": f"d{n}", "turns": [turn | {"ieat": ieat}]} for n, ieat in enumerate(ieats)]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_check_counts_them_and_fails_where_they_are_many(careless, capsys):
    assert prepare.main(["check", "--records", str(careless)]) == 1
    said = capsys.readouterr().err
    assert re.search(SAID, said)
    assert "all good" not in said
    assert "misspelt keys" in said
    assert prepare.main(["check", "--records", str(careless), "--max-bad-share", "0.7"]) == 0
    assert "3 records, none bad" in capsys.readouterr().err


def test_a_key_of_a_user_s_own_in_ours_is_told_but_accepted(careless, capsys):
    careless.write_text(careless.read_text().replace('caus"', 'mood_of_day"'))
    assert prepare.main(["check", "--records", str(careless)]) == 0
    said = capsys.readouterr().err
    assert "'ieat.mood_of_day' x 2" in said
    assert "all good" not in said


def test_training_and_scoring_say_one_line(careless, capsys):
    open_sources({"mine": SourceConfig(str(careless))}, Quarantine(0.0))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(SAID, line)
    assert line.startswith(str(careless))
    read_items(careless, None, 5.0)
    assert re.search(SAID, capsys.readouterr().err)
