"""Lines that are no record, of every kind that is known, and good ones beside them."""

import json

from ieat_jax.data.jsonl import MAX_LINE_BYTES

CODEC = {"name": "ieat-mel", "rate": 50, "vocab_size": 258, "hash": "abc"}


def turn(number=1, **extra):
    return {"turn_id": number, "text": "I lost my keys.", "emotion": "sad", "response_text": "Oh no."} | extra


def dialogue(name="d1", turns=None, **extra):
    return {"dialogue_id": name, "turns": turns or [turn()]} | extra


GOOD = json.dumps(dialogue("good"))


def line(**changes):
    return json.dumps(dialogue("bad") | changes)


def bad_turn(**changes):
    return line(turns=[turn(**changes)])


BAD = {
    "latin1": (GOOD.encode("utf-8").replace(b"Oh", b"\xe4h"), "not_utf8"),
    "utf16": (GOOD.encode("utf-16"), "not_utf8"),
    "cut utf-8": (GOOD.encode()[:-30] + "ö".encode()[:1], "not_utf8"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), "bom"),
    "two objects": (GOOD + GOOD, "not_json"),
    "cut": (GOOD[:-5], "not_json"),
    "html": ("<html>", "not_json"),
    "raw control character": (GOOD.replace("Oh", "O\x01h"), "not_json"),
    "list": ("[1]", "not_an_object"),
    "string": ('"x"', "not_an_object"),
    "null": ("null", "not_an_object"),
    "long": ('{"x": "' + "a" * MAX_LINE_BYTES + '"}', "line_too_long"),
    "very long": ("a" * (3 * MAX_LINE_BYTES), "line_too_long"),
    "duplicate key": ('{"dialogue_id": "a", "dialogue_id": "b", "turns": []}', "duplicate_key"),
    "duplicate inner key": (GOOD.replace('"text"', '"turn_id": 2, "text"'), "duplicate_key"),
    "NaN": (GOOD.replace('"sad"', "NaN"), "not_finite"),
    "Infinity": (GOOD.replace('"sad"', "-Infinity"), "not_finite"),
    "huge float": (line(x=1).replace("1}", "1e999}"), "huge_number"),
    "huge integer": (line(x=1).replace('"x": 1', '"x": ' + "9" * 5000), "huge_number"),
    "lone surrogate": (GOOD.replace("Oh", "\\ud800"), "surrogate"),
    "surrogate in a key": (GOOD.replace('"emotion"', '"\\udfff"'), "surrogate"),
    "NUL": (GOOD.replace("Oh", "\\u0000"), "nul"),
    "deep": (line(x=1).replace('"x": 1', '"x": ' + "[" * 60 + "]" * 60), "too_deep"),
    "very deep": ("[" * 100_000 + "]" * 100_000, "too_deep"),
    "no id": ('{"turns": []}', "missing_key"),
    "number as id": (line(dialogue_id=7), "wrong_type"),
    "blank id": (line(dialogue_id=" "), "no_id"),
    "no turns": (line(turns=[]), "no_turns"),
    "turns as object": (line(turns={}), "wrong_type"),
    "turn as string": (line(turns=["a"]), "wrong_type"),
    "turn_id from 0": (bad_turn(turn_id=0), "turn_order"),
    "turn_id twice": (line(turns=[turn(1), turn(1)]), "turn_order"),
    "turn_id with a gap": (line(turns=[turn(1), turn(3)]), "turn_order"),
    "turn_id true": (bad_turn(turn_id=True), "wrong_type"),
    "turn_id string": (bad_turn(turn_id="1"), "wrong_type"),
    "turn_id fraction": (bad_turn(turn_id=1.0), "wrong_type"),
    "text number": (bad_turn(text=3), "wrong_type"),
    "response list": (bad_turn(response_text=["a"]), "wrong_type"),
    "audio number": (bad_turn(split_audio_file=3), "wrong_type"),
    "ieat list": (bad_turn(ieat=[]), "wrong_type"),
    "emotion string": (bad_turn(ieat={"emotion": "sad"}), "wrong_type"),
    "events": (bad_turn(ieat={"events": [1]}), "wrong_type"),
    "evidence elsewhere": (bad_turn(ieat={"cause": {"text": "x", "evidence": [{"turn_id": 2}]}}), "no_such_turn"),
    "units without codec": (bad_turn(ieat={"response": {"units": [1]}}), "no_codec"),
    "negative unit": (bad_turn(ieat={"response": {"units": [-1]}}), "wrong_type"),
    "fraction unit": (bad_turn(ieat={"response": {"units": [1.5]}}), "wrong_type"),
    "huge unit": (bad_turn(ieat={"response": {"units": [2**40]}}), "wrong_type"),
    "unit beyond the codec": (
        line(turns=[turn(ieat={"response": {"units": [258]}})], ieat_meta={"codec": CODEC}),
        "unit_range",
    ),
    "codec without size": (
        line(turns=[turn(ieat={"response": {"units": [1]}})], ieat_meta={"codec": CODEC | {"vocab_size": "9"}}),
        "wrong_type",
    ),
    "half a codec": (line(ieat_meta={"codec": {"name": "x"}}), "missing_key"),
    "language": (line(ieat_meta={"language": 3}), "wrong_type"),
    "windows path": (bad_turn(split_audio_file="audio\\a.wav"), "bad_path"),
    "same id": (GOOD, "duplicate_id"),
}
