"""HumDial's trees and those built like them: there, and back to the very same lines."""

import json
import random

import pytest
from helpers.corpus_trees import imported, lines, set_aside, sound, tree

from ieat_jax import prepare
from ieat_jax.errors import UserError

HALF = ("--max-bad-share", "0.6")


def dialogue(name, turns=2, **more):
    listed = [
        {"turn_id": number, "text": f"words {number} [sigh]", "emotion": "anger", "response_text": "I see."}
        for number in range(1, turns + 1)
    ]
    return {"dialogue_id": name, "turns": listed} | more


def train_tree(folder):
    """As the training set: lists that name their recordings; the spoken replies are not there."""
    first, second = dialogue("zh_0001_0001"), dialogue("en_0001_0001", 1, source={"by": ["a", None]}, **{"键": 1.5})
    for number, turn in enumerate(first["turns"], 1):
        turn["split_audio_file"] = f"task1/turn_{number}.wav"
        turn["response_audio"] = f"task1_model/turn_{number}_response.wav"
        sound(folder / f"train/zh/task1/turn_{number}.wav")
    second["turns"][0] = {"turn_id": 1, "input_text": "It rains.", "input_emotion": "sad", "extra": {"x": []}}
    second["ieat_meta"] = {"language": "en", "kind": "congruent", "note": 1}
    second["turns"][0]["ieat"] = {"tone": "soft"}
    return tree(folder, {"train/zh/task1.jsonl": lines([first]), "train/en/task1.jsonl": lines([second])})


def test_tree(folder):
    """As the test set: recordings in a folder of the list's name, the same ids in every task, nothing annotated."""
    files = {}
    for language in ("zh", "en"):
        for task in (1, 2, 3):
            name = f"HD-Track1-T{task}"
            values = [{"dialogue_id": "0001", "turns": [{"turn_id": 1}, {"turn_id": 2}]}]
            files[f"HD-Track1-Test/{language}/{name}.jsonl"] = lines(values)
            for turn in (1, 2):
                files[f"HD-Track1-Test/{language}/{name}/0001_{turn}.wav"] = None
    return tree(folder, files)


test_tree.__test__ = False


def lists_of(folder):
    return {
        path.relative_to(folder).as_posix(): [json.loads(line) for line in path.open(encoding="utf-8")]
        for path in folder.rglob("*.jsonl")
    }


def back(out):
    assert prepare.main(["export", str(out / "records.jsonl"), "--out", str(out / "back")]) == 0
    return lists_of(out / "back")


def test_the_training_tree_comes_back(tmp_path, capsys):
    folder = train_tree(tmp_path / "humdial")
    records = imported("humdial", folder, tmp_path, strange_keys=True)
    chinese, english = records["zh_0001_0001"], records["en_0001_0001"]
    assert (chinese.unread, english.unread) == ((), (("ieat_meta.note", ""),))  # the user's own, and told
    assert (chinese.language, english.language, english.kind) == ("zh", "en", "congruent")
    assert chinese.turns[1].audio == "train/zh/task1/turn_2.wav"
    assert chinese.turns[1].response_audio is None
    assert (english.turns[0].text, english.turns[0].emotion, english.turns[0].tone) == ("It rains.", "sad", "soft")
    said = capsys.readouterr().out
    assert "2 dialogues = 2 accepted + 0 quarantined" in said
    assert "2 spoken replies are named, but not there" in said
    assert "1 turns have no recording" in said
    assert back(tmp_path) == lists_of(folder)
    with pytest.raises(UserError, match="exists already"):
        back(tmp_path)


def test_the_test_tree_comes_back(tmp_path):
    folder = test_tree(tmp_path / "humdial")
    records = imported("humdial", folder, tmp_path)
    assert len(records) == 6
    assert {record.language for record in records.values()} == {"zh", "en"}
    assert {record.raw["ieat_meta"]["split"] for record in records.values()} == {"test"}
    for record in records.values():
        place = record.raw["ieat_meta"]["humdial"]["file"].removesuffix(".jsonl")
        assert [turn.audio for turn in record.turns] == [f"{place}/0001_1.wav", f"{place}/0001_2.wav"]
    assert back(tmp_path) == lists_of(folder)


