import os
from collections import Counter
from pathlib import Path

import pytest

from ieat_jax.audio.files import read_audio
from ieat_jax.data.records import parse_record
from ieat_jax.preparation.importers.emodb import EMOTION_LETTERS, SENTENCES, SPEAKERS, EmodbError, import_emodb

SHARED = Path(os.environ.get("IEAT_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def touch(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


def test_a_name_is_read(tmp_path):
    splits = import_emodb(touch(tmp_path, "16b03Wc.wav", "12a01Na.wav", "03a02Fd.wav", "README.txt"))
    assert {split: len(records) for split, records in splits.items()} == {"train": 1, "validation": 1, "test": 1}
    record = parse_record(splits["test"][0])
    turn = record.turns[0]
    assert (record.dialogue_id, record.speaker, record.language) == ("emodb_16b03Wc", "16", "de")
    assert turn.text.startswith("An den Wochenenden")
    assert (turn.emotion, turn.raw_emotion, turn.emotion_source) == ("anger", "W", "gold")
    assert turn.audio == "16b03Wc.wav"
    assert turn.response_text == ""
    assert turn.raw["ieat"]["translation"].startswith("On the weekends")
    assert record.raw["ieat_meta"]["gender"] == "female"


def test_words_can_be_english(tmp_path):
    record = import_emodb(touch(tmp_path, "16b03Wc.wav"), text="en")["test"][0]
    turn = parse_record(record).turns[0]
    assert turn.text.startswith("On the weekends")
    assert turn.raw["ieat"]["words"].startswith("An den Wochenenden")


@pytest.mark.parametrize(
    "name",
    ["song.wav", "03a03Wa.wav", "07a01Wa.wav", "03a01Xa.wav", "03a01W.wav", "03a01Wa2.wav", "03a01wa.wav", "x.WAV"],
)
def test_a_name_that_does_not_fit_is_named(name, tmp_path):
    with pytest.raises(EmodbError, match=f"{name}: not a recording"):
        import_emodb(touch(tmp_path, "03a01Wa.wav", name))


def test_folders_that_are_not_emodb(tmp_path):
    with pytest.raises(EmodbError, match="holds no wav files"):
        import_emodb(tmp_path)
    with pytest.raises(EmodbError, match="no such folder"):
        import_emodb(tmp_path / "no")


def test_the_real_corpus():
    folder = SHARED / "emodb" / "wav"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing (set IEAT_SHARED_DATA)")
    splits = import_emodb(folder)
    records = [parse_record(record) for records in splits.values() for record in records]
    assert len(records) == len({record.dialogue_id for record in records}) == 535
    counts = Counter(record.turns[0].emotion for record in records)
    assert [counts[label] for label in EMOTION_LETTERS.values()] == [127, 81, 46, 69, 71, 62, 79]
    speakers = {split: {record["ieat_meta"]["speaker"] for record in records} for split, records in splits.items()}
    assert speakers["test"] == {"15", "16"}
    assert speakers["validation"] == {"12", "13"}
    assert speakers["train"] | speakers["test"] | speakers["validation"] == set(SPEAKERS)
    assert {record.turns[0].text for record in records} == {german for german, _ in SENTENCES.values()}
    assert len(read_audio(records[0].turns[0].audio, max_seconds=30, root=folder)) > 8000
