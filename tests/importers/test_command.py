"""`prepare import`: what holds for every corpus."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.corpus_trees import imported, lines, set_aside, sound, tree

from ieat_jax import prepare
from ieat_jax.data.records import read_records
from ieat_jax.errors import UserError
from ieat_jax.importers.command import all_corpora

NAMES = ("03a01Wa", "12a01Na", "15b10Ta", "08a02Fb")


@pytest.fixture
def emodb(tmp_path):
    return tree(tmp_path / "wav", {f"{name}.wav": None for name in NAMES})


@pytest.mark.parametrize(
    "more", [["emodb"], ["emodb", "here"], ["--split", "test"], ["--no-listen"], ["--option", "a=b"]]
)
def test_a_list_takes_nothing_else(more):
    with pytest.raises(UserError, match=f"--list names all corpora and ends: leave out {more[0]}, or --list"):
        prepare.main(["import", "--list", *more])


def test_the_list_names_every_file_of_the_room(capsys):
    assert prepare.main(["import", "--list"]) == 0
    said = capsys.readouterr().out
    folder = Path(importlib.import_module("ieat_jax.importers.corpora").__file__).parent
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(re.findall(r"^(\w+): ", said, re.MULTILINE)) == names
    for name, corpus in all_corpora().items():
        assert corpus.name == name
        assert f"{name}: {corpus.title}\n    {corpus.licence}\n    {corpus.source}\n" in said
        for option, (default, text) in corpus.options.items():
            assert f"    --option {option}={default}   {text}\n" in said


def test_every_corpus_is_imported_by_a_test():
    calls = "".join(path.read_text() for path in (Path(__file__).parent / "corpora").glob("test_*.py"))
    assert [name for name in all_corpora() if f'"{name}"' not in calls] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"prepare import CORPUS FOLDER --out RECORDS\.jsonl"),
        (("emodb", "."), r"prepare import CORPUS FOLDER --out RECORDS\.jsonl"),
        (("emo", ".", "--out", "x"), r"emo: no such corpus; there are cremad, .*emodb, "),
        (("emodb", "nowhere", "--out", "x"), r"nowhere: no such file or folder; give the one that Emo-DB.* unpacked"),
        (("emodb", ".", "--out", "x"), r"holds no recordings of this corpus; they are files such as 03a01Wa\.wav"),
        (("emodb", ".", "--out", "x", "--option", "txt=en"), r"--option txt=en: emodb has the options text=de"),
        (("savee", ".", "--out", "x", "--option", "a=b"), r"--option a=b: savee has the options none"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare.main(["import", *arguments])
    assert list(tmp_path.iterdir()) == []


def outcome(arguments, capsys):
    """(exit code, what is said about an error) of a command."""
    try:
        code = prepare.main(arguments)
    except UserError as error:
        return 2, str(error)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("name", all_corpora())
@pytest.mark.parametrize("kind", ["empty", "alien", "bytes"])
def test_a_folder_that_is_another_one_is_a_sentence(name, kind, tmp_path, capsys):
    """No corpus in it, the files of others, or files of its own names that hold anything: never a traceback."""
    files = {} if kind == "empty" else {"a/notes.doc": b"x"}
    if kind == "bytes":
        junk = bytes(range(256)) * 3
        own = ["train.jsonl", "cuts.jsonl", "cuts.jsonl.gz", "wav.scp", "list.csv", "dailydialog_train.json"]
        own += ["train_sent_emo.csv", "train/dia0_utt0.wav", "0011/0011.txt", "0011/Angry/0011_000401.wav"]
        own += ["Session1/sentences/wav/a/Ses01F_impro01_F000.wav", "Session1/dialog/EmoEvaluation/a.txt"]
        own += ["Session1/dialog/transcriptions/a.txt", "DC_a01.wav", "OAF_back_angry.wav", "03a01Wa.wav"]
        own += ["1001_DFA_ANG_XX.wav", "03-01-06-01-02-01-12.wav", "bea_Amused/amused_1-15_0001.wav"]
        files |= dict.fromkeys(own, junk)
    folder = tree(tmp_path / "corpus", files)
    folder.mkdir(exist_ok=True)
    out = tmp_path / "out"
    code, said = outcome(["import", name, str(folder), "--out", str(out)], capsys)
    if code == 2:
        assert str(folder) in said or "Extract their sound" in said
        assert len(said) > 30
    else:
        assert (kind, code) == ("bytes", 1)
        assert "error: " in said
    assert not list(out.glob("[!q]*")) if out.exists() else True


def test_a_file_per_split_or_one_for_all(emodb, tmp_path, capsys):
    assert prepare.main(["import", "emodb", str(emodb), "--out", str(tmp_path / "out")]) == 0
    assert {path.name: len(read_records(path)) for path in (tmp_path / "out").iterdir()} == {
        "train.jsonl": 2, "validation.jsonl": 1, "test.jsonl": 1,
    }  # fmt: skip
    assert "4 recordings = 4 accepted + 0 quarantined" in capsys.readouterr().out
    assert list(imported("emodb", emodb, tmp_path)) == sorted(f"emodb_{name}" for name in NAMES)
    assert list(imported("emodb", emodb, tmp_path, "--split", "test")) == ["emodb_15b10Ta"]
    assert "not written, of other splits: train 2, validation 1" in capsys.readouterr().out


def test_a_split_that_nothing_is_of(emodb, tmp_path):
    (emodb / "15b10Ta.wav").unlink()
    with pytest.raises(UserError, match=r"--split test: no dialogue is of it; there are train \(2\), validation \(1\)"):
        imported("emodb", emodb, tmp_path, "--split", "test")


def test_bad_sound_is_set_aside_with_its_reason(emodb, tmp_path, capsys):
    sound(emodb / "09a01Wa.wav", silent=True)
    (emodb / "10a01Wa.wav").write_bytes(b"")
    (emodb / "11a01Wa.wav").write_bytes(b"RIFF no sound")
    whole = (emodb / "03a01Wa.wav").read_bytes()
    (emodb / "14a01Wa.wav").write_bytes(whole[: len(whole) // 2])
    (emodb / "16a01Wa.wav").symlink_to(tmp_path / "nowhere.wav")
    assert imported("emodb", emodb, tmp_path, code=1) == {}
    assert not (tmp_path / "records.jsonl").exists()
    said = capsys.readouterr().err
    assert "5 of 9 records are bad" in said
    codes = set_aside(tmp_path)
    assert set(codes) == {f"{speaker}a01Wa.wav" for speaker in ("09", "10", "11", "14", "16")}
    assert codes["16a01Wa.wav"] == "missing"
    assert len(imported("emodb", emodb, tmp_path, "--max-bad-share", "0.6")) == 4
    assert "9 recordings = 4 accepted + 5 quarantined" in capsys.readouterr().out
    # Without listening, what is there is taken.
    assert len(imported("emodb", emodb, tmp_path, "--max-bad-share", "0.6", "--no-listen")) == 8


def test_an_import_that_fails_leaves_the_last_one(emodb, tmp_path):
    imported("emodb", emodb, tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    (emodb / "99a01Wa.wav").write_bytes(b"x")
    imported("emodb", emodb, tmp_path, code=1)
    assert (tmp_path / "records.jsonl").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_labels_that_nobody_understands_are_counted_and_refused_above_a_share(tmp_path, capsys):
    rows = [{"id": f"r{number}", "text": "x", "emotion": "blorp" if number < 3 else "sad"} for number in range(10)]
    folder = tree(tmp_path / "mine", {"list.jsonl": lines(rows)})
    imported("manifest", folder, tmp_path, code=1)
    assert "3 of 10 turns carry an emotion nobody understands: 'blorp' x 3" in capsys.readouterr().err
    assert not (tmp_path / "records.jsonl").exists()
    records = imported("manifest", folder, tmp_path, "--max-bad-share", "0.3")
    assert "3 of 10 turns carry an emotion nobody understands: 'blorp' x 3" in capsys.readouterr().out
    assert [record.turns[0].emotion for record in records.values()] == [None] * 3 + ["sad"] * 7
    assert records["r0"].turns[0].raw_emotion == "blorp"


def test_ids_that_stand_twice(tmp_path):
    rows = [{"id": "one", "text": "x"}, {"id": "one", "text": "y"}, {"id": "two", "text": "z"}]
    folder = tree(tmp_path / "mine", {"list.jsonl": lines(rows)})
    assert sorted(imported("manifest", folder, tmp_path, "--max-bad-share", "0.5")) == ["one", "two"]
    assert set_aside(tmp_path) == {"list.jsonl:2": "duplicate_id"}


def test_the_account_is_whole_whatever_is_in_the_folder(tmp_path, capsys):
    """Files of any kind in any place: accepted and quarantined are all recordings, others are counted."""
    files = {f"deep/er/{name}.wav": None for name in NAMES}
    files |= {
        "x.wav": b"",
        "deep/y.WAV": b"\0",
        "notes.txt": "x",
        "more/z.flac": b"",
        ".hidden.wav": b"",
        "a b.wav": b"",
    }
    folder = tree(tmp_path / "corpus", files)
    imported("emodb", folder, tmp_path, "--max-bad-share", "1")
    said = capsys.readouterr().out
    assert "7 recordings = 4 accepted + 3 quarantined (3 x unknown_name)" in said
    assert "1 other sound files and videos are in no record, such as more/z.flac" in said
    assert "2 other files in the folder" in said


def test_the_command_in_a_process_of_its_own(emodb, tmp_path):
    command = [sys.executable, "-m", "ieat_jax.prepare", "import"]
    bad = subprocess.run([*command, "nothing", "x", "--out", "y"], capture_output=True, text=True, cwd=tmp_path)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: nothing: no such corpus")
    assert "Traceback" not in bad.stderr
    done = subprocess.run([*command, "emodb", str(emodb), "--out", "out"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/test.jsonl").read_text())
    assert record["ieat_meta"]["licence"] == all_corpora()["emodb"].licence
