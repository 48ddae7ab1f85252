"""A file of records read one at a time: the same as read at once, its index trusted as long as nothing changed."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.many_sizes import write_corpus

from ieat_jax.audio.files import AudioError
from ieat_jax.config.sections import SourceConfig
from ieat_jax.data.jsonl import RecordError
from ieat_jax.data.labels import EMOTIONS
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import read_records, to_json
from ieat_jax.data.sources import jsonl, sound
from ieat_jax.data.sources.jsonl import JsonLines
from ieat_jax.data.sources.open import open_sources
from ieat_jax.data.sources.store import DataError

LONG_AGO = 1_600_000_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def folder(whole, tmp_path):
    """A copy that was written long ago."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.index"))
    settle(tmp_path)
    return tmp_path


def settle(folder):
    for number, path in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
        os.utime(path, (LONG_AGO + number,) * 2)


@pytest.fixture
def read(monkeypatch):
    """What is read of a corpus to make an index since this was asked: 'lines', and paths of recordings."""
    seen = []

    def watch(module, name, say):
        call = getattr(module, name)

        def watched(*arguments, **options):
            seen.append(say(*arguments))
            return call(*arguments, **options)

        monkeypatch.setattr(module, name, watched)

    watch(jsonl, "iter_lines", lambda path: "lines")
    watch(sound, "count_samples", lambda path: path)
    return lambda: [seen.pop(0) for _ in list(seen) if seen]


def identity(path, records, root):
    """As runs of before remember it: over everything, record by record."""
    head, content, audio = (hashlib.sha256() for _ in range(3))
    for record in records:
        head.update(json.dumps(record.raw, sort_keys=True).encode())
        content.update(json.dumps(to_json(record), sort_keys=True).encode())
        for turn in record.turns:
            head.update(b"-" if turn.units is None else np.asarray(turn.units, np.int32).tobytes())
            audio.update(b"-" if turn.audio is None else sound.sample(root / turn.audio))
    made = {"hash": head, "content": content, "audio": audio}
    return {"records": len(records), **{name: each.hexdigest()[:16] for name, each in made.items()}, "weight": 1.0}


def test_every_record_is_the_one_that_reading_the_file_gives(folder):
    path = folder / "all.jsonl"
    lines = path.read_text().splitlines()
    strange = json.loads(lines[0]) | {"dialogue_id": "strange", "note": "one\u2028two müde"}
    odd = [lines[0] + "\r", "", "no json", lines[1], "   ", lines[0], json.dumps(strange, ensure_ascii=False)]
    path.write_text("\n".join([*odd, *lines[2:]]), encoding="utf-8")  # without a newline at the end
    quarantine, same = Quarantine(1.0), Quarantine(1.0)
    (source,) = open_sources({"mine": SourceConfig(str(path))}, quarantine)
    records = read_records(path, quarantine=same)
    assert len(source) == len(records) == 41
    for number in reversed(range(41)):
        assert source.record(number) == records[number]
        assert source.record(number).line == records[number].line
        assert source.place(number) == f"{path}:{records[number].line}: {records[number].dialogue_id}"
    assert quarantine.notes == same.notes
    assert {code for code, _ in quarantine.notes.values()} == {"not_json", "duplicate_id"}
    assert quarantine.total == same.total + 41
    assert source.identity() == identity(path, records, folder)


def test_the_index_tells_what_the_records_hold(folder):
    lines = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]
    del lines[3]["turns"][0]["response_text"], lines[4]["turns"][0]["split_audio_file"]
    lines[5]["turns"][0]["split_audio_file"] = "absent.wav"
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    index = JsonLines(folder / "all.jsonl").index
    records = read_records(folder / "all.jsonl")
    turns = [turn for record in records for turn in record.turns]
    assert np.diff(index["offsets"]).tolist() == [len(record.turns) for record in records]
    assert index["units"].tolist() == [0 if turn.units is None else len(turn.units) for turn in turns]
    assert index["answered"].tolist() == [bool(turn.response_text) for turn in turns]
    last = [record.turns[-1].emotion for record in records]
    assert index["emotion"].tolist() == [EMOTIONS.index(label) if label else -1 for label in last]
    assert index.facts["spoken"] == sum(turn.units is not None for turn in turns)
    told = [
        "none" if turn.audio is None else "bad" if turn.audio == "absent.wav" else sound.count_samples(
            turn.audio, max_seconds=99, root=folder
        )
        for turn in turns
    ]  # fmt: skip
    fault = -1 - index.facts["faults"].index("missing")
    assert index["samples"].tolist() == [{"none": 0, "bad": fault}.get(each, each) for each in told]