def test_what_was_added_since_comes_back_with_the_rest(tmp_path):
    folder = test_tree(tmp_path / "humdial")
    imported("humdial", folder, tmp_path)
    path = tmp_path / "records.jsonl"
    values = [json.loads(line) for line in path.open(encoding="utf-8")]
    values[0]["turns"][0] |= {"response_text": "I see.", "ieat": {"response": {"source": "model:x"}}}
    path.write_text(lines(values), encoding="utf-8")
    wanted = lists_of(folder)
    first = values[0]["ieat_meta"]["humdial"]["file"]
    wanted[first][0]["turns"][0]["response_text"] = "I see."
    assert back(tmp_path) == wanted


def anything(rng, depth=0):
    """A value of JSON."""
    kind = rng.randrange(4 if depth > 2 else 6)
    if kind < 4:
        return [None, rng.random() < 0.5, rng.choice([0, -1, 1.5, 10**15]), rng.choice(["", "x", "喂", "a\nb", "/"])][
            kind
        ]
    if kind == 4:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice("abcdef"): anything(rng, depth + 1) for _ in range(rng.randrange(3))}


@pytest.mark.parametrize("seed", range(12))
def test_any_unknown_keys_come_back(seed, tmp_path):
    rng = random.Random(seed)
    values = [dialogue(f"d{number}", rng.randrange(1, 4)) for number in range(4)]
    folder = tmp_path / "humdial"
    for value in values:
        value |= {f"key_{rng.randrange(99)}": anything(rng) for _ in range(rng.randrange(3))}
        if rng.random() < 0.4:
            value["ieat_meta"] = rng.choice([None, {}, {"language": "fr"}, {"licence": "ours", "x": anything(rng)}])
        for turn in value["turns"]:
            turn |= {f"key_{rng.randrange(99)}": anything(rng) for _ in range(rng.randrange(3))}
            if rng.random() < 0.4:
                turn["ieat"] = rng.choice([None, {}, {"tone": "soft"}])
            given = rng.choice([None, "", "a.wav", "./deep/../a.wav", "not there.wav"])
            if rng.random() < 0.7:
                turn["response_audio"] = given
            if rng.random() < 0.7:
                turn["split_audio_file"] = rng.choice([None, "", "a.wav", "./a.wav"])
    tree(folder, {"dev/en/list.jsonl": lines(values), "dev/en/a.wav": None, "dev/en/deep/x.wav": None})
    assert len(imported("humdial", folder, tmp_path, strange_keys=True)) == 4
    assert back(tmp_path) == lists_of(folder)


def test_lines_that_are_no_dialogues_and_those_that_are_left_out(tmp_path, capsys):
    values = [
        dialogue("good"), dialogue("task2_4_en_0002_0014"), dialogue("task2_3_zh_0015_0001"), {"dialogue_id": "x"},
        {"dialogue_id": 7, "turns": []}, dialogue("gone"), dialogue("order"), dialogue("far"), dialogue("bad"),
    ]  # fmt: skip
    values[5]["turns"][0]["split_audio_file"] = "nowhere.wav"
    values[6]["turns"][0]["turn_id"] = 2
    values[7]["turns"][0]["split_audio_file"] = "../../other.wav"
    values[8]["turns"][0]["split_audio_file"] = "broken.wav"
    folder = tree(tmp_path / "humdial", {"zh/a.jsonl": lines(values) + "no json\n", "zh/broken.wav": b"RIFF"})
    sound(tmp_path / "other.wav")
    assert list(imported("humdial", folder, tmp_path, "--max-bad-share", "0.8")) == ["good"]
    assert set_aside(tmp_path) == {
        "zh/a.jsonl:2": "excluded", "zh/a.jsonl:3": "excluded", "zh/a.jsonl:4": "not_a_record",
        "zh/a.jsonl:5": "not_a_record", "zh/a.jsonl:6": "missing", "zh/a.jsonl:7": "turn_order",
        "zh/a.jsonl:8": "outside_root", "zh/a.jsonl:9": "not_audio", "zh/a.jsonl:10": "not_a_record",
    }  # fmt: skip
    assert "10 dialogues = 1 accepted + 9 quarantined" in capsys.readouterr().out


def test_what_the_organisers_left_out_is_no_fault_of_the_copy(tmp_path):
    folder = tree(tmp_path / "humdial", {"a.jsonl": lines([dialogue("good"), dialogue("task2_4_en_0002_0014")])})
    assert list(imported("humdial", folder, tmp_path)) == ["good"]
    assert set_aside(tmp_path) == {"a.jsonl:2": "excluded"}


