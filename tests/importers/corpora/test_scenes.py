"""Corpora of conversations: MELD, IEMOCAP and RECCON."""

import json
import os
from pathlib import Path

import pytest
from helpers.corpus_trees import imported, set_aside, tree

from ieat_jax import prepare
from ieat_jax.errors import UserError
from ieat_jax.importers.corpora.reccon import written

SHARED = Path(os.environ.get("IEAT_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
HALF = ("--max-bad-share", "0.6")

HEAD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"


def meld_row(dialogue, utterance, text="Oh my God!", emotion="joy", speaker="Ross"):
    return f'1,"{text}",{speaker},{emotion},positive,{dialogue},{utterance},8,21,"00:16:16,059","00:16:21,731"\n'


def meld(folder):
    return tree(folder, {
        "train_sent_emo.csv": HEAD + meld_row(0, 0, "It\x92s me,\nRoss.") + meld_row(125, 3) + meld_row(7, 1),
        "dev_sent_emo.csv": (HEAD + meld_row(0, 0, "I\x92m here", "sadness", "Rachel")).encode("cp1252", "replace"),
        "test_sent_emo.csv": HEAD + meld_row(0, 0, emotion="surprise"),
        "train/train_splits/dia0_utt0.wav": None, "train/train_splits/dia125_utt3.wav": None,
        "train/train_splits/dia9_utt9.wav": None, "dev/dev_splits_complete/dia0_utt0.wav": None,
        "test/output_repeated_splits_test/dia0_utt0.wav": None,
        "test/output_repeated_splits_test/final_videos_testdia0_utt1.wav": None,
        "test/output_repeated_splits_test/._dia0_utt0.wav": b"of a Mac",
        "train/train_splits/dia0_utt0.mp4": b"a video",
    })  # fmt: skip


def test_meld(tmp_path, capsys):
    records = imported("meld", meld(tmp_path / "meld"), tmp_path, *HALF)
    assert sorted(records) == ["meld_dev_dia0_utt0", "meld_test_dia0_utt0", "meld_train_dia0_utt0"]
    train = records["meld_train_dia0_utt0"]
    assert train.turns[0].text == "It’s me, Ross."
    assert (train.turns[0].emotion, train.turns[0].raw_emotion, train.speaker) == ("happy", "joy", "meld_Ross")
    assert train.turns[0].audio == "train/train_splits/dia0_utt0.wav"
    splits = {name: record.raw["ieat_meta"]["split"] for name, record in records.items()}
    assert list(splits.values()) == ["validation", "test", "train"]
    assert set_aside(tmp_path) == {
        "train_sent_emo.csv:4": "broken", "train/train_splits/dia125_utt3.wav": "broken",
        "train_sent_emo.csv:5": "missing", "train/train_splits/dia9_utt9.wav": "not_listed",
        "test/output_repeated_splits_test/final_videos_testdia0_utt1.wav": "extra_cut",
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "6 recordings = 3 accepted + 3 quarantined (1 x extra_cut, 1 x broken, 1 x not_listed)" in said
    assert "5 rows = 3 accepted + 2 quarantined (1 x broken, 1 x missing)" in said


def test_meld_of_videos_alone_says_how_to_get_their_sound(tmp_path):
    folder = tree(tmp_path / "meld", {"train_sent_emo.csv": HEAD, "train_splits/dia0_utt0.mp4": b"a video"})
    with pytest.raises(UserError, match=r"clips are videos.*ffmpeg"):
        imported("meld", folder, tmp_path)


def test_meld_rows_that_are_none(tmp_path):
    rows = HEAD + meld_row("x", 0) + "1,2\n" + meld_row(0, 0) + meld_row(0, 0)
    folder = tree(tmp_path / "meld", {"train_sent_emo.csv": rows, "train_splits/dia0_utt0.wav": None})
    assert list(imported("meld", folder, tmp_path, "--max-bad-share", "0.7")) == ["meld_train_dia0_utt0"]
    assert set_aside(tmp_path) == {
        "train_sent_emo.csv:2": "not_a_row", "train_sent_emo.csv:3": "not_a_row", "train_sent_emo.csv:5": "missing",
    }  # fmt: skip


LABELS = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
[10.0100 - 11.3925]\tSes01F_impro01_M000\txxx\t[2.5000, 2.5000, 2.5000]
[14.8872 - 18.0175]\tSes01F_impro01_F001\toth\t[2.0000, 2.0000, 2.5000]
[19.2900 - 20.7875]\tSes01F_impro01_M001\tfru\t[2.0000, 3.0000, 2.5000]
"""
WORDS = """Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
Ses01F_impro01_M000 [010.0100-011.3925]: Yes.
M: nobody cut this
Ses01F_impro01_M001 [019.2900-020.7875]: Didn\x92t you hear?
"""


def test_iemocap(tmp_path, capsys):
    wavs = "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_{}.wav"
    names = ("F000", "M000", "F001", "M001", "F002")
    folder = tree(tmp_path / "iemocap", {wavs.format(name): None for name in names} | {
        "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": LABELS,
        "Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt": b"\0\5\26\7",
        "Session1/dialog/transcriptions/Ses01F_impro01.txt": WORDS.encode("latin-1"),
        "Session1/dialog/wav/Ses01F_impro01.wav": None,
        "Session5/sentences/wav/Ses05M_script01_1b/Ses05M_script01_1b_M013.wav": None,
        "Session5/dialog/EmoEvaluation/Ses05M_script01_1b.txt":
            "[1.0 - 2.0]\tSes05M_script01_1b_M013\tsoul\t[2.5000, 2.5000, 2.5000]\n",
    })  # fmt: skip
    records = imported("iemocap", folder, tmp_path, *HALF)
    found = {name[len("iemocap_") :]: record for name, record in records.items()}
    assert {name: record.turns[0].emotion for name, record in found.items()} == {
        "Ses01F_impro01_F000": "neutral", "Ses01F_impro01_M000": None, "Ses01F_impro01_F001": None,
        "Ses01F_impro01_M001": "anger", "Ses05M_script01_1b_M013": None,
    }  # fmt: skip
    man = found["Ses01F_impro01_M001"]
    assert (man.speaker, man.turns[0].raw_emotion, man.turns[0].emotion_source) == ("iemocap_Ses01M", "fru", "human")
    assert man.turns[0].text == "Didn’t you hear?"
    assert man.turns[0].raw["valence_activation_dominance"] == [2.0, 3.0, 2.5]
    assert found["Ses05M_script01_1b_M013"].raw["ieat_meta"]["split"] == "test"
    assert set_aside(tmp_path) == {wavs.format("F002"): "no_label"}
    said = capsys.readouterr().out
    assert "1 of 3 turns carry an emotion nobody understands: 'soul' x 1" in said
    assert "1 other sound files and videos are in no record, such as Session1/dialog/wav" in said


def reccon(utterances):
    """A dialogue: (speaker, words, emotion, evidence, quotes) of each utterance."""
    turns = []
    for number, (speaker, words, emotion, *cause) in enumerate(utterances, 1):
        turns.append({"turn": number, "speaker": speaker, "utterance": words, "emotion": emotion})
        if cause:
            turns[-1] |= {"expanded emotion cause evidence": cause[0], "expanded emotion cause span": cause[1]}
            turns[-1] |= {"type": ["inter-personal"], "explanation": "why not"}
    return [turns]


KEYS = [
    ("A", "I ' ve lost my keys .", "sadness", [1, "b"], ["lost my keys .", "b"]),
    ("B", "Oh no ! Look in the red bag .", "surprised", [1], ["lost my keys ."]),
    ("A", "You are right !", "happy", [2, 1], ["Look in the red bag .", "red bag ."]),
    ("A", "There they are .", "excited", [5], ["Good ."]),
    ("B", "Good .", "happiness"),
    ("A", "Bye .", "neutral"),
]


def test_reccon(tmp_path, capsys):
    folder = tree(tmp_path / "reccon", {"dailydialog_train.json": {"tr_1": reccon(KEYS)}})
    record = imported("reccon", folder, tmp_path)["reccon_tr_1"]
    assert [(turn.text, turn.response_text) for turn in record.turns] == [
        ("I've lost my keys.", "Oh no! Look in the red bag."),
        ("You are right! There they are.", "Good."),
        ("Bye.", ""),
    ]
    first, second, third = record.turns
    assert (first.emotion, first.raw_emotion, first.response_emotion) == ("sad", "sadness", "surprise")
    assert first.cause.text == "lost my keys."
    assert first.cause.evidence == ((1, "lost my keys."),)
    assert first.cause.source == "human"
    assert first.raw["reccon"] == [{"type": ["inter-personal"], "explanation": "why not"}]
    # Two utterances share a turn; what the second one names stands in a later one.
    assert second.emotion == "happy"
    assert second.cause.evidence == ((1, "Look in the red bag."), (1, "red bag."))
    assert third.cause is None
    said = capsys.readouterr().out
    assert "1 dialogues = 1 accepted + 0 quarantined" in said
    assert "3 turns of the user with a cause: 3 quotes, 1 of them in another turn" in said
    assert "left out: 1 outside of the dialogue, 0 before the user speaks, 1 in a later turn, 0 found nowhere" in said
    assert "1 causes are on the side of the replies" in said
    for turn in record.turns:
        for turn_id, quote in turn.cause.evidence if turn.cause else ():
            there = record.turns[turn_id - 1]
            assert quote in there.text or quote in there.response_text


def test_reccon_from_both_sides_and_raw(tmp_path):
    folder = tree(tmp_path / "reccon", {"dailydialog_valid.json": {"va_1": reccon(KEYS)}})
    records = imported("reccon", folder, tmp_path, "--option", "user=both", "--option", "text=raw")
    assert list(records) == ["reccon_va_1", "reccon_va_1_b"]
    assert records["reccon_va_1"].turns[0].text == "I ' ve lost my keys ."
    other = records["reccon_va_1_b"]
    assert [(turn.text, turn.response_text) for turn in other.turns] == [
        ("Oh no ! Look in the red bag .", "You are right ! There they are ."),
        ("Good .", "Bye ."),
    ]
    assert other.raw["ieat_meta"]["opening"] == "I ' ve lost my keys ."
    assert other.raw["ieat_meta"]["split"] == "validation"


@pytest.mark.parametrize(
    ("dialogue", "code"),
    [
        ([], "not_a_dialogue"), ({}, "not_a_dialogue"), ([[]], "not_a_dialogue"), ([[{"turn": 1}]], "not_a_dialogue"),
        (reccon([("A", "x", "sad", [1, 2], ["x"])]), "bad_cause"), (reccon([("A", "x", "sad", "b", "x")]), "bad_cause"),
        ([[{"turn": 2, "speaker": "A", "utterance": "x"}]], "turn_order"),
    ],
)  # fmt: skip
def test_reccon_dialogues_that_are_none(dialogue, code, tmp_path):
    folder = tree(tmp_path / "reccon", {"dailydialog_train.json": {"good": reccon(KEYS), "bad": dialogue}})
    assert list(imported("reccon", folder, tmp_path, *HALF)) == ["reccon_good"]
    assert set_aside(tmp_path) == {"dailydialog_train.json: bad": code}


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("Ok . I ' ll try .", "Ok. I'll try."),
        ("It ’ s late , isn ' t it ?", "It’s late, isn't it?"),
        ("Really ?", "Really?"),
        ("at 5 ( pm )", "at 5 (pm)"),
        ("the 'sad' ones", "the 'sad' ones"),
    ],
)
def test_tokens_as_one_writes_them(tokens, words):
    assert written(tokens) == words


def test_the_real_reccon(tmp_path, capsys):
    folder = SHARED / "reccon"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing (set IEAT_SHARED_DATA)")
    assert prepare.main(["import", "reccon", str(folder), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "1106 dialogues = 1106 accepted + 0 quarantined" in said
    assert "nobody understands" not in said
    # What is annotated in the files is in the records, or counted as left out.
    utterances = causes = of_user = turns = 0
    for path in folder.glob("*.json"):
        for said_there in (dialogue[0] for dialogue in json.loads(path.read_text()).values()):
            user = [turn["speaker"] == said_there[0]["speaker"] for turn in said_there]
            with_cause = ["expanded emotion cause span" in turn for turn in said_there]
            utterances += len(user)
            causes += sum(with_cause)
            of_user += sum(both == (True, True) for both in zip(user, with_cause, strict=True))
            turns += sum(now and not before for before, now in zip([False, *user], user, strict=False))
    assert (utterances, causes) == (11104, 5861)
    assert f"{utterances} utterances; {of_user} turns of the user with a cause" in said
    assert f"{causes - of_user} causes are on the side of the replies" in said
    written_turns = sum(len(json.loads(line)["turns"]) for path in tmp_path.glob("*.jsonl") for line in path.open())
    assert written_turns == turns
    assert f"{turns} turns, 0 speakers" in said
