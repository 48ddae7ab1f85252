"""Lists that anybody may have: a manifest with a map of columns, Kaldi's data folders, Lhotse's cuts."""

import gzip
import hashlib
import json
import re

import numpy as np
import pytest
import soundfile
from helpers.corpus_trees import imported, lines, set_aside, sound, tree

from ieat_jax.errors import UserError

HALF = ("--max-bad-share", "0.6")
ROWS = [
    {"file": "a.wav", "said": "It rains, again.", "feels": "ANG", "who": "anna", "set": "dev"},
    {"file": "b.wav", "said": "你好", "feels": "开心", "who": "bo", "set": "train"},
]
MAP = ("--option", "audio=file", "--option", "text=said", "--option", "emotion=feels", "--option", "speaker=who")
MAP += ("--option", "split=set")


def table(rows, separator):
    def cell(text):
        return f'"{text}"' if separator == "," else text

    return "".join(separator.join(map(cell, row)) + "\n" for row in ([*rows[0]], *(row.values() for row in rows)))


LISTS = {
    "list.csv": table(ROWS, ",").encode(),
    "bom.csv": table(ROWS, ",").encode("utf-8-sig"),
    "utf16.csv": table(ROWS, ",").encode("utf-16"),
    "old.csv": table(ROWS, ",").encode("gb18030"),
    "crlf.csv": table(ROWS, ",").replace("\n", "\r\n").encode(),
    "list.tsv": table(ROWS, "\t").encode(),
    "list.txt": table(ROWS, "\t").encode(),
    "list.jsonl": lines(ROWS).encode(),
    "list.jsonl.gz": gzip.compress(lines(ROWS).encode()),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_manifest_of_any_kind(name, tmp_path):
    folder = tree(tmp_path / "mine", {name: LISTS[name], "a.wav": None, "b.wav": None})
    records = list(imported("manifest", folder / name, tmp_path, *MAP).values())
    assert [record.turns[0].text for record in records] == ["It rains, again.", "你好"]
    assert [record.turns[0].emotion for record in records] == ["anger", "happy"]
    assert [record.turns[0].raw_emotion for record in records] == ["ANG", "开心"]
    assert [record.speaker for record in records] == ["anna", "bo"]
    assert [record.raw["ieat_meta"]["split"] for record in records] == ["validation", "train"]
    assert [record.turns[0].audio for record in records] == ["a.wav", "b.wav"]
    assert len({record.dialogue_id for record in records}) == 2


def test_a_manifest_of_dialogues(tmp_path):
    rows = [
        {"dialogue": "d", "audio": "x/1.wav", "text": "I lost them.", "emotion": "sad", "intensity": "hi",
         "tone": "a soft voice", "cause": "lost them", "reply": "Oh no.", "reply_audio": "x/r.wav", "style": "comfort",
         "language": "en"},
        {"dialogue": "e", "text": "Hi.", "id": "unused"},
        {"dialogue": "d", "text": "And yours?", "emotion": None},
        {"id": "single", "text": 7},
    ]  # fmt: skip
    folder = tree(tmp_path / "mine", {"lists/all.jsonl": lines(rows), "x/1.wav": None, "lists/x/r.wav": None})
    arguments = ("--option", "source=model:x", "--audio-root", str(tmp_path))
    records = imported("manifest", folder, tmp_path, *arguments)
    first, second = records["d"].turns
    assert (first.audio, first.response_audio) == ("mine/x/1.wav", "mine/lists/x/r.wav")
    assert (first.emotion, first.intensity, first.tone, first.cause.text) == (
        "sad", "strong", "a soft voice", "lost them",
    )  # fmt: skip
    assert (first.response_text, first.response_emotion, first.emotion_source) == ("Oh no.", "comfort", "model:x")
    assert (second.turn_id, second.text, second.emotion) == (2, "And yours?", None)
    assert records["single"].turns[0].text == "7"
    assert sorted(records) == ["d", "e", "single"]


def test_rows_that_are_wrong(tmp_path, capsys):
    rows = ["audio,text,split", "a.wav,one,train", "a.wav,two,autumn", ",,train", "gone.wav,x,", "../out.wav,x,"]
    text = "\n".join([*rows, "bad.wav,x,", "a,b,c,d", ""])
    folder = tree(tmp_path / "mine", {"list.csv": text, "a.wav": None, "bad.wav": b"no sound at all"})
    sound(tmp_path / "out.wav")
    assert list(imported("manifest", folder, tmp_path, "--max-bad-share", "0.9")) == ["list_2"]
    assert set_aside(tmp_path) == {
        "list.csv:3": "unknown_split", "list.csv:4": "empty", "list.csv:5": "missing", "list.csv:6": "outside_root",
        "list.csv:7": "not_audio", "list.csv:8": "not_a_row",
    }  # fmt: skip
    assert "7 rows = 1 accepted + 6 quarantined" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("a.csv", "path\nx.wav\n", ("--option", "audio=file"), r"audio=file: there is no such column; there are path"),
        ("a.csv", "x,x\n1,2\n", (), "name every column, each once"),
        ("a.csv", 'x,y\n"1,2\n', (), "is no table"),
        ("a.csv", b"\xff\xfe\x00", (), "cannot be read as text"),
        ("a.csv", b"x\n\x81\xff\n", (), "cannot be read as text .*save it as UTF-8"),
        ("a.jsonl.gz", b"no gzip", (), "cannot be read as gzip"),
        ("a.jsonl.gz", gzip.compress(b"{}\n" * 99, mtime=0)[:20], (), "cannot be read as gzip"),
        ("a.doc", "x", (), "a list ends in"),
        ("a.csv", "text\nx\n", ("--option", "colour=red"), "--option colour=red: manifest has the options id=id"),
        ("a.csv", "text\nx\n", ("--option", "audio"), "manifest has the options"),
        ("a.csv", "text\n", (), "nothing of it can be used"),
    ],
)
def test_lists_that_cannot_be_read(name, content, arguments, message, tmp_path):
    path = tree(tmp_path / "mine", {name: content}) / name
    with pytest.raises(UserError, match=message):
        imported("manifest", path, tmp_path, *arguments)