def test_nothing_is_read_again_while_size_and_time_are_the_same(folder, read):
    first = JsonLines(folder / "all.jsonl").identity()
    assert "lines" in read()
    again = JsonLines(folder / "all.jsonl")
    assert read() == []
    assert again.identity() == first
    path, then = folder / "all.jsonl", (folder / "all.jsonl").stat()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"d0", b"D0"))  # which nobody can see
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert JsonLines(path).identity() == first
    path.write_bytes(content)
    # As a copy has it: other times. The file is looked at, its records are not; recordings are measured again.
    for path in folder.glob("*.*"):
        os.utime(path)
    os.utime(folder / "all.jsonl", (LONG_AGO - 9,) * 2)
    copied = JsonLines(folder / "all.jsonl")
    assert {f"{number}.wav" for number in range(6)} == set(read())
    assert copied.identity() == first
    assert JsonLines(folder / "all.jsonl").identity() == first
    assert read() == []


def test_a_file_that_was_just_written_is_not_trusted_by_its_time(folder):
    path = folder / "all.jsonl"
    os.utime(path)
    then, first = path.stat(), JsonLines(path).identity()
    path.write_text(path.read_text().replace('"sad"', '"joy"', 1))
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))  # changed within the file system's grain of time
    assert path.stat().st_size == then.st_size
    assert JsonLines(path).identity() != first


def test_other_records_have_another_index_and_the_newest_few_are_kept(folder):
    path = folder / "all.jsonl"
    text, seen = path.read_text(), set()
    for number in range(6):
        path.write_text(text.replace("d0", f"z{number}", 1))
        assert JsonLines(path).record(0).dialogue_id == f"z{number}"
        seen.add(json.dumps(JsonLines(path).identity()))
    assert len(seen) == 6
    assert len([each for each in (folder / "all.jsonl.index").iterdir() if each.is_dir()]) == jsonl.KEPT
    shutil.rmtree(folder / "all.jsonl.index")
    assert json.dumps(JsonLines(path).identity()) in seen


def test_other_code_that_reads_records_has_another_index(folder, read, monkeypatch):
    JsonLines(folder / "all.jsonl")
    read()
    monkeypatch.setattr(jsonl, "READERS", jsonl.READERS[:-1])
    JsonLines(folder / "all.jsonl")
    assert "lines" in read()


def test_a_file_that_changes_while_it_is_used_is_noticed(folder):
    source = JsonLines(folder / "all.jsonl")
    content = (folder / "all.jsonl").read_bytes()
    for changed in (content.replace(b"d7", b"D7", 1), content[:100]):
        with (folder / "all.jsonl").open("r+b") as file:
            file.write(changed)
            file.truncate(len(changed))
        with pytest.raises(DataError, match=r"all\.jsonl:8: was changed while the run goes on; start the run again"):
            source.record(7)


