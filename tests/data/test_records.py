import json
import os
import pickle
import sys
import tracemalloc

import numpy as np
import pytest
from helpers.bad_records import BAD, CODEC, GOOD, bad_turn, dialogue, turn

from ieat_jax.data.quarantine import Quarantine, QuarantineError
from ieat_jax.data.records import (
    RecordError,
    iter_records,
    parse_record,
    read_records,
    to_json,
    with_units,
    without_events,
    write_records,
)

FULL = dialogue(
    "zh_0001_0001",
    [
        {
            "turn_id": 1, "input_text": "我的钥匙丢了 [sigh]", "text": "alt", "input_emotion": "sadness",
            "split_audio_file": "task1/turn_1.wav", "response_text": "别急。", "response_audio": "m/./r_1.wav",
            "challenge_key": {"x": [1, 2.5, None, True]},
            "ieat": {
                "emotion": {"label": "sad", "intensity": "strong", "source": "model:Qwen", "raw": "sadness"},
                "tone": "又慢又低的声音", "events": ["sigh", "cough"],
                "cause": {"text": "钥匙丢了", "evidence": [{"turn_id": 1, "quote": "钥匙丢了"}], "source": "human"},
                "think": {"text": "他很难过。"},
                "response": {"emotion": "安慰", "units": [3, 0, 257, 9]},
                "translation": "I lost my keys", "later": 1,
            },
        },
        {"turn_id": 2, "text": "line\u2028break", "emotion": "weird", "response_text": "", "ieat": {"cause": None}},
    ],
    ieat_meta={"language": "zh", "kind": "congruent", "speaker": "s1", "codec": CODEC, "note": "kept"},
    source="elsewhere",
)  # fmt: skip


def test_every_field_is_read():
    record = parse_record(FULL)
    assert (record.dialogue_id, record.language, record.kind, record.speaker) == (
        "zh_0001_0001",
        "zh",
        "congruent",
        "s1",
    )
    assert record.codec == CODEC
    first, second = record.turns
    assert first.text == "我的钥匙丢了 [sigh]"
    assert (first.emotion, first.raw_emotion, first.intensity) == ("sad", "sadness", "strong")
    assert first.emotion_source == "model:Qwen"
    assert (first.tone, first.events) == ("又慢又低的声音", ("sigh", "cough"))
    assert (first.audio, first.response_audio) == ("task1/turn_1.wav", "m/./r_1.wav")
    assert (first.response_text, first.response_emotion) == ("别急。", "comfort")
    assert (first.cause.text, first.cause.evidence, first.cause.source) == ("钥匙丢了", ((1, "钥匙丢了"),), "human")
    assert first.think_text == "他很难过。"
    np.testing.assert_array_equal(first.units, [3, 0, 257, 9])
    assert first.units.dtype == np.int32
    assert (second.emotion, second.raw_emotion, second.cause, second.units) == (None, "weird", None, None)
    assert second.response_text == ""


def test_reading_and_writing_is_lossless(tmp_path):
    path = tmp_path / "sub" / "r.jsonl"
    assert write_records(path, [FULL, dialogue("d2")]) == 2
    records = read_records(path)
    assert [to_json(record) for record in records] == [FULL, dialogue("d2")]
    again = tmp_path / "again.jsonl"
    write_records(again, records)
    assert read_records(again) == records
    assert list(tmp_path.glob("**/*.partial")) == []


def test_units_can_be_added_and_are_written(tmp_path):
    record = parse_record(dialogue(turns=[turn(1), turn(2)], ieat_meta={"language": "en"}))
    spoken = with_units(record, {2: np.array([5, 6])}, CODEC)
    write_records(tmp_path / "u.jsonl", [spoken])
    (again,) = read_records(tmp_path / "u.jsonl")
    assert again.turns[0].units is None
    np.testing.assert_array_equal(again.turns[1].units, [5, 6])
    assert again.codec == CODEC
    assert again.language == "en"
    assert to_json(record) == dialogue(turns=[turn(1), turn(2)], ieat_meta={"language": "en"})


def test_a_minimal_test_set_record_and_defaults():
    record = parse_record({"dialogue_id": "x", "turns": [{"turn_id": 1, "split_audio_file": "a.wav"}]})
    only = record.turns[0]
    assert (only.text, only.emotion, only.response_text, only.events) == ("", None, "", ())
    assert record.language == "en"
    assert parse_record(dialogue(turns=[turn(text="你好")])).language == "zh"


def test_tags_in_the_text_are_events_unless_annotated():
    assert parse_record(dialogue(turns=[turn(text="Oh [sigh] no [clears throat]")])).turns[0].events == (
        "sigh",
        "clears throat",
    )
    assert parse_record(dialogue(turns=[turn(text="Oh [sigh]", ieat={"events": []})])).turns[0].events == ()
    assert without_events("Oh [sigh]  no.[laughter]") == "Oh no."


