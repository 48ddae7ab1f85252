"""`prepare shards` as people start it: any number of workers, killed and started again, into an object store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import spoken_corpus

from ieat_jax import prepare
from ieat_jax.data.sources.array_record import ArrayRecords
from ieat_jax.data.sources.jsonl import JsonLines
from ieat_jax.errors import UserError

COMMAND = [sys.executable, "-m", "ieat_jax.prepare", "shards"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight dialogues, of which each takes a while."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = []
    for number in range(8):
        spoken_corpus.sound(folder / f"{number}.wav", number, 48000, 1, "FLOAT", 0.5, seconds=20)
        turn = {"turn_id": 1, "text": "Hello.", "response_text": "Hi.", "split_audio_file": f"{number}.wav"}
        lines.append(json.dumps({"dialogue_id": f"d{number}", "turns": [turn]}))
    (folder / "all.jsonl").write_text("\n".join(lines))
    return folder / "all.jsonl"


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """What one worker makes of it without being disturbed."""
    out = tmp_path_factory.mktemp("whole") / "shards"
    done = subprocess.run([*COMMAND, *arguments(corpus, out, 1)], capture_output=True, text=True, check=True)
    assert "8 lines = 8 dialogues + 0 quarantined; 8 turns, 0.04 h of clips, 8 shards" in done.stdout
    assert "shards made: 8 to do" in done.stderr
    assert "WARNING" not in done.stderr
    return files(out)


def arguments(corpus, out, workers, *more):
    return ["--records", str(corpus), "--out", str(out), "--shards", "8", "--workers", str(workers), *more]


def files(folder):
    """Name -> bytes of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_two_workers_that_are_killed_and_one_that_goes_on_give_the_same_bytes(corpus, whole, tmp_path):
    out = tmp_path / "shards"
    with subprocess.Popen([*COMMAND, *arguments(corpus, out, 2)], stderr=subprocess.DEVNULL) as process:
        while not list(out.glob("shards/*.json")):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (out / "card.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("shards/*.json")}
    assert 0 < len(kept) < 8
    with pytest.raises(UserError, match="no finished folder of shards"):
        ArrayRecords(out)
    assert prepare.main(["shards", *arguments(corpus, out, 1)]) == 0
    assert files(out) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_two_workers_give_the_bytes_of_one(corpus, whole, tmp_path):
    done = subprocess.run([*COMMAND, *arguments(corpus, tmp_path, 2)], capture_output=True, text=True, check=True)
    assert files(tmp_path) == whole
    assert "INFO" not in done.stderr + done.stdout


def test_a_shard_that_was_damaged_is_made_again_and_no_other(corpus, whole, tmp_path):
    out = tmp_path / "shards"
    for name, content in whole.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    broken = out / "shards" / "00003-of-00008.array_record"
    content = bytearray(whole["shards/00003-of-00008.array_record"])
    content[70000] ^= 1
    broken.write_bytes(content)
    (out / "shards" / "00005-of-00008.json").write_bytes(whole["shards/00005-of-00008.json"][:-40])
    before = {path: path.stat().st_mtime_ns for path in out.glob("shards/*.array_record")}
    assert prepare.main(["shards", *arguments(corpus, out, 1)]) == 0
    assert files(out) == whole
    made = {path.name[:5] for path, then in before.items() if path.stat().st_mtime_ns != then}
    assert made == {"00003", "00005"}


def test_options_of_beam_reach_it_and_others_are_refused(corpus, whole, tmp_path, capsys):
    with pytest.raises(UserError, match="--shard: is no option of prepare shards"):
        prepare.main(["shards", *arguments(corpus, tmp_path / "a", 1), "--shard", "3"])
    with pytest.raises(UserError, match="machines elsewhere do not see"):
        prepare.main(["shards", *arguments(corpus, tmp_path / "a", 1), "--runner=DataflowRunner"])
    with pytest.raises(UserError, match=r"Beam pipeline failed.*NoSuchRunner"):
        prepare.main(["shards", *arguments(corpus, tmp_path / "a", 1), "--runner=NoSuchRunner"])
    runner = "--runner=apache_beam.runners.direct.direct_runner.BundleBasedDirectRunner"
    assert prepare.main(["shards", *arguments(corpus, tmp_path / "b", 1), runner]) == 0
    assert files(tmp_path / "b") == whole


@pytest.fixture
def bucket(monkeypatch):
    """An object store in memory, which fsspec takes for gs://."""
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        protocol = ("gs", "gcs")
        store, pseudo_dirs = {}, [""]
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).removeprefix("gs://").removeprefix("gcs://"))

    made = Bucket()
    before = fsspec.filesystem
    monkeypatch.setattr(
        fsspec, "filesystem", lambda name, **options: made if name in ("gs", "gcs") else before(name, **options)
    )
    from etils.epath import backend

    backend.fsspec_backend._get_filesystem.cache_clear()
    yield made
    backend.fsspec_backend._get_filesystem.cache_clear()


def test_an_object_store_gets_the_same_files(corpus, whole, bucket, monkeypatch):
    out = "gs://bucket/data/shards"
    assert prepare.main(["shards", *arguments(corpus, out, 1)]) == 0
    found = {
        name.removeprefix("/bucket/data/shards/"): bucket.cat_file(name) for name in bucket.find("/bucket/data/shards")
    }
    assert found == whole
    assert prepare.main(["shards", *arguments(corpus, out, 1)]) == 0  # where everything is there


def test_an_object_store_that_cannot_be_reached_is_said(corpus, capsys):
    with pytest.raises(UserError, match=r"gs://bucket/x: gs:// needs the package gcsfs"):
        prepare.main(["shards", *arguments(corpus, "gs://bucket/x", 1)])
    with pytest.raises(SystemExit):
        prepare.main(["shards", *arguments(corpus, "s3://bucket/x", 1)])
    assert "s3://bucket/x: files cannot be" in capsys.readouterr().err


def test_it_is_read_as_the_json_lines_are(corpus, whole, tmp_path):
    for name, content in whole.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    lines, shards = JsonLines(corpus), ArrayRecords(tmp_path)
    assert [shards.record(n).dialogue_id for n in range(8)] == [f"d{n}" for n in range(8)]
    assert (shards.waveform(5, 0, 30.0) == lines.waveform(5, 0, 30.0)).all()
    assert os.path.getsize(tmp_path / "quarantine.jsonl") == 0