def test_a_recording_that_was_replaced_is_another_one(folder, read):
    first = JsonLines(folder / "all.jsonl")
    read()
    file = folder / "3.wav"
    held = file.read_bytes()
    file.write_bytes(held[:-100] + bytes(100))  # of the same size, with another time
    file.write_bytes(held[: len(held) // 2] + bytes(len(held) - len(held) // 2))
    second = JsonLines(folder / "all.jsonl")
    assert set(read()) == {"3.wav"}
    assert second.identity() == first.identity() | {"audio": second.identity()["audio"]}
    assert second.identity()["audio"] != first.identity()["audio"]
    assert second.identity() == identity(folder / "all.jsonl", read_records(folder / "all.jsonl"), folder)
    file.unlink()
    third = JsonLines(folder / "all.jsonl")
    assert third.index.facts["faults"] == ["missing"]
    assert len({source.identity()["audio"] for source in (first, second, third)}) == 3
    file.write_bytes(held)
    fourth = JsonLines(folder / "all.jsonl")
    assert fourth.identity() == first.identity()
    assert fourth.index.facts["faults"] == []
    np.testing.assert_array_equal(fourth.index["samples"], JsonLines(folder / "all.jsonl").index["samples"])


def test_storage_that_failed_is_asked_again(folder, monkeypatch):
    count = sound.count_samples

    def failing(path, **options):
        if path == "2.wav":
            raise AudioError("unreadable", path, "cannot be read (Input/output error)")
        return count(path, **options)

    monkeypatch.setattr(sound, "count_samples", failing)
    assert JsonLines(folder / "all.jsonl").index.facts["faults"] == ["unreadable"]
    monkeypatch.setattr(sound, "count_samples", count)
    assert JsonLines(folder / "all.jsonl").index.facts["faults"] == []


def test_another_folder_of_recordings_has_an_index_of_its_own(folder, read):
    (folder / "sounds").mkdir()
    for path in folder.glob("*.wav"):
        path.rename(folder / "sounds" / path.name)
    here, there = (JsonLines(folder / "all.jsonl", audio_root=root) for root in (folder, folder / "sounds"))
    assert here.index.facts["faults"] == ["missing"]
    assert there.index.facts["faults"] == []
    read()
    for root in (folder, folder / "sounds"):
        JsonLines(folder / "all.jsonl", audio_root=root)
    assert read() == []


def test_it_can_be_read_from_many_threads_and_by_another_process(folder):
    source = JsonLines(folder / "all.jsonl")
    records = read_records(folder / "all.jsonl")
    numbers = np.random.default_rng(0).integers(0, 40, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.record, numbers)) == [records[number] for number in numbers]
    (folder / "sent").write_bytes(pickle.dumps(source))
    assert (folder / "sent").stat().st_size < 3000
    program = "import pickle; s = pickle.load(open('sent', 'rb')); print(s.place(7), len(s), len(s.waveform(0, 0, 9)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == f"{source.place(7)} 40 {source.samples(0, 0, 9.0)}\n"


def test_several_processes_may_make_it_at_the_same_time(folder):
    program = """if True:
        import sys
        from pathlib import Path
        from ieat_jax.data.sources.jsonl import JsonLines
        sys.stdin.read(1)
        print(JsonLines(Path("all.jsonl")).identity())
    """
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, cwd=folder, **pipes) for _ in range(3)]
    for process in started:
        process.stdin.write("go")
        process.stdin.flush()
    ends = [process.communicate(timeout=60) for process in started]
    assert len(set(ends)) == 1, ends
    assert ends[0] == (f"{JsonLines(folder / 'all.jsonl').identity()}\n", "")
    (made,) = (path for path in (folder / "all.jsonl.index").iterdir() if path.is_dir())
    assert sorted(path.name.partition("-")[0] for path in made.iterdir()) == ["records", "sound"]


@pytest.mark.parametrize(
    ("content", "code"), [("", "empty"), (None, "missing"), ("\0\0\0\0", "not_text"), ("\n \n", "empty")]
)
def test_a_file_without_records_is_refused_and_has_no_index(content, code, tmp_path):
    if content is not None:
        (tmp_path / "all.jsonl").write_text(content)
    with pytest.raises(RecordError) as told:
        JsonLines(tmp_path / "all.jsonl")
    assert told.value.code == code
    assert not list(tmp_path.glob("*.index/*/records"))


def test_a_path_that_leads_out_of_the_folder_ends_the_reading(tmp_path):
    turn = {"turn_id": 1, "text": "Hm.", "split_audio_file": "../a.wav"}
    (tmp_path / "all.jsonl").write_text(json.dumps({"dialogue_id": "a", "turns": [turn]}) + "\n")
    for _ in range(2):
        with pytest.raises(RecordError, match="leads out of the audio folder"):
            JsonLines(tmp_path / "all.jsonl")


def test_a_file_of_which_every_line_is_bad_has_no_records(tmp_path):
    (tmp_path / "all.jsonl").write_text("no\nno\n")
    quarantine = Quarantine(1.0)
    for _ in range(2):
        (source,) = open_sources({"mine": SourceConfig(str(tmp_path / "all.jsonl"))}, quarantine)
        assert len(source) == 0
    assert quarantine.summary() == {"not_json": 2}