def test_records_of_other_corpora_do_not_go_back(tmp_path):
    imported("emodb", tree(tmp_path / "wav", {"03a01Wa.wav": None}), tmp_path)
    with pytest.raises(UserError, match="emodb_03a01Wa was not imported from HumDial"):
        back(tmp_path)
    imported("humdial", test_tree(tmp_path / "humdial"), tmp_path)
    text = (tmp_path / "records.jsonl").read_text().replace('"file": "HD-Track1-Test/', '"file": "../../')
    (tmp_path / "records.jsonl").write_text(text)
    with pytest.raises(UserError, match="leads out of --out"):
        back(tmp_path)


QUESTION = (
    "What changed? Choose one of the following options and provide a reason: A. sad, then glad B. never C. x. y D. z"
)


def test_eibench(tmp_path, capsys):
    first = {"dialogue_id": "t1_001", "turns": [{"turn_id": 1, "text": "Hi."}, {"turn_id": 2, "text": QUESTION}]}
    second = {
        "dialogue_id": "001", "turns": [{"turn_id": 1}], "question": "Which?", "options": ["sad", "glad"],
        "answer": "A",
    }  # fmt: skip
    folder = tree(tmp_path / "eibench", {
        "en/task1.jsonl": lines([first]), "zh/task4.json": [second], "zh/task4/001_1.wav": None,
        "en/task1/t1_001_1.wav": None,
    })  # fmt: skip
    records = imported("eibench", folder, tmp_path)
    choice = records["t1_001"].raw["ieat_meta"]["choice"]
    assert choice["options"] == {"A": "sad, then glad", "B": "never", "C": "x. y", "D": "z"}
    conflict = records["001"]
    assert (conflict.kind, conflict.language, conflict.turns[0].audio) == ("conflict", "zh", "zh/task4/001_1.wav")
    assert conflict.raw["ieat_meta"]["choice"] == {"question": "Which?", "options": ["sad", "glad"], "answer": "A"}
    assert conflict.raw["options"] == ["sad", "glad"]
    assert records["t1_001"].kind is None
    assert {record.raw["ieat_meta"]["split"] for record in records.values()} == {"test"}
    assert "no answer in 1 of 2 items (looked for the keys answer, label," in capsys.readouterr().out


def echat(key, **more):
    extra = {
        "emotion": "<HAPPY>",
        "age": "<ADULT>",
        "gender": "<FEMALE>",
        "question": "我考上了！",
        "think_str": "听得出高兴",
    }
    extra |= {"speech_token": [1, 2], "a_wav_path": f"/home/makers/{key}_answer.wav"}
    return {"key": key, "txt": "恭喜你！", "wav": f"./fake/{key}.wav", "task": "<S2TCHAT>", "extra": extra} | more


def test_echat(tmp_path, capsys):
    values = [echat("one"), echat("two"), echat("three", txt=None), echat("four", wav="/home/makers/gone.wav")]
    folder = tree(tmp_path / "echat", {
        "train/data.list": lines(values), "train/fake/one.wav": None, "train/fake/three.wav": None,
        "tars/two.wav": None, "tars/one_answer.wav": None,
    })  # fmt: skip
    records = imported("echat", folder, tmp_path, *HALF)
    one, two = records["echat_one"], records["echat_two"]
    turn = one.turns[0]
    assert (turn.text, turn.emotion, turn.response_text, one.language) == ("我考上了！", "happy", "恭喜你！", "zh")
    assert (turn.audio, turn.response_audio) == ("train/fake/one.wav", "tars/one_answer.wav")
    assert (two.turns[0].audio, two.turns[0].response_audio) == ("tars/two.wav", None)
    assert one.raw["echat"]["extra"]["speech_token"] == [1, 2]
    assert (turn.units, turn.think_text) == (None, None)
    assert one.raw["ieat_meta"]["gender"] == "female"
    assert set_aside(tmp_path) == {"train/data.list:3": "not_a_record", "train/data.list:4": "missing"}
    assert "1 spoken replies are not there" in capsys.readouterr().out
    assert (
        imported("echat", folder, tmp_path, "--option", "think=use", *HALF)["echat_one"].turns[0].think_text
        == "听得出高兴"
    )
