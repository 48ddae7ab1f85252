"""Shards as a source: the same batches as of the JSON lines, and nothing that is damaged."""

import contextlib
import dataclasses
import os
import pickle
import shutil

import numpy as np
import pytest
from helpers import spoken_corpus

from ieat_jax.audio.files import AudioError
from ieat_jax.data.records import to_json
from ieat_jax.data.sources import array_record
from ieat_jax.data.sources.array_record import ArrayRecords
from ieat_jax.data.sources.jsonl import JsonLines
from ieat_jax.data.sources.store import DataError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return spoken_corpus.write(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def shards(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "shards"
    spoken_corpus.shards(corpus, out)
    return out


@pytest.fixture
def copy(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "copy")
    return tmp_path / "copy"


def test_batches_are_those_of_the_json_lines(corpus, shards):
    spec = spoken_corpus.row_spec()
    of_lines = spoken_corpus.hashes(corpus, spec)
    assert len(set(of_lines)) == len(spoken_corpus.STEPS)
    assert spoken_corpus.hashes(shards, spec) == of_lines
    assert spoken_corpus.hashes(shards, dataclasses.replace(spec, seed=4)) != of_lines


def test_sixteen_bits_are_exact_where_the_recordings_have_them(corpus, tmp_path):
    spoken_corpus.shards(corpus, tmp_path / "made", bits=16)
    lines, shards = JsonLines(corpus), ArrayRecords(tmp_path / "made")
    exact = {"plain.wav": True, "full.wav": True, "deep.flac": False, "fast.wav": False, "loud.wav": False}
    seen = set()
    for number in range(len(lines)):
        for turn in lines.record(number).turns:
            kind = turn.audio.split("_")[-1]
            one, two = (source.waveform(number, turn.turn_id - 1, 30.0) for source in (lines, shards))
            if kind in exact:
                assert np.array_equal(one, two) == exact[kind], kind
                seen.add(kind)
            assert np.abs(one - two).max() < 2e-4
    assert seen == set(exact)


def test_records_sizes_and_faults_are_those_of_the_json_lines(corpus, shards):
    lines, made = JsonLines(corpus), ArrayRecords(shards)
    assert len(lines) == len(made) == 8
    for number in (7, 0, 3, 5):
        assert to_json(made.record(number)) == to_json(lines.record(number))
        assert made.place(number).endswith(f": d{number}")
        for turn in range(len(made.record(number).turns)):
            assert made.samples(number, turn, 30.0) == lines.samples(number, turn, 30.0)
            for source in (lines, made):
                with pytest.raises(AudioError) as error:
                    source.samples(number, turn, 0.2)
                assert error.value.code == "too_long"
    for name in ("offsets", "samples", "units", "emotion", "answered"):
        np.testing.assert_array_equal(made.index[name], lines.index[name], err_msg=name)
    assert made.index.facts["report"] == lines.index.facts["report"]


def test_it_travels_small_and_reads_elsewhere(shards):
    source = ArrayRecords(shards, key="mine", weight=2.0)
    data = pickle.dumps(source)
    assert len(data) < 4000
    other = pickle.loads(data)
    np.testing.assert_array_equal(other.waveform(6, 0, 30.0), source.waveform(6, 0, 30.0))
    assert (other.key, other.weight, other.identity()) == ("mine", 2.0, source.identity())


def test_identity_is_of_records_their_order_and_their_sound(corpus, shards, tmp_path):
    first = ArrayRecords(shards).identity()
    changed = tmp_path / "corpus"
    shutil.copytree(corpus.parent, changed)
    for old in changed.glob("*.index"):
        shutil.rmtree(old)
    spoken_corpus.sound(changed / "0_0_plain.wav", 99, *spoken_corpus.KINDS["plain.wav"])
    spoken_corpus.shards(changed / "all.jsonl", tmp_path / "sound")
    other = ArrayRecords(tmp_path / "sound").identity()
    assert (other["content"] == first["content"], other["audio"] == first["audio"]) == (True, False)
    lines = corpus.read_text().splitlines(keepends=True)
    (changed / "all.jsonl").write_text("".join(lines[::-1]))
    spoken_corpus.shards(changed / "all.jsonl", tmp_path / "order")
    assert ArrayRecords(tmp_path / "order").identity()["content"] != first["content"]


def read_all(folder, check):
    source = ArrayRecords(folder, check=check)
    return [
        (to_json(source.record(n)), [source.waveform(n, t, 30.0).tobytes() for t in range(len(source.record(n).turns))])
        for n in range(len(source))
    ]


@pytest.mark.parametrize("check", ["auto", "all", "length"])
def test_truncated_files_are_refused_when_they_are_opened(copy, check):
    tried = 0
    for path in sorted((copy / "shards").iterdir()):
        if path.suffix == ".json":
            continue
        content = path.read_bytes()
        for size in {*range(0, len(content), 65536), len(content) - 1, 0}:
            path.write_bytes(content[:size])
            with pytest.raises(DataError, match=rf"{path.name}: has {size} bytes, not the {len(content)} "):
                ArrayRecords(copy, check=check)
            tried += 1
        path.write_bytes(content + b"\0")
        with pytest.raises(DataError, match="bytes"):
            ArrayRecords(copy, check=check)
        path.write_bytes(content)
    assert tried > 10
    assert len(ArrayRecords(copy, check=check)) == 8


def test_flipped_bits_are_never_accepted(copy, shards):
    rng = np.random.default_rng(0)
    good = read_all(shards, "auto")
    files = [path for path in sorted((copy / "shards").iterdir()) if path.suffix != ".json"]
    read = 0
    for number in range(40):
        path = files[number % len(files)]
        content = path.read_bytes()
        bad = bytearray(content)
        bit = int(rng.integers(0, 8 * len(bad)))
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(bad))
        for check in ("auto", "all"):
            with pytest.raises(DataError, match=f"{path.name}: is damaged"):
                ArrayRecords(copy, check=check)
        # Where hashes are not compared, what is read is right, or it is not read.
        with contextlib.suppress(DataError):
            assert read_all(copy, "length") == good
            read += 1
        path.write_bytes(content)
    assert 0 < read < 40  # in padding, and elsewhere


def test_large_sets_are_opened_without_their_hashes_and_that_is_said(copy, monkeypatch, capsys):
    monkeypatch.setattr(array_record, "AFFORDABLE", 1000)
    path = next((copy / "shards").glob("*.array_record"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    ArrayRecords(copy)
    assert "config.data.check_shards = 'all'" in capsys.readouterr().err
    with pytest.raises(DataError, match="sha256"):
        ArrayRecords(copy, check="all")


def test_an_index_that_is_damaged_or_missing_is_refused(copy, tmp_path):
    facts = copy / "index" / "records" / "facts.json"
    text = facts.read_text()
    facts.write_text(text.replace('"turns": 15', '"turns": 16'))
    with pytest.raises(DataError, match="another content"):
        ArrayRecords(copy)
    facts.unlink()
    with pytest.raises(DataError, match="no finished folder of shards"):
        ArrayRecords(copy)
    with pytest.raises(DataError, match="no finished folder of shards"):
        ArrayRecords(tmp_path)


def test_a_missing_shard_is_named(copy):
    path = next((copy / "shards").glob("*.jsonl"))
    os.remove(path)
    with pytest.raises(DataError, match=f"{path.name}: cannot be read"):
        ArrayRecords(copy)


def test_an_empty_payload_is_never_a_dialogue(copy, monkeypatch):
    """As ArrayRecord reads one of a file that was cut off at 64 KiB, in some ways of opening it."""

    class Empty:
        def read(self, places):
            return [b"" for _ in places]

    source = ArrayRecords(copy)
    monkeypatch.setattr(source, "_reader", lambda shard: Empty())
    with pytest.raises(DataError, match="its sound is empty"):
        source.waveform(0, 0, 30.0)
