"""`prepare attribute` by the command line, asked of a server whose answers are right, wrong, odd or missing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.corpus_trees import lines
from helpers.fake_endpoint import endpoint

from ieat_jax import prepare
from ieat_jax.data.injection import provenance
from ieat_jax.data.records import read_records
from ieat_jax.errors import UserError

SHARED = Path(os.environ.get("IEAT_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
KEYS = {
    "dialogue_id": "keys", "mine": 1, "turns": [
        {"turn_id": 1, "text": "I lost  my keys\nagain.", "response_text": "Oh no, the red ones?"},
        {"turn_id": 2, "text": "Yes. And it rains.", "emotion": "sad", "ieat": {"tone": "a soft voice"}},
    ],
}  # fmt: skip
FULL = {
    "emotion": "frustrated", "intensity": "high", "style": "comforting", "think": "The user is angry about the keys.",
    "cause": {"text": "the lost keys", "evidence": [{"turn": 1, "quote": "lost my keys again"}]},
}  # fmt: skip
SECOND = {
    "intensity": "slight", "style": "encourage", "think": "They feel sad: it rains.",
    "cause": {"text": "the rain", "evidence": [{"turn": 2, "quote": "it rains"}, {"turn": 1, "quote": "the red ones"}]},
}  # fmt: skip


def turn_of(body):
    return int(re.search(r"Annotate turn (\d+)", body["messages"][0]["content"])[1])


def right(body, _number):
    """A right answer to the questions about KEYS, with the keys that were asked for and no others."""
    answer = FULL if turn_of(body) == 1 else SECOND
    asked = re.findall(r'^- "(\w+)"', body["messages"][0]["content"], re.MULTILINE)
    assert set(asked) <= set(answer)
    return json.dumps({name: answer[name] for name in asked})


def written(tmp_path, *records):
    path = tmp_path / "in.jsonl"
    path.write_text(lines(records or [KEYS]), encoding="utf-8")
    return path


def attribute(tmp_path, address, *arguments, records=None, out="out", code=0):
    records = records or written(tmp_path)
    given = ["attribute", str(records), "--out", str(tmp_path / out), "--llm", address, "--model", "wise"]
    assert prepare.main([*given, *arguments]) == code
    return read_records(tmp_path / out / records.name) if (tmp_path / out / records.name).exists() else []


def left_out(tmp_path, out="out"):
    path = tmp_path / out / "quarantine.jsonl"
    return [json.loads(line) for line in path.open()] if path.exists() else []


ALL = ("--what", "emotion", "intensity", "cause", "style", "think")


def test_what_lacks_is_asked_for_and_what_is_there_stays(tmp_path, capsys):
    with endpoint(right) as served:
        (record,) = attribute(tmp_path, served.address, *ALL)
    first, second = record.turns
    assert (first.emotion, first.intensity, first.response_emotion) == ("anger", "strong", "comfort")
    assert first.emotion_source == "model:wise"
    assert (first.cause.text, first.cause.source) == ("the lost keys", "model:wise")
    assert first.cause.evidence == ((1, "lost  my keys\nagain"),)  # as it stands in the record
    assert first.think_text == "The user is angry about the keys."
    assert (second.emotion, second.emotion_source, second.intensity, second.tone) == (
        "sad", None, "slight", "a soft voice",
    )  # fmt: skip
    assert second.cause.evidence == ((2, "it rains"), (1, "the red ones"))
    assert provenance(record, 1)["cause"] == "model:wise"
    assert second.raw["attributed"] == dict.fromkeys(("intensity", "cause", "style", "think"), "model:wise")
    assert first.text == KEYS["turns"][0]["text"]
    assert record.raw["mine"] == 1
    said = capsys.readouterr().out
    assert "2 of 2 turns lack what is asked for: 1 emotion, 2 intensity, 2 cause, 2 style, 2 think" in said
    assert "2 questions: 2 to ask; about " in said
    assert "emotion: 1 asked = 1 given + 0 said to be none + 0 left out: anger 1" in said
    # The question shows the dialogue up to the turn, and what is known of it.
    one, two = (body["messages"][0]["content"] for body in sorted(served.bodies, key=turn_of))
    assert "Turn 1, user: I lost my keys again.\nTurn 1, assistant: Oh no, the red ones?\n" in one
    assert "And it rains" not in one
    assert "The user's emotion is known: sad. What is known of it: a soft voice." in two
    assert '"emotion": what' not in two
    # Once it is there, nobody is asked.
    with endpoint(right) as served:
        records = tmp_path / "out/in.jsonl"
        attribute(tmp_path, served.address, *ALL, records=records, out="more")
        assert served.requests == []
    assert (tmp_path / "more/in.jsonl").read_bytes() == records.read_bytes()


def wrong_cause(**cause):
    return json.dumps(FULL | {"cause": {"text": "x", "evidence": [{"turn": 1, "quote": "lost my keys"}]} | cause})


WRONG = {
    "no words": ("I cannot say.", "no_json", "holds no JSON object"),
    "half": ('{"emotion": "sad", "intens', "no_json", "holds no JSON object"),
    "a list": ('["sad"]', "no_json", "holds no JSON object"),
    "nothing": ("", "no_json", "holds no JSON object"),
    "deep": ('{"a":' * 5000, "no_json", "holds no JSON object"),
    "label": (json.dumps(FULL | {"emotion": "blue"}), "unknown_label", '"emotion" is "blue", none of neutral, happy'),
    "number": (json.dumps(FULL | {"intensity": 3}), "unknown_label", '"intensity" is 3, none of slight'),
    "style": (json.dumps(FULL | {"style": None}), "unknown_label", '"style" is null, none of'),
    "lacks": (json.dumps({"emotion": "sad"}), "missing", 'has no key "style"'),
    "invented": (
        wrong_cause(evidence=[{"turn": 1, "quote": "lost my wallet"}]), "no_quote",
        "the quote 'lost my wallet' does not stand in turn 1 or before",
    ),
    "later": (wrong_cause(evidence=[{"turn": 2, "quote": "it rains"}]), "no_quote", "does not stand in turn 1"),
    "own reply": (wrong_cause(evidence=[{"turn": 1, "quote": "the red ones"}]), "no_quote", "does not stand in turn 1"),
    "turn": (wrong_cause(evidence=[{"turn": 2, "quote": "my keys"}]), "wrong_turn", "stands in turn 1, not in 2"),
    "true": (wrong_cause(evidence=[{"turn": True, "quote": "my keys"}]), "wrong_turn", "stands in turn 1, not in True"),
    "unquoted": (wrong_cause(evidence=[]), "no_quote", '"evidence", a list with a quote'),
    "wordless": (wrong_cause(text=" "), "no_text", '"text" has to be a text'),
    "a cause of words": (json.dumps(FULL | {"cause": "keys"}), "no_quote", '"cause" needs "text" and "evidence"'),
    "thinking": (
        json.dumps(FULL | {"think": "The user is happy."}), "thinking_differs",
        "does not name what the user feels: anger",
    ),
    "long": (json.dumps(FULL | {"think": "angry " * 300}), "too_long", "more than 1000 characters"),
    "NUL": (json.dumps(FULL | {"think": "angry \0"}), "bad_text", "NUL"),
    "half a pair": (json.dumps(FULL | {"think": "angry \ud800"}), "bad_text", "is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_asked_again_with_what_is_wrong(kind, tmp_path):
    answer, code, why = WRONG[kind]

    def first_wrong(body, number):
        return answer if turn_of(body) == 1 and len(body["messages"]) == 1 else right(body, number)

    with endpoint(first_wrong) as served:
        (record,) = attribute(tmp_path, served.address, *ALL)
        assert record.turns[0].cause.text == "the lost keys"
        assert len(served.requests) == 3
        asked = served.bodies[-1]["messages"]
        assert [message["role"] for message in asked] == ["user", "assistant", "user"]
        assert asked[1]["content"] == answer
        assert why in asked[2]["content"]
    with endpoint(lambda body, number: answer if turn_of(body) == 1 else right(body, number)) as served:
        (record,) = attribute(tmp_path, served.address, *ALL, "--max-bad-share", "1", out="twice")
        assert len(served.requests) == 3
    notes = left_out(tmp_path, "twice")
    assert code in {note["code"] for note in notes}
    assert all(note["id"].startswith("keys: turn 1: ") for note in notes)
    fields = {note["id"].rpartition(" ")[2] for note in notes}
    ours = record.turns[0].raw.get("ieat", {})
    assert ("emotion" in ours, "cause" in ours, "think" in ours) == (
        "emotion" not in fields, "cause" not in fields, "think" not in fields,
    )  # fmt: skip


def test_too_many_wrong_answers_are_an_error_and_nothing_is_written(tmp_path, capsys):
    with endpoint(lambda *_: "no") as served:
        assert attribute(tmp_path, served.address, code=1) == []
    said = capsys.readouterr().err
    assert "7 of 7 fields that were asked for are left out, more than --max-bad-share 0.05. First: keys: turn 1" in said
    assert "holds no JSON object; all are in" in said
    assert len((tmp_path / "out/answers.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "frame", ["```json\n{}\n```", "Here it is: {} I hope it helps.", '<think>{{"a": 1}}</think>{}', "{{oops {}"]
)
def test_an_answer_may_stand_between_other_words(frame, tmp_path):
    frame = frame.replace("{{", "\0").replace("{}", "%s").replace("\0", "{").replace("}}", "}")
    with endpoint(lambda body, number: frame % right(body, number)) as served:
        (record,) = attribute(tmp_path, served.address, *ALL)
        assert len(served.requests) == 2
    assert record.turns[0].emotion == "anger"


def test_neutral_turns_have_no_cause_and_none_may_be_said(tmp_path, capsys):
    calm = {"emotion": "neutral", "intensity": None, "cause": None, "style": "neutral", "think": "The user is calm."}
    nothing = {"intensity": "slight", "style": "happy", "cause": None, "think": "sad"}
    with endpoint(lambda body, _: json.dumps(calm if turn_of(body) == 1 else nothing)) as served:
        (record,) = attribute(tmp_path, served.address, *ALL)
    first, second = record.turns
    assert (first.emotion, first.intensity, first.cause, second.cause) == ("neutral", None, None, None)
    assert "cause: 2 asked = 0 given + 2 said to be none + 0 left out" in capsys.readouterr().out


def test_what_is_annotated_as_unknown_or_has_no_words_is_not_asked_for(tmp_path, capsys):
    unknown = {"emotion": None, "ieat": {"cause": None, "response": {"emotion": None}, "think": None}}
    odd = {"emotion": "xxx", "ieat": {"cause": {"text": "x"}, "response": {"emotion": "happy"}}}
    turns = [{"turn_id": 1, "text": "a"} | unknown, {"turn_id": 2, "text": "b"} | odd, {"turn_id": 3, "text": ""}]
    turns.append({"turn_id": 4, "text": "c", "emotion": "neutral", "ieat": {"response": {"emotion": "sad"}}})
    with endpoint(right) as served:
        records = written(tmp_path, {"dialogue_id": "d", "turns": turns})
        attribute(tmp_path, served.address, records=records)
        assert served.requests == []
    assert "0 of 4 turns lack what is asked for: nothing; 1 more have no words to judge by" in capsys.readouterr().out


def test_chinese_turns_are_asked_in_chinese(tmp_path):
    record = {"dialogue_id": "d", "turns": [{"turn_id": 1, "text": "我又把钥匙弄丢了。"}]}
    record["ieat_meta"] = {"language": "zh"}
    answer = {
        "emotion": "难过", "intensity": "中等", "style": "安慰", "think": "用户很难过，因为钥匙丢了。",
        "cause": {"text": "钥匙丢了", "evidence": [{"turn": 1, "quote": "钥匙弄丢了"}]},
    }  # fmt: skip
    bad = answer | {"think": "用户很开心。"}
    said = [json.dumps(bad), json.dumps(answer, ensure_ascii=False)]
    with endpoint(lambda body, number: said[number - 1]) as served:
        (made,) = attribute(tmp_path, served.address, *ALL, records=written(tmp_path, record))
        assert "第 1 轮，用户：我又把钥匙弄丢了。" in served.bodies[0]["messages"][0]["content"]
        assert served.bodies[1]["messages"][2]["content"].startswith("这个回答不能用：")
    turn = made.turns[0]
    assert (turn.emotion, turn.intensity, turn.response_emotion) == ("sad", "moderate", "comfort")
    assert turn.cause.evidence == ((1, "钥匙弄丢了"),)


def test_replay_and_dry_run_ask_nobody(tmp_path, capsys):
    with endpoint(right) as served:
        attribute(tmp_path, served.address, "--dry-run", "--price", "1", "2")
        assert served.requests == []
        said = capsys.readouterr().out
        assert re.search(r"2 questions: 2 to ask; about \d{3} tokens to read, at most 800 to write: 0\.00 at", said)
        assert not (tmp_path / "out").exists()
        attribute(tmp_path, served.address)
        answers = ("--answers", str(tmp_path / "out/answers.jsonl"), "--replay")
        asked = len(served.requests)
    attribute(tmp_path, "http://127.0.0.1:9/v1", *answers, out="replayed")
    assert asked == 2
    assert (tmp_path / "replayed/in.jsonl").read_bytes() == (tmp_path / "out/in.jsonl").read_bytes()
    with pytest.raises(UserError, match="has no answer of wise to 2 of 2 questions"):
        attribute(tmp_path, "http://127.0.0.1:9/v1", *answers, "--max-tokens", "7", out="more")
    with pytest.raises(UserError, match="--replay: there is no file of answers"):
        attribute(tmp_path, "http://127.0.0.1:9/v1", "--replay", out="none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--llm", "http://x/v1"), "an endpoint has several models; name one as --model"),
        (("--llm", "package:none", "--model", "m"), "--model m: is for endpoints"),
        (("--llm", "package:none", "--workers", "2"), "--workers 2: is for endpoints; --llm package:none is a model"),
        (("--llm", "package:none", "--key-variable", "KEY"), "--key-variable KEY: is for endpoints"),
        (("--llm", "package:none", "--extra", "{}"), "--extra {}: is for endpoints"),
        (("--llm", "package:none"), "package:none: there is no such package"),
        (("--llm", "http://x/v1", "--model", "m", "--extra", "[1]"), "has to be an object"),
        (("--llm", "http://x/v1", "--model", "m", "--extra", "{"), "is no JSON"),
        (("--llm", "http://x/v1", "--model", "m", "--workers", "0"), "--workers 0: has to be above 0"),
        (("--llm", "http://x/v1", "--model", "m", "--timeout", "-1"), "--timeout -1.0: has to be above 0"),
        (("--llm", "http://x/v1", "--model", "m", "--max-tokens", "0"), "--max-tokens 0: has to be above 0"),
        (("--llm", "http://x/v1", "--model", "m", "--prompts", "."), "holds neither en.txt nor zh.txt"),
        (("--llm", "http://x/v1", "--model", "m", "--compare"), "--compare: no turn has a cause with quotes"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message, tmp_path, monkeypatch):
    records = written(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=re.escape(message)):
        prepare.main(["attribute", str(records), "--out", str(tmp_path / "out"), *arguments])


def test_prompts_of_ones_own(tmp_path):
    ours = (Path(prepare.__file__).parent / "preparation/attribution/prompts/en.txt").read_text()
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine/en.txt"
    mine.write_text('Be brief, {"a": {b}}.\n' + ours)
    with endpoint(right) as served:
        attribute(tmp_path, served.address, "--prompts", str(tmp_path / "mine"))
        assert served.bodies[0]["messages"][0]["content"].startswith('Be brief, {"a": {b}}.\nYou annotate')
        mine.write_text(ours.replace("{dialogue}", ""))
        with pytest.raises(UserError, match=r"en\.txt: has no place \{dialogue\}"):
            attribute(tmp_path, served.address, "--prompts", str(tmp_path / "mine"))
        mine.write_text(ours.replace('- "style"', '- "manner"'))
        with pytest.raises(UserError, match=r'en\.txt: has no line that begins with - "style"'):
            attribute(tmp_path, served.address, "--prompts", str(tmp_path / "mine"))


def test_words_of_a_dialogue_fill_no_place(tmp_path):
    record = {"dialogue_id": "d", "turns": [{"turn_id": 1, "text": "{turn} {styles} {dialogue}"}]}
    with endpoint(lambda *_: json.dumps(FULL | {"cause": None})) as served:
        attribute(tmp_path, served.address, records=written(tmp_path, record))
        assert "Turn 1, user: {turn} {styles} {dialogue}\n" in served.bodies[0]["messages"][0]["content"]


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(tmp_path):
    """SIGKILL in the middle; the second run asks what is missing."""

    def slow(body, number):
        time.sleep(0.05)
        return json.dumps(FULL | {"cause": None})

    many = [{"dialogue_id": f"d{n}", "turns": [{"turn_id": 1, "text": f"Word {n}."}]} for n in range(60)]
    records = written(tmp_path, *many)
    with endpoint(slow) as served:
        attribute(tmp_path, served.address, records=records, out="whole")
        assert len(served.requests) == 60
        command = [sys.executable, "-m", "ieat_jax.prepare", "attribute", str(records), "--out", str(tmp_path / "out")]
        command += ["--llm", served.address, "--model", "wise", "--workers", "2"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(served.requests) < 80 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out/in.jsonl").exists()
        kept = len((tmp_path / "out/answers.jsonl").read_bytes().splitlines())
        assert 10 <= kept < 60
        before = len(served.requests)
        attribute(tmp_path, served.address, records=records)
        assert 60 - kept <= len(served.requests) - before <= 61 - kept
    assert (tmp_path / "out/in.jsonl").read_bytes() == (tmp_path / "whole/in.jsonl").read_bytes()


def test_span_f1_of_causes_that_people_quoted(tmp_path, capsys):
    gold = {"cause": {"text": "x", "evidence": [{"turn_id": 1, "quote": "lost my keys"}], "source": "human"}}
    turns = [{"turn_id": 1, "text": "I lost my keys again.", "emotion": "sad", "ieat": gold}]
    made = [{"dialogue_id": f"d{number}", "turns": turns} for number in range(4)]
    for number, record in enumerate(made):  # so that questions differ
        record["turns"] = [dict(turns[0], text=f"I lost my keys again. {number}")]
    quotes = ["lost my keys", "keys again", "3", None]  # F1 1, 2 * 1 / 5 = 0.4, 0, 0

    def answer(body, _):
        number = int(re.search(r"again\. (\d)", body["messages"][0]["content"])[1])
        quote = quotes[number] if number != 2 else "2"
        cause = quote and {"text": "x", "evidence": [{"turn": 1, "quote": quote}]}
        assert 'lost my keys"' not in body["messages"][0]["content"]
        return json.dumps({"cause": cause})

    with endpoint(answer) as served:
        records = written(tmp_path, *made)
        assert attribute(tmp_path, served.address, "--compare", records=records) == []
    figures = json.loads((tmp_path / "out/spans.json").read_text())
    assert figures["f1"] == pytest.approx((1 + 0.4) / 4)
    assert (figures["turns"], figures["exact"], figures["said"]) == (4, 0.25, 0.75)
    assert figures["f1_whole_turn"] == pytest.approx(2 * 3 / (3 + 6))
    assert "causes of 4 turns: span F1 0.350 [" in capsys.readouterr().out


def test_the_gold_of_reccon_against_itself(tmp_path, capsys):
    """An LLM that knows the answers gets F1 1 on the real RECCON: every quote of it can be given."""
    folder = SHARED / "reccon"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing (set IEAT_SHARED_DATA)")
    assert prepare.main(["import", "reccon", str(folder), "--out", str(tmp_path / "reccon")]) == 0
    from ieat_jax.preparation.attribution.command import open_turns
    from ieat_jax.preparation.attribution.question import read_prompts

    records = read_records(tmp_path / "reccon/validation.jsonl")
    turns, _ = open_turns(records, ("cause",), read_prompts(None), causes_again=True)
    gold = {turn.text: turn.record.turns[turn.index].cause for turn in turns}
    assert len(turns) > 80

    def knows(body, _):
        cause = gold[body["messages"][0]["content"]]
        evidence = [{"turn": turn_id, "quote": quote} for turn_id, quote in cause.evidence]
        return json.dumps({"cause": {"text": cause.text, "evidence": evidence}})

    records = tmp_path / "reccon/validation.jsonl"
    with endpoint(knows) as served:
        attribute(tmp_path, served.address, "--compare", records=records)
    said = capsys.readouterr().out
    assert json.loads((tmp_path / "out/spans.json").read_text())["f1"] == 1.0, said
