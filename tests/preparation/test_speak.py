"""`prepare speak`, with programs that speak well, badly or never, and with the packaged voice."""

import json
import sys

import pytest
import soundfile
from helpers.corpus_trees import lines, sound

from ieat_jax import prepare
from ieat_jax.data.records import read_records
from ieat_jax.errors import UserError

# Speaks by a hum as long as its words; a line of a log per call. What it does of some words is in `bad`.
PROGRAM = """
import json, sys, time, wave
out, log, *said = sys.argv[1:]
with open(log, "a") as file:
    file.write(json.dumps(said) + "\\n")
text = said[0]
if "CRASH" in text:
    sys.exit("no such voice")
if "HANG" in text:
    time.sleep(60)
if "NOISE" in text:
    open(out, "wb").write(b"no sound")
elif "NOTHING" not in text:
    with wave.open(out, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(bytes([0, 0, 0, 64, 0, 0, 0, 192] * (400 + 20 * len(text))))
"""


def turn(number, text, reply="", **more):
    ours = {"turn_id": number, "text": text} | ({"response_text": reply} if reply else {})
    return ours | more


def dialogue(name, *turns, **meta):
    return {"dialogue_id": name, "turns": list(turns), "ieat_meta": {"language": "en"} | meta}


def written(tmp_path, *dialogues):
    path = tmp_path / "in" / "words.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text(lines(dialogues), encoding="utf-8")
    return path


def speak(tmp_path, records, *arguments, fields="{text}", code=0):
    """Speak by the program; (its calls, {dialogue_id: record})."""
    script, log, out = tmp_path / "say it.py", tmp_path / "calls.jsonl", tmp_path / "out"
    script.write_text(PROGRAM)
    log.write_text("")
    template = f"'{sys.executable}' '{script}' {{out}} '{log}' {fields}"
    given = ["speak", str(records), "--out", str(out), "--command", template, "--workers", "1", *arguments]
    assert prepare.main(given) == code
    calls = [json.loads(line) for line in log.open()]
    made = {record.dialogue_id: record for record in read_records(out / "words.jsonl")} if code == 0 else {}
    return calls, made


def test_a_program_speaks_what_has_no_sound(tmp_path, capsys):
    first = turn(1, "I lost my keys. [sigh]", "Oh no.", emotion="sad", ieat={"response": {"emotion": "comfort"}})
    records = written(tmp_path, dialogue("a", first, turn(2, "Yes."), speaker="anna"), dialogue("b", turn(1, "Yes.")))
    calls, made = speak(tmp_path, records, fields="{text} {emotion} {role} {language} {speaker}")
    assert calls == [
        ["I lost my keys.", "sad", "user", "en", "anna"], ["Oh no.", "comfort", "reply", "en", "assistant"],
        ["Yes.", "neutral", "user", "en", "anna"], ["Yes.", "neutral", "user", "en", "user"],
    ]  # fmt: skip
    one = made["a"].turns[0]
    assert (one.text, one.emotion, one.response_emotion) == ("I lost my keys. [sigh]", "sad", "comfort")
    assert soundfile.info(tmp_path / "out" / one.audio).frames == 4 * (400 + 20 * len("I lost my keys."))
    assert soundfile.info(tmp_path / "out" / one.response_audio).frames == 4 * (400 + 20 * len("Oh no."))
    assert "python" in made["a"].raw["ieat_meta"]["spoken_by"]
    assert made["b"].turns[0].response_audio is None
    assert "4 of 4 utterances spoken" in capsys.readouterr().out
    assert {record.unread for record in made.values()} == {()}
    assert prepare.main(["check", "--records", str(tmp_path / "out/words.jsonl")]) == 0


def test_equal_words_are_spoken_once_and_never_again(tmp_path):
    records = written(tmp_path, *(dialogue(f"d{number}", turn(1, "Yes.", "And?")) for number in range(5)))
    calls, made = speak(tmp_path, records)
    assert sorted(calls) == [["And?"], ["Yes."]]
    assert len({record.turns[0].audio for record in made.values()}) == 1
    before = (tmp_path / "out/words.jsonl").read_bytes()
    calls, _ = speak(tmp_path, records)
    assert calls == []
    assert (tmp_path / "out/words.jsonl").read_bytes() == before


