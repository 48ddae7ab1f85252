"""Labels in the spellings of corpora and labellers: understood, or counted and refused; never silently absent."""

import json

import pytest

from ieat_jax import prepare
from ieat_jax.config.sections import SourceConfig
from ieat_jax.data.labels import canonical_emotion, canonical_intensity, canonical_language, canonical_source
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import parse_record
from ieat_jax.data.sources.open import open_sources
from ieat_jax.data.understood import LabelError, told_of

CORPORA = {
    "IEMOCAP": "ang=anger hap=happy exc=happy neu=neutral fru=anger sad=sad sur=surprise fea=fear dis=disgust oth= "
    "xxx=",
    "IEMOCAP in words": "Anger=anger Happiness=happy Excited=happy Neutral_state=neutral Frustration=anger Other= "
    "Fear=fear",
    "CREMA-D": "ANG=anger DIS=disgust FEA=fear HAP=happy NEU=neutral SAD=sad",
    "RAVDESS": "neutral=neutral calm=neutral happy=happy sad=sad angry=anger fearful=fear disgust=disgust "
    "surprised=surprise",
    "TESS": "angry=anger disgust=disgust fear=fear happy=happy neutral=neutral ps=surprise "
    "pleasant_surprise=surprise Pleasant_surprised=surprise sad=sad",
    "MELD": "anger=anger disgust=disgust fear=fear joy=happy neutral=neutral sadness=sad surprise=surprise",
    "ESD": "Angry=anger Happy=happy Neutral=neutral Sad=sad Surprise=surprise 生气=anger 快乐=happy 中立=neutral "
    "伤心=sad 惊喜=surprise",
    "SAVEE": "anger=anger disgust=disgust fear=fear happiness=happy neutral=neutral sadness=sad surprise=surprise",
    "EmoV-DB": "Amused=happy Angry=anger Disgusted=disgust Neutral=neutral Sleepy=",
    "DailyDialog, RECCON": "no_emotion=neutral anger=anger disgust=disgust fear=fear happiness=happy happines=happy "
    "sadness=sad surprise=surprise surprised=surprise excited=happy happy=happy sad=sad angry=anger",
    "MSP-Podcast": "Contempt=disgust Annoyed=anger Disappointed=sad Unknown=",
    "SenseVoice": "<|HAPPY|>=happy <|SAD|>=sad <|ANGRY|>=anger <|NEUTRAL|>=neutral <|FEARFUL|>=fear "
    "<|DISGUSTED|>=disgust <|SURPRISED|>=surprise <|EMO_UNKNOWN|>= 😊=happy 😔=sad 😡=anger 😰=fear 🤢=disgust "
    "😮=surprise",
    "emotion2vec": "生气/angry=anger 厌恶/disgusted=disgust 恐惧/fearful=fear 开心/happy=happy 中立/neutral=neutral "
    "其他/other= 难过/sad=sad 吃惊/surprised=surprise <unk>=",
    "Emo-DB": "Wut=anger Ärger=anger Aerger=anger Langeweile=boredom Ekel=disgust Angst=fear Freude=happy Trauer=sad "
    "neutral=neutral wütend=anger wuetend=anger FRÖHLICH=happy",
    "MER": "worried=fear 担心=fear",
}
PAIRS = [(corpus, *pair.split("=")) for corpus, listed in CORPORA.items() for pair in listed.split()]
WRITTEN = (str, str.upper, str.title, " {} ".format, "[{}]".format, "<|{}|>".format, "'{}'".format)


def record(name="d", count=1, meta=None, **turn):
    turns = [{"turn_id": number, "text": "x", "response_text": "y"} | turn for number in range(1, count + 1)]
    return {"dialogue_id": name, "turns": turns} | ({"ieat_meta": meta} if meta else {})


@pytest.mark.parametrize(("corpus", "raw", "label"), PAIRS)
def test_spellings_of_corpora_and_labellers(corpus, raw, label):
    for write in WRITTEN:
        written = write(raw)
        assert (canonical_emotion(written) or "") == label, written
        # Under HumDial's key and under ours alike, and the raw label is kept.
        for turn in ({"emotion": written}, {"ieat": {"emotion": {"label": written}}}, {"input_emotion": written}):
            parsed = parse_record(record(**turn)).turns[0]
            assert (parsed.emotion or "", parsed.strange) == (label, ()), turn


@pytest.mark.parametrize("raw", ["xyz", "W", "3", "happy/sad", "angry/xyz", "not happy", "sarcastic"])
def test_what_nobody_understands_is_noted_under_both_keys(raw):
    for turn in ({"emotion": raw}, {"ieat": {"emotion": {"label": raw}}}):
        parsed = parse_record(record(**turn)).turns[0]
        assert (parsed.emotion, parsed.strange) == (None, (("emotion", raw),))


