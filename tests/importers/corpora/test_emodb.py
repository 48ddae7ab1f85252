import os
from collections import Counter
from pathlib import Path

import pytest
from helpers.corpus_trees import imported, set_aside, tree

from ieat_jax.audio.files import read_audio
from ieat_jax.errors import UserError
from ieat_jax.importers.corpora.emodb import EMOTION_LETTERS, SENTENCES, SPEAKERS

SHARED = Path(os.environ.get("IEAT_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def test_a_name_is_read(tmp_path):
    names = ("16b03Wc.wav", "12a01Na.wav", "03a02Fd.wav", "08a02F.wav")
    folder = tree(tmp_path / "wav", dict.fromkeys(names) | {"README.txt": "x", "._16b03Wc.wav": b"of a Mac"})
    records = imported("emodb", folder, tmp_path)
    assert Counter(record.raw["ieat_meta"]["split"] for record in records.values()) == {
        "train": 2, "validation": 1, "test": 1,
    }  # fmt: skip
    record = records["emodb_16b03Wc"]
    turn = record.turns[0]
    assert (record.speaker, record.language, record.kind) == ("16", "de", "neutral_words")
    assert turn.text.startswith("An den Wochenenden")
    assert (turn.emotion, turn.raw_emotion, turn.emotion_source) == ("anger", "W", "gold")
    assert turn.audio == "16b03Wc.wav"
    assert turn.response_text == ""
    assert turn.raw["ieat"]["translation"].startswith("On the weekends")
    assert record.raw["ieat_meta"]["gender"] == "female"
    assert record.raw["ieat_meta"]["corpus"] == "emodb"


def test_words_can_be_english(tmp_path):
    folder = tree(tmp_path / "wav", {"16b03Wc.wav": None})
    (turn,) = imported("emodb", folder, tmp_path, "--option", "text=en")["emodb_16b03Wc"].turns
    assert turn.text.startswith("On the weekends")
    assert turn.raw["ieat"]["words"].startswith("An den Wochenenden")
    with pytest.raises(UserError, match="text=fr: de"):
        imported("emodb", folder, tmp_path, "--option", "text=fr")


@pytest.mark.parametrize(
    "name", ["song.wav", "03a03Wa.wav", "07a01Wa.wav", "03a01wa.wav", "03a01Wa2.wav", "x.WAV", "03a01W-a.wav"]
)
def test_a_name_that_does_not_fit_is_set_aside(name, tmp_path):
    folder = tree(tmp_path / "wav", {"03a01Wa.wav": None, name: None})
    assert list(imported("emodb", folder, tmp_path, "--max-bad-share", "0.5")) == ["emodb_03a01Wa"]
    assert set_aside(tmp_path) == {name: "unknown_name"}


def test_the_real_corpus(tmp_path, capsys):
    folder = SHARED / "emodb" / "wav"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing (set IEAT_SHARED_DATA)")
    records = list(imported("emodb", folder, tmp_path).values())
    assert "emodb: 535 recordings = 535 accepted + 0 quarantined" in capsys.readouterr().out
    assert len(records) == 535
    counts = Counter(record.turns[0].emotion for record in records)
    assert [counts[label] for label in EMOTION_LETTERS.values()] == [127, 81, 46, 69, 71, 62, 79]
    speakers = {}
    for record in records:
        speakers.setdefault(record.raw["ieat_meta"]["split"], set()).add(record.speaker)
    assert speakers["test"] == {"15", "16"}
    assert speakers["validation"] == {"12", "13"}
    assert speakers["train"] | speakers["test"] | speakers["validation"] == set(SPEAKERS)
    assert {record.turns[0].text for record in records} == {german for german, _ in SENTENCES.values()}
    assert len(read_audio(records[0].turns[0].audio, max_seconds=30, root=folder)) > 8000
