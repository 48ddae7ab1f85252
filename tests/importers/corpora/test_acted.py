"""Corpora of acted single recordings: what their names say, on trees of their real layout."""

import pytest
from helpers.corpus_trees import imported, set_aside, sound, tree

HALF = ("--max-bad-share", "0.5")


def only(records):
    (record,) = records.values()
    return record, record.turns[0]


def test_ravdess(tmp_path, capsys):
    folder = tmp_path / "ravdess"
    sound(folder / "Actor_12/03-01-06-01-02-01-12.wav", rate=48_000, channels=2)
    sound(folder / "Actor_23/03-01-02-02-01-01-23.wav", rate=48_000)
    tree(folder, {"Actor_21/03-01-01-01-01-01-21.wav": None, "Actor_01/03-02-05-02-01-02-01.wav": None})
    # Kaggle's copy holds everything twice.
    inner = folder / "audio_speech_actors_01-24/Actor_12/03-01-06-01-02-01-12.wav"
    inner.parent.mkdir(parents=True)
    inner.write_bytes((folder / "Actor_12/03-01-06-01-02-01-12.wav").read_bytes())
    records = imported("ravdess", folder, tmp_path)
    fear = records["ravdess_03-01-06-01-02-01-12"]
    turn = fear.turns[0]
    assert (turn.emotion, turn.intensity, turn.text) == ("fear", "moderate", "Dogs are sitting by the door.")
    assert (fear.speaker, fear.language, fear.kind) == ("ravdess_12", "en", "neutral_words")
    assert (fear.raw["ieat_meta"]["gender"], fear.raw["ieat_meta"]["split"]) == ("female", "train")
    calm = records["ravdess_03-01-02-02-01-01-23"]
    assert (calm.turns[0].emotion, calm.turns[0].raw_emotion, calm.turns[0].intensity) == ("neutral", "calm", "strong")
    assert calm.raw["ieat_meta"]["split"] == "test"
    neutral = records["ravdess_03-01-01-01-01-01-21"]
    assert (neutral.turns[0].intensity, neutral.raw["ieat_meta"]["split"]) == (None, "validation")
    assert records["ravdess_03-02-05-02-01-02-01"].kind == "song"
    assert set_aside(tmp_path) == {inner.relative_to(folder).as_posix(): "double"}
    assert "5 recordings = 4 accepted + 1 quarantined (1 x double)" in capsys.readouterr().out


def test_the_same_name_with_other_bytes_is_no_copy(tmp_path):
    name = "03-01-06-01-02-01-12.wav"
    folder = tree(tmp_path / "ravdess", {f"Actor_12/{name}": None, f"other/{name}": None})
    imported("ravdess", folder, tmp_path, *HALF)
    assert set_aside(tmp_path) == {f"other/{name}": "duplicate_id"}