@pytest.mark.parametrize(
    ("raw", "label"),
    [("LO", "slight"), ("MD", "moderate"), ("HI", "strong"), ("XX", None), ("normal", "moderate"), ("Strong", "strong"),
     ("mild", "slight"), ("强", "strong"), ("轻微", "slight"), ("stark", "strong"), ("medium", "moderate")],
)  # fmt: skip
def test_intensities(raw, label):
    assert canonical_intensity(raw) == label
    parsed = parse_record(record(ieat={"emotion": {"label": "sad", "intensity": raw}})).turns[0]
    assert (parsed.intensity, parsed.strange) == (label, ())


@pytest.mark.parametrize(
    ("raw", "code"),
    [("zh-CN", "zh"), ("zh_TW", "zh"), ("zh-Hans-CN", "zh"), ("cmn", "zh"), ("zho", "zh"), ("Chinese", "zh"),
     ("中文", "zh"), ("Mandarin", "zh"), ("Chinese (Mandarin)", "zh"), ("ZH", "zh"), ("English", "en"),
     ("en-US", "en"), ("eng", "en"),
     ("American English", "en"), ("German", "de"), ("de_DE", "de"), ("Deutsch", "de"), ("nl", "nl"), ("gsw", "gsw"),
     ("<|zh|>", "zh")],
)  # fmt: skip
def test_languages(raw, code):
    assert canonical_language(raw) == code
    parsed = parse_record(record(meta={"language": raw}))
    assert (parsed.language, parsed.strange) == (code, ())
    assert parsed.raw["ieat_meta"]["language"] == raw


def test_a_language_nobody_understands_or_knows_is_that_of_the_words():
    for raw, strange in (("klingonisch", (("language", "klingonisch"),)), ("und", ()), ("unknown", ())):
        parsed = parse_record(record(meta={"language": raw}, text="你好"))
        assert (parsed.language, parsed.strange) == ("zh", strange)
    assert parse_record(record(text="鍵をなくした")).language == "ja"


@pytest.mark.parametrize(
    ("raw", "source"),
    [("Gold", "gold"), ("ground-truth", "gold"), ("Human", "human"), ("annotator", "human"),
     ("Model: Qwen", "model:Qwen"), ("model:Qwen", "model:Qwen"), ("MTurk 7", "MTurk 7")],
)  # fmt: skip
def test_sources(raw, source):
    assert canonical_source(raw) == source
    emotion = {"label": "sad", "source": raw}
    parsed = parse_record(record(ieat={"emotion": emotion, "cause": {"text": "x", "source": raw}})).turns[0]
    assert (parsed.emotion_source, parsed.cause.source) == (source, source)


@pytest.mark.parametrize("kind", ["neutral_words", "neutral-words", "Neutral Words"])
def test_kinds(kind):
    assert parse_record(record(meta={"kind": kind})).kind == "neutral_words"


def test_the_count_names_the_spellings():
    records = [parse_record(record("a", 3, emotion="xyz")), parse_record(record("b", 5, emotion="ang"))]
    records.append(parse_record(record("c", 2, emotion="xxx", ieat={"response": {"emotion": "meh"}})))
    assert told_of(records, 1.0, "x") == [
        "3 of 8 turns carry an emotion nobody understands: 'xyz' x 3; they count as unknown",
        "2 of 2 turns carry a style of the reply nobody understands: 'meh' x 2; they count as unknown",
    ]
    with pytest.raises(LabelError, match=r"r\.jsonl: 3 of 8 turns .*more than the accepted share of 0\.3"):
        told_of(records, 0.3, "r.jsonl")
    assert told_of(records[1:2], 0.0, "x") == []


def written(folder, records):
    path = folder / "r.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


STRANGE = {
    "emotion": {"emotion": "xyz"},
    "our emotion": {"ieat": {"emotion": {"label": "xyz"}}},
    "style": {"ieat": {"response": {"emotion": "xyz"}}},
    "intensity": {"ieat": {"emotion": {"label": "sad", "intensity": "xyz"}}},
}


@pytest.mark.parametrize("turn", STRANGE.values(), ids=STRANGE)
def test_check_and_training_report_and_refuse(turn, tmp_path, capsys):
    path = written(tmp_path, [record("a", 9, emotion="hap"), record("b", **turn)])
    assert prepare.main(["check", "--records", str(path)]) == 1
    said = capsys.readouterr().err
    assert "nobody understands: 'xyz' x 1" in said
    assert "all good" not in said
    settings = {"mine": SourceConfig(str(path))}
    with pytest.raises(LabelError, match=r"'xyz' x 1, more than the accepted share of 0\.02"):
        open_sources(settings, Quarantine(0.02))
    assert prepare.main(["check", "--records", str(path), "--max-bad-share", "1"]) == 0
    (source,) = open_sources(settings, Quarantine(1.0))
    assert len(source) == 2
    assert "nobody understands: 'xyz' x 1; they count as unknown" in capsys.readouterr().err


def test_usual_spellings_are_all_good(tmp_path, capsys):
    turns = [{"emotion": raw} for _, raw, _ in PAIRS]
    path = written(tmp_path, [record(f"d{number}", **turn) for number, turn in enumerate(turns)])
    assert prepare.main(["check", "--records", str(path)]) == 0
    assert "all good" in capsys.readouterr().err