@pytest.mark.parametrize(
    ("ieat", "label"),
    [({}, "sad"), ({"emotion": None}, None), ({"emotion": {"label": None}}, None),
     ({"emotion": {"label": "joy"}}, "happy"), ({"emotion": {"intensity": "slight"}}, "sad")],
)  # fmt: skip
def test_our_label_overrules_also_as_unknown(ieat, label):
    assert parse_record(dialogue(turns=[turn(ieat=ieat)])).turns[0].emotion == label


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_or_quarantined(name, tmp_path):
    content, code = BAD[name]
    content = content.encode() if isinstance(content, str) else content
    path = tmp_path / "r.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\r\n" + content + b"\n" + json.dumps(dialogue("last")).encode())
    with pytest.raises(RecordError) as caught:
        read_records(path)
    assert (caught.value.code, caught.value.line) == (code, 3)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert f"[{code}]" in str(caught.value)
    assert len(str(caught.value)) < 400
    quarantine = Quarantine(0.5, tmp_path / "bad.jsonl")
    records = read_records(path, quarantine=quarantine)
    assert [record.dialogue_id for record in records] == ["good", "last"]
    assert quarantine.summary() == {code: 1}
    assert f"{path}:3" in quarantine
    quarantine.expect(len(records))
    assert quarantine.total == 3
    quarantine.check()


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("new", [None, True, -1, 0, 2**63, 1.5, "", " ", "x", [], [None], {}, {"x": 1}], ids=repr)
def test_a_value_of_any_type_anywhere_is_a_record_or_an_error(new, tmp_path):
    lines = [json.dumps(replaced(FULL, path, new)) for path in places(FULL) if path]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    found = [item for _, item in iter_records(tmp_path / "r.jsonl")]
    assert len(found) == len(lines)
    for record in found:
        if not isinstance(record, RecordError):
            to_json(record)


def test_a_flipped_bit_is_a_record_or_an_error(tmp_path):
    whole = json.dumps(FULL, ensure_ascii=False).encode()
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        (tmp_path / "r.jsonl").write_bytes(damaged)
        assert all(isinstance(item, RecordError) or to_json(item) for _, item in iter_records(tmp_path / "r.jsonl"))


def calls_of_python(work):
    """How many functions of Python are called."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_units_do_not_cost_a_call_each(tmp_path):
    def made(units):
        turns = [turn(1, ieat={"response": {"units": [7] * units}})]
        write_records(tmp_path / "r.jsonl", [dialogue(turns=turns, ieat_meta={"codec": CODEC})])
        return calls_of_python(lambda: read_records(tmp_path / "r.jsonl"))

    made(10)  # fills what is remembered
    assert made(5000) == made(10) < 300


def test_records_take_about_as_much_memory_as_their_file(tmp_path):
    path = tmp_path / "r.jsonl"
    turns = [{**turn, "ieat": FULL["turns"][0]["ieat"] | {"response": {}}} for turn in (turn(n) for n in range(1, 6))]
    write_records(path, [dialogue(f"d{number}", turns) for number in range(300)])
    read_records(path)
    tracemalloc.start()
    records = read_records(path)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(records) == 300
    assert memory < 4 * path.stat().st_size


@pytest.mark.parametrize("key", ["split_audio_file", "response_audio"])
@pytest.mark.parametrize(
    "audio",
    ["/etc/passwd", "../x.wav", "a/../../x.wav", "..", "//host/x.wav", "C:\\x.wav", "c:/x.wav", "\\x.wav", "..\\x.wav",
     "a\\..\\..\\x.wav", "./../x.wav"],
)  # fmt: skip
def test_a_path_out_of_the_folder_is_always_fatal(key, audio, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(GOOD + "\n" + bad_turn(**{key: audio}))
    quarantine = Quarantine(1.0)
    with pytest.raises(RecordError, match=r"r\.jsonl:2: turn 1: .*leads out of the audio folder") as caught:
        read_records(path, quarantine=quarantine)
    assert caught.value.code == "outside_root"


@pytest.mark.parametrize("audio", ["a.wav", "a/../b.wav", "..a.wav", "a b/ü.wav", "./x.wav", "ab:c.wav", "~x.wav"])
def test_paths_inside_stay_as_written(audio):
    assert parse_record(dialogue(turns=[turn(split_audio_file=audio)])).turns[0].audio == audio


def test_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "r.jsonl"
    odd = dialogue("a\u2028b", [turn(text="x\u2029y\x85z")])
    path.write_bytes((json.dumps(odd, ensure_ascii=False) + "\r\n" + GOOD).encode())
    assert [record.dialogue_id for record in read_records(path)] == ["a\u2028b", "good"]


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    paths = [(tmp_path / "no.jsonl", "missing"), (tmp_path, "not_a_file"), (tmp_path / "pipe.jsonl", "not_a_file")]
    for path, code in (*paths, ("/dev/zero", "not_a_file"), ("a\0b", "unreadable"), ("x" * 5000, "unreadable")):
        with pytest.raises(RecordError, match=code):
            read_records(path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(RecordError, match="holds no records"):
        read_records(empty)


def test_too_many_bad_lines_stop_the_run(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join([GOOD, "{", "{"]))
    quarantine = Quarantine(0.1)
    quarantine.expect(len(read_records(path, quarantine=quarantine)))
    with pytest.raises(QuarantineError, match="2 of 3 records are bad"):
        quarantine.check()


def test_iter_gives_every_line(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join([GOOD, "{", "", json.dumps(dialogue("x"))]))
    found = [(number, isinstance(item, RecordError)) for number, item in iter_records(path)]
    assert found == [(1, False), (2, True), (4, False)]


def test_errors_unpickle():
    error = RecordError("x", "file", 3, "wrong")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.code, again.line) == (str(error), "x", 3)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.jsonl"
    write_records(path, [dialogue("old")])
    with pytest.raises(ValueError, match="JSON compliant"):
        write_records(path, [dialogue("new"), {"x": float("nan")}])
    assert [record.dialogue_id for record in read_records(path)] == ["old"]