def test_cremad(tmp_path, capsys):
    files = ["1001_DFA_ANG_XX", "1075_IEO_SAD_HI", "1091_IEO_FEA_LO", "1040_ITH_SAD_X"]
    folder = tree(tmp_path / "cremad", {f"AudioWAV/{name}.wav": None for name in files} | {
        "AudioMP3/1001_DFA_ANG_XX.mp3": b"not looked at", "VideoFlash/1001_DFA_ANG_XX.flv": b""})  # fmt: skip
    sound(folder / "AudioWAV/1076_MTI_SAD_XX.wav", silent=True)
    (folder / "AudioWAV/1002_DFA_ANG_XX.wav").touch()
    records = imported("cremad", folder, tmp_path, *HALF)
    assert set_aside(tmp_path) == {
        "AudioWAV/1002_DFA_ANG_XX.wav": "empty", "AudioWAV/1076_MTI_SAD_XX.wav": "silent",
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "cremad: 6 recordings = 4 accepted + 2 quarantined (1 x empty, 1 x silent)" in said
    assert "2 other sound files and videos are in no record" in said
    sad = records["cremad_1075_IEO_SAD_HI"]
    assert (sad.turns[0].emotion, sad.turns[0].intensity) == ("sad", "strong")
    assert (sad.turns[0].text, sad.speaker) == ("It's eleven o'clock.", "cremad_1075")
    splits = {name[7:11]: record.raw["ieat_meta"]["split"] for name, record in records.items()}
    assert splits == {"1001": "train", "1040": "train", "1075": "validation", "1091": "test"}
    assert records["cremad_1040_ITH_SAD_X"].turns[0].intensity is None


@pytest.mark.parametrize("name", ["AudioData/DC/{}", "DC_{}", "ALL/DC_{}"])
def test_savee(name, tmp_path):
    folder = tree(tmp_path / "savee", {name.format(f"{code}01.wav"): None for code in ("sa", "su", "a")})
    records = imported("savee", folder, tmp_path)
    emotions = {record.dialogue_id: record.turns[0].emotion for record in records.values()}
    assert emotions == {"savee_DC_sa01": "sad", "savee_DC_su01": "surprise", "savee_DC_a01": "anger"}
    assert {record.speaker for record in records.values()} == {"savee_DC"}


def test_tess(tmp_path):
    files = [
        "TESS data/OAF_Pleasant_surprise/OAF_back_ps.wav",
        "TESS data/YAF_pleasant_surprised/YAF_back_ps.wav",
        "TESS data/OAF_neutral/OA_bite_neutral.wav",
        "TESS data/OAF_Sad/OAF_home_sad.wav",
    ]
    records = imported("tess", tree(tmp_path / "tess", dict.fromkeys(files)), tmp_path)
    assert {name: record.turns[0].emotion for name, record in records.items()} == {
        "tess_OAF_back_ps": "surprise", "tess_YAF_back_ps": "surprise", "tess_OAF_bite_neutral": "neutral",
        "tess_OAF_home_sad": "sad",
    }  # fmt: skip
    assert records["tess_OAF_bite_neutral"].turns[0].text == "Say the word bite."
    assert {record.raw["ieat_meta"]["split"] for record in records.values()} == {"train", "test"}


ARCTIC = '( arctic_a0001 "Author of the danger trail, Philip Steels, etc." )\n( arctic_b0001 "Not this one." )\n'


def test_emovdb(tmp_path, capsys):
    files = {
        "bea_Amused/amused_1-15_0001.wav": "happy",
        "sam/Sleepy/sleepiness_1-28_0001.wav": None,  # an emotion that is none of ours, and says so
        "jenie/Angry/anger_1-28_0002.wav": "anger",
        "josh_Neutral/neut_1-28_0001.wav": "neutral",  # cut short
        "bea_Disgusted/_0001.wav": "disgust",  # cut off: the folder says it
        "bea_Disgusted/disgust_1-28_0601.wav": "disgust",
    }
    folder = tree(tmp_path / "emovdb", dict.fromkeys(files) | {"cmuarctic.data": ARCTIC})
    sound(folder / "bea_Angry/amused_1-15_0001.wav")
    records = imported("emovdb", folder, tmp_path, *HALF)
    found = {record.turns[0].audio: record.turns[0] for record in records.values()}
    assert {path: turn.emotion for path, turn in found.items()} == files
    first = "Author of the danger trail, Philip Steels, etc."
    assert found["bea_Amused/amused_1-15_0001.wav"].text == first
    assert found["bea_Disgusted/disgust_1-28_0601.wav"].text == ""
    assert set_aside(tmp_path) == {"bea_Angry/amused_1-15_0001.wav": "label_conflict"}
    assert "nobody understands" not in capsys.readouterr().out


def test_emovdb_without_its_sentences_says_so(tmp_path, capsys):
    imported("emovdb", tree(tmp_path / "emovdb", {"bea_Amused/amused_1-15_0001.wav": None}), tmp_path)
    assert "the words are unknown: put http://www.festvox.org" in capsys.readouterr().out


CHINESE = "0003_000001\t打远一看，它们的确很是美丽，\t中立\n0003_000371\t她看到了他。\t生气\n"
ENGLISH = "0016_000021\tIt\x92s “late”.\tNeutral\n\n0016_000351 No tab here. Angry\n0016_000701\tNo label\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "gb18030", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("folders", [True, False])
def test_esd(encoding, folders, tmp_path):
    places = {"0003/中立/evaluation": "", "0003/Angry/test": "", "0016/Neutral/test": "", "0016/Angry/evaluation": ""}
    places |= {"0016/Happy/evaluation": ""}
    names = ["0003_000001", "0003_000371", "0016_000021", "0016_000351", "0016_000701"]
    files = {
        (f"{place}/{name}.wav" if folders else f"{place.rpartition('/')[0]}/{name}.wav"): None
        for place, name in zip(places, names, strict=True)
    }
    lists = {
        "0003/0003.txt": CHINESE.encode(encoding),
        "0016/0016.txt": ENGLISH.replace("“late”", "late").encode("latin-1"),
    }
    folder = tree(tmp_path / "esd", files | lists)
    records = imported("esd", folder, tmp_path)
    found = {name: records[f"esd_{name}"] for name in names}
    assert [found[name].turns[0].text for name in names] == [
        "打远一看，它们的确很是美丽，", "她看到了他。", "It’s late.", "No tab here.", "No label",
    ]  # fmt: skip
    assert [found[name].turns[0].emotion for name in names] == ["neutral", "anger", "neutral", "anger", "happy"]
    assert [found[name].language for name in names] == ["zh", "zh", "en", "en", "en"]
    assert [found[name].raw["ieat_meta"]["split"] for name in names] == [
        "validation", "test", "test", "validation", "validation",
    ]  # fmt: skip


def test_esd_by_speaker_and_without_a_line(tmp_path):
    folder = tree(tmp_path / "esd", {
        "0009/Sad/train/0009_001100.wav": None, "0009/Sad/train/0009_001101.wav": None,
        "0009/0009.txt": "0009_001100\t你好\t伤心\n".encode("gb18030"),
    })  # fmt: skip
    records = imported("esd", folder, tmp_path, "--option", "splits=speaker", *HALF)
    record, _ = only(records)
    assert record.raw["ieat_meta"]["split"] == "test"
    assert set_aside(tmp_path) == {"0009/Sad/train/0009_001101.wav": "no_text"}


# Corpus -> (a name that is right, one with an emotion that its table does not have, one that does not fit)
NAMES = {
    "emodb": ("03a01Wa.wav", "03a01Xa.wav", "song.wav"),
    "ravdess": ("03-01-06-01-02-01-12.wav", "03-01-09-01-02-01-12.wav", "03-01-06.wav"),
    "cremad": ("1001_DFA_ANG_XX.wav", "1001_DFA_JOL_XX.wav", "1001_QQQ_ANG_XX.wav"),
    "savee": ("DC/a01.wav", "DC/x01.wav", "QQ/a01.wav"),
    "tess": ("OAF_back_angry.wav", "OAF_back_jolly.wav", "ZZZ_back_angry.wav"),
    "emovdb": ("bea_Angry/anger_1-28_0001.wav", "bea_Jolly/jolly_1-28_0001.wav", "zoe_Angry/anger_1-28_0001.wav"),
}


@pytest.mark.parametrize("corpus", NAMES)
def test_a_label_or_name_that_nobody_knows_is_reported(corpus, tmp_path, capsys):
    good, odd, wrong = NAMES[corpus]
    folder = tree(tmp_path / "corpus", dict.fromkeys(NAMES[corpus]))
    records = imported(corpus, folder, tmp_path, *HALF)
    assert {record.turns[0].audio for record in records.values()} == {good, odd}
    assert set_aside(tmp_path) == {wrong: "unknown_name"}
    said = capsys.readouterr().out
    assert "3 recordings = 2 accepted + 1 quarantined (1 x unknown_name)" in said
    assert "1 of 2 turns carry an emotion nobody understands: " in said
    (folder / wrong).unlink()
    out = tmp_path / "second"
    out.mkdir()
    assert imported(corpus, folder, out, "--max-bad-share", "0.4", code=1) == {}
    assert "more than the accepted share of 0.4" in capsys.readouterr().err
    assert not (out / "records.jsonl").exists()
    assert not list(out.glob("*.partial"))