def test_what_was_stopped_goes_on(tmp_path, capsys):
    """A dialogue that fails leaves the others' sound; when its words are repaired, it alone is spoken."""
    good = [dialogue(f"d{number}", turn(1, f"Word {number}.")) for number in range(4)]
    assert len(speak(tmp_path, written(tmp_path, *good, dialogue("x", turn(1, "CRASH"))), code=1)[0]) == 5
    assert "turn 1 (user, 'CRASH')" in (said := capsys.readouterr().err)
    assert "ended with exit code 1: no such voice" in said
    assert not (tmp_path / "out/words.jsonl").exists()
    calls, made = speak(tmp_path, written(tmp_path, *good, dialogue("x", turn(1, "Well."))))
    assert calls == [["Well."]]
    assert len(made) == 5
    assert not list((tmp_path / "out").rglob("*.partial.wav"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("CRASH", "ended with exit code 1: no such voice"),
        ("HANG", "did not end within 1 s"),
        ("NOTHING", "wrote no file to {out}"),
        ("NOISE", "cannot be decoded"),
    ],
)
def test_words_that_cannot_be_spoken_are_set_aside(text, why, tmp_path):
    records = written(tmp_path, dialogue("good", turn(1, "Yes.")), dialogue("bad", turn(1, "Yes."), turn(2, text)))
    _, made = speak(tmp_path, records, "--max-bad-share", "0.5", "--timeout", "1")
    assert list(made) == ["good"]
    (note,) = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").open()]
    assert (note["id"], note["code"]) == ("bad", "not_spoken")
    assert why in json.dumps(note)
    assert f"bad: turn 2 (user, '{text}')" in note["message"]


def test_a_program_that_always_fails_is_not_asked_for_ever(tmp_path):
    records = written(tmp_path, *(dialogue(f"d{number}", turn(1, f"CRASH {number}")) for number in range(60)))
    calls, _ = speak(tmp_path, records, code=1)
    assert len(calls) < 20


@pytest.mark.parametrize(
    "text",
    ["$(touch pwned) `touch pwned`; touch pwned", "\"quotes\" and 'more'", "{out} {text} {role}", "{", "a } b { c",
     "你好, как дела?", "* ? ~ && | > x"],
)  # fmt: skip
def test_words_reach_the_program_as_they_are(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls, _ = speak(tmp_path, written(tmp_path, dialogue("a", turn(1, text))))
    assert calls == [[text]]
    assert not (tmp_path / "pwned").exists()


def test_words_are_never_an_option(tmp_path):
    calls, _ = speak(tmp_path, written(tmp_path, dialogue("a", turn(1, "--help me"))))
    assert calls == [[" --help me"]]


def test_one_side_alone_and_sound_that_is_there(tmp_path):
    sound(tmp_path / "corpus/mine.wav")
    first = turn(1, "Heard already.", "So?", split_audio_file="mine.wav")
    records = written(tmp_path, dialogue("a", first, turn(2, "Not yet.", "Fine.")))
    with pytest.raises(UserError, match=r"a: has recordings already\. Give the folder that their paths start from"):
        speak(tmp_path, records, "--what", "user")
    with pytest.raises(UserError, match="has to lie inside of --audio-root"):
        speak(tmp_path, records, "--audio-root", str(tmp_path / "corpus"))
    (tmp_path / "mine.wav").write_bytes((tmp_path / "corpus/mine.wav").read_bytes())
    calls, made = speak(tmp_path, records, "--what", "user", "--audio-root", str(tmp_path))
    assert calls == [["Not yet."]]
    assert [turn.audio.partition("/")[0] for turn in made["a"].turns] == ["mine.wav", "out"]
    check = ["check", "--records", str(tmp_path / "out/words.jsonl"), "--audio-root", str(tmp_path)]
    assert prepare.main(check) == 0
    assert sorted(speak(tmp_path, records, "--what", "reply", "--audio-root", str(tmp_path))[0]) == [["Fine."], ["So?"]]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("nobody-says-this {text} {out}", "there is no program nobody-says-this"),
        ("python {text}", "needs {out} in its words"),
        ("python", "needs {text} and {out} in its words"),
        ("", "needs {text} and {out} in its words"),
        ("python '{text} {out}", "cannot be read"),
    ],
)
def test_commands_that_cannot_be_used(template, message, tmp_path):
    records = written(tmp_path, dialogue("a", turn(1, "Yes.")))
    with pytest.raises(UserError, match=message):
        prepare.main(["speak", str(records), "--out", str(tmp_path / "out"), "--command", template])


def packaged(tmp_path, records, name, *arguments):
    out = tmp_path / name
    assert prepare.main(["speak", str(records), "--out", str(out), *arguments]) == 0
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*.wav")}


def test_the_packaged_voice(tmp_path):
    sad = turn(1, "I lost my keys again.", "Oh no.", emotion="sad")
    glad = turn(2, "I lost my keys again.", emotion="happy")
    records = written(tmp_path, dialogue("a", sad, glad))
    one = packaged(tmp_path, records, "one", "--workers", "1")
    assert len(one) == 3
    assert len(set(one.values())) == 3  # the same words sound otherwise in another emotion
    assert packaged(tmp_path, records, "two", "--workers", "2") == one
    foreign = written(tmp_path, dialogue("a", sad), dialogue("b", turn(1, "你好"), language="zh"))
    packaged(tmp_path, foreign, "three", "--max-bad-share", "0.5")
    (note,) = [json.loads(line) for line in (tmp_path / "three/quarantine.jsonl").open()]
    assert "the packaged voice speaks English, this is 'zh'; give a --command" in note["message"]