def test_speakers_do_not_cross_splits(tmp_path):
    rows = [{"id": f"{number}", "text": "x", "speaker": f"s{number % 40}"} for number in range(400)]
    folder = tree(tmp_path / "mine", {"list.jsonl": lines(rows)})
    splits = {}
    for record in imported("manifest", folder, tmp_path).values():
        splits.setdefault(record.speaker, set()).add(record.raw["ieat_meta"]["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "validation", "test"}
    # The same in every process, on every machine.
    digest = int.from_bytes(hashlib.sha256(b"s0").digest()[:8], "big") % 10
    assert splits["s0"] == {"test" if digest == 0 else "validation" if digest == 1 else "train"}


KALDI = {
    "wav.scp": "one wavs/one.wav\ntwo wavs/two.wav\npipe sph2pipe -f wav x.sph |\nark x.ark:12\n",
    "text": "one It rains.\ntwo And snows.\n",
    "utt2spk": "one anna\ntwo bo\n", "spk2gender": "anna f\nbo m\n", "utt2lang": "one en\ntwo zh\n",
    "utt2emo": "one ang\ntwo hap\n",
}  # fmt: skip


def test_kaldi(tmp_path):
    files = {f"train/{name}": text for name, text in KALDI.items()}
    folder = tree(tmp_path / "data", files | {"train/wavs/one.wav": None, "train/wavs/two.wav": None})
    records = imported("kaldi", folder, tmp_path, *HALF)
    one = records["train/one"]
    assert (one.turns[0].text, one.turns[0].emotion, one.speaker, one.language) == ("It rains.", "anger", "anna", "en")
    assert one.turns[0].audio == "train/wavs/one.wav"
    assert one.raw["ieat_meta"]["gender"] == "female"
    assert one.raw["ieat_meta"]["split"] == "train"
    assert records["train/two"].language == "zh"
    assert set_aside(tmp_path) == {"train/pipe": "command", "train/ark": "missing"}


def test_kaldi_segments(tmp_path, capsys):
    folder = tmp_path / "data"
    tree(folder, {
        "wav.scp": f"rec {folder / 'rec.wav'}\nlonely rec.wav\n",
        "segments": "a rec 0.0 0.5\nb rec 0.5 1.25\nall rec 0 -1\nlate rec 1.5 9\n"
                    "back rec 1 0.5\nnone gone 0 1\nbad rec x y\n",
    })  # fmt: skip
    sound(folder / "rec.wav", seconds=2.0, rate=8_000)
    bad = ("--max-bad-share", "0.9")
    imported("kaldi", folder, tmp_path, *bad)
    codes = set_aside(tmp_path)
    assert codes == {
        "a": "part", "b": "part", "late": "outside_recording", "back": "outside_recording", "none": "missing",
        "bad": "not_a_row",
    }  # fmt: skip
    records = imported("kaldi", folder, tmp_path, "--option", "parts=parts", *bad)
    paths = {name: record.turns[0].audio for name, record in records.items()}
    assert paths["all"] == "rec.wav"
    assert re.fullmatch(r"parts/a-\w{12}\.flac", paths["a"])
    whole, _ = soundfile.read(folder / "rec.wav", dtype="int16")
    part, rate = soundfile.read(folder / paths["b"], dtype="int16")
    assert rate == 8_000
    np.testing.assert_array_equal(part, whole[4_000:10_000])
    before = (folder / paths["b"]).stat().st_mtime_ns
    imported("kaldi", folder, tmp_path, "--option", "parts=parts", *bad)
    assert (folder / paths["b"]).stat().st_mtime_ns == before
    assert "no segment is of lonely" in capsys.readouterr().out
    with pytest.raises(UserError, match="has to lie inside of"):
        imported("kaldi", folder, tmp_path, "--option", "parts=../elsewhere", *bad)
    with pytest.raises(UserError, match=r"--option parts gs://b/parts: files cannot be read from or written to gs://"):
        imported("kaldi", folder, tmp_path, "--option", "parts=gs://b/parts", *bad)
    assert not (folder / "gs:").exists()


def test_parts_of_the_same_name_are_kept_apart(tmp_path):
    folder = tmp_path / "data"
    for split, words in (("train", "你好"), ("test", "再见")):
        tree(folder / split, {"wav.scp": "rec rec.wav\n", "segments": f"one rec 0 0.5\n{words} rec 0.5 1\n"})
        sound(folder / split / "rec.wav", seconds=2.0, rate=8_000)
    records = imported("kaldi", folder, tmp_path, "--option", "parts=parts")
    assert sorted(records) == ["test/one", "test/再见", "train/one", "train/你好"]
    for name, record in records.items():
        whole, _ = soundfile.read(folder / name.partition("/")[0] / "rec.wav", dtype="int16")
        part, _ = soundfile.read(folder / record.turns[0].audio, dtype="int16")
        np.testing.assert_array_equal(part, whole[:4_000] if name.endswith("one") else whole[4_000:8_000])


def test_kaldi_with_a_key_that_stands_twice(tmp_path):
    folder = tree(tmp_path / "data", {"wav.scp": "a a.wav\na a.wav\n", "a.wav": None})
    with pytest.raises(UserError, match=r"wav.scp:2: a stands in an earlier line"):
        imported("kaldi", folder, tmp_path)


def cut(name, source="rec.wav", start=0.0, duration=2.0, channel=0, **more):
    recording = {"id": "rec", "sources": [{"type": "file", "channels": [0], "source": source}], "duration": 2.0}
    recording |= {"sampling_rate": 16_000, "num_samples": 32_000}
    supervision = {
        "id": f"s_{name}",
        "recording_id": "rec",
        "start": 0.0,
        "duration": duration,
        "text": f"words of {name}",
    }
    supervision |= {"language": "English", "speaker": "anna", "gender": "female", "custom": {"emotion": "sad"}}
    return {
        "id": name, "start": start, "duration": duration, "channel": channel, "supervisions": [supervision],
        "recording": recording, "type": "MonoCut",
    } | more  # fmt: skip


def lhotse(folder, cuts, name="cuts_train.jsonl.gz"):
    sound(folder / "rec.wav", seconds=2.0)
    sound(folder / "stereo.wav", seconds=2.0, channels=2)
    return tree(folder, {name: gzip.compress(lines(cuts).encode())})


def test_lhotse(tmp_path):
    both = cut("both")
    both["supervisions"] = [
        {"id": "1", "start": 0.0, "duration": 0.5, "text": "first", "custom": {"emotion": "happy"}},
        {"id": "2", "start": 0.5, "duration": 1.5, "text": "second"},
    ]
    both["custom"] = {"emotion": "fear"}
    archive = cut("archive")
    archive["recording"]["sources"][0]["type"] = "command"
    cuts = [
        cut("whole"), cut("part", start=0.5, duration=1.0), cut("right", "stereo.wav", channel=1), both, archive,
        cut("mixed", type="MixedCut"), cut("gone", "gone.wav"), cut("odd", start="x"), {"id": "bare"},
        cut("three", channel=3, source="stereo.wav"),
    ]  # fmt: skip
    folder = lhotse(tmp_path / "data", cuts)
    bad = ("--max-bad-share", "0.9")
    assert list(imported("lhotse", folder, tmp_path, *bad)) == ["whole"]
    codes = {2: "part", 3: "part", 4: "part", 5: "no_file", 6: "not_a_cut", 7: "missing", 8: "not_a_cut",
             9: "no_recording", 10: "no_channel"}  # fmt: skip
    assert set_aside(tmp_path) == {f"cuts_train.jsonl.gz:{line}": code for line, code in codes.items()}
    records = imported("lhotse", folder, tmp_path, "--option", "parts=parts", *bad)
    assert list(records) == ["whole", "part", "right", "both_1", "both_2"]
    whole = records["whole"]
    assert (whole.turns[0].text, whole.turns[0].emotion, whole.speaker, whole.language) == (
        "words of whole", "sad", "anna", "en",
    )  # fmt: skip
    assert whole.raw["ieat_meta"]["split"] == "train"
    assert [records[f"both_{number}"].turns[0].emotion for number in (1, 2)] == ["happy", "fear"]
    assert {name: soundfile.info(folder / record.turns[0].audio).frames for name, record in records.items()} == {
        "whole": 32_000, "part": 16_000, "right": 32_000, "both_1": 8_000, "both_2": 24_000,
    }  # fmt: skip
    assert soundfile.info(folder / records["right"].turns[0].audio).channels == 1


def test_lhotse_by_its_file_and_plain(tmp_path):
    folder = tmp_path / "data"
    sound(folder / "rec.wav", seconds=2.0)
    tree(folder, {"mine.jsonl": lines([cut("whole", str(folder / "rec.wav"))]), "cuts.jsonl": json.dumps({"id": 1})})
    assert list(imported("lhotse", folder / "mine.jsonl", tmp_path)) == ["whole"]
