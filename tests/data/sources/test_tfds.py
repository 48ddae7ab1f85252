"""Data sets of TFDS as sources: ours, and those of others by a map of their features; never with TensorFlow."""

import dataclasses
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from helpers import spoken_corpus, tiny_corpus

from ieat_jax import prepare
from ieat_jax.audio.files import AudioError
from ieat_jax.config.sections import FeaturesConfig, SourceConfig
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import to_json
from ieat_jax.data.sources.array_record import ArrayRecords
from ieat_jax.data.sources.jsonl import JsonLines
from ieat_jax.data.sources.open import open_sources
from ieat_jax.data.sources.store import DataError
from ieat_jax.data.sources.tfds import TfdsRecords
from ieat_jax.errors import ConfigError, UserError

F = tfds.features
LABELS = ["ang", "neu"]


def flac(wave, rate=16000):
    made = io.BytesIO()
    soundfile.write(made, wave, rate, format="FLAC")
    return made.getvalue()


def wave(number, rate=16000, seconds=0.4):
    return 0.4 * np.sin(2 * np.pi * (200 + 30 * number) * np.arange(int(seconds * rate)) / rate)


def build(folder, name, features, examples):
    """A data set of somebody else; `examples`: {split: list}."""
    with tfds.core.registered.skip_registration():

        class Theirs(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(features), disable_shuffling=True)

            def _split_generators(self, manager):
                return {split: self._generate_examples(items) for split, items in examples.items()}

            def _generate_examples(self, items):
                yield from enumerate(items)

    Theirs.name = name
    builder = Theirs(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Utterances with bytes, whole numbers and fractions of the same sound."""
    features = {
        "file": F.Text(),
        "name": F.Text(),
        "pcm": F.Tensor(shape=(None,), dtype=np.int16),
        "float": F.Tensor(shape=(None,), dtype=np.float32),
        "slow": F.Tensor(shape=(None,), dtype=np.int64),
        "label": F.ClassLabel(names=LABELS),
        "info": {"said": F.Text(), "who": F.Text()},
    }
    items = []
    for number in range(5):
        pcm = np.round(wave(number) * 32768).astype(np.int16)
        items.append(
            {
                "file": flac(pcm),
                "name": f"u{number}",
                "pcm": pcm,
                "float": (pcm / 32768).astype(np.float32),
                "slow": pcm[::2].astype(np.int64),
                "label": number % 2 if number < 4 else -1,
                "info": {"said": f"This is {number}.", "who": "anna"},
            }
        )
    return build(tmp_path_factory.mktemp("tfds"), "clips", features, {"train": items, "test": items[:2]})


MAP = FeaturesConfig(
    audio="file",
    words="info/said",
    reply="=I see.",
    emotion="label",
    id="name",
    language="=de",
    speaker="info/who",
    intensity="=strong",
    style="=comfort",
    cause="=the keys",
)


def test_examples_are_records_by_a_map_of_features(clips):
    source = TfdsRecords(f"tfds:{clips}", MAP)
    assert len(source) == 5
    record = source.record(1)
    turn = record.turns[0]
    assert (record.dialogue_id, record.language, record.speaker) == ("u1", "de", "anna")
    assert (turn.text, turn.response_text, turn.emotion, turn.raw_emotion) == ("This is 1.", "I see.", "neutral", None)
    assert (turn.intensity, turn.response_emotion, turn.cause.text) == ("strong", "comfort", "the keys")
    assert source.record(0).turns[0].emotion == "anger"
    assert source.record(4).turns[0].emotion is None  # TFDS writes -1 for none
    assert source.index["answered"].all()
    assert source.place(2) == f"tfds:{clips}:3: u2"
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(("audio", "rate"), [("file", 0), ("pcm", 16000), ("float", 16000), ("slow", 8000)])
def test_sound_is_bytes_or_numbers_with_a_rate(clips, audio, rate):
    source = TfdsRecords(f"tfds:{clips}", dataclasses.replace(MAP, audio=audio, rate=rate))
    for number in range(5):
        pcm = np.round(wave(number) * 32768).astype(np.int16)
        heard = source.waveform(number, 0, 30.0)
        assert source.samples(number, 0, 30.0) == len(heard) == len(pcm)
        if audio == "slow":
            assert np.abs(heard - pcm / 32768)[200:-200].max() < 0.02
        else:
            np.testing.assert_array_equal(heard, pcm / np.float32(32768))
    with pytest.raises(AudioError, match="too_long"):
        source.waveform(0, 0, 0.2)


def test_the_feature_audio_of_tfds_is_read_as_what_it_keeps(clips, tmp_path):
    """Most data sets of speech have it; TFDS itself makes it with TensorFlow alone."""
    place = tmp_path / "clips" / "1.0.0"
    shutil.copytree(clips, place)
    told = json.loads((place / "features.json").read_text())
    audio = {"shape": {"dimensions": ["-1"]}, "dtype": "int64", "sampleRate": "8000", "encoding": "none"}
    name = "tensorflow_datasets.core.features.audio_feature.Audio"
    told["featuresDict"]["features"]["slow"] = {"pythonClassName": name, "audio": audio}
    lazy = {**audio, "lazyDecode": True, "fileFormat": "flac"}
    told["featuresDict"]["features"]["file"] = {"pythonClassName": name, "audio": lazy}
    (place / "features.json").write_text(json.dumps(told))
    numbers = TfdsRecords(f"tfds:{place}", dataclasses.replace(MAP, audio="slow"))
    plain = TfdsRecords(f"tfds:{clips}", dataclasses.replace(MAP, audio="slow", rate=8000))
    np.testing.assert_array_equal(numbers.waveform(1, 0, 30.0), plain.waveform(1, 0, 30.0))
    files = TfdsRecords(f"tfds:{place}", MAP)
    np.testing.assert_array_equal(files.waveform(1, 0, 30.0), np.round(wave(1) * 32768) / np.float32(32768))


def test_splits_and_parts_of_them(clips):
    assert len(TfdsRecords(f"tfds:{clips}[test]", MAP)) == 2
    part = TfdsRecords(f"tfds:{clips}[train[40%:]]", MAP)
    assert [part.record(n).dialogue_id for n in range(len(part))] == ["u2", "u3", "u4"]
    part = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(part.waveform(0, 0, 30.0), np.round(wave(2) * 32768) / np.float32(32768))
    assert len(pickle.dumps(part)) < 4000


def test_by_name_in_the_folder_that_tfds_uses(clips):
    command = (
        "import sys; from ieat_jax.config.sections import FeaturesConfig; "
        "from ieat_jax.data.sources.tfds import TfdsRecords; "
        "made = TfdsRecords('tfds:clips:1.0.0[test]', FeaturesConfig(audio='file')); "
        "print(len(made), 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "TFDS_DATA_DIR": str(Path(clips).parents[1])}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    features = {"turns": F.Sequence({"said": F.Text(), "sound": F.Text(), "mood": F.ClassLabel(names=LABELS)})}
    items = [
        {"turns": [{"said": f"{n}{t}", "sound": flac(wave(n + t)), "mood": t % 2} for t in range(n + 1)]}
        for n in range(3)
    ]
    items[1]["turns"][1]["sound"] = b"no sound"
    items[2]["turns"][0]["sound"] = b""
    return build(tmp_path_factory.mktemp("tfds"), "talks", features, {"train": items})


def test_turns_in_a_sequence(dialogues):
    features = FeaturesConfig(
        turns="turns", audio="turns/sound", words="turns/said", emotion="turns/mood", reply="=Yes."
    )
    source = TfdsRecords(f"tfds:{dialogues}", features)
    assert [[turn.text for turn in source.record(n).turns] for n in range(3)] == [
        ["00"],
        ["10", "11"],
        ["20", "21", "22"],
    ]
    assert [turn.emotion for turn in source.record(2).turns] == ["anger", "neutral", "anger"]
    assert source.record(2).turns[0].audio is None
    assert source.index["samples"].tolist() == [6400, 6400, -1, 0, 6400, 6400]
    assert source.index.facts["faults"] == ["not_audio"]
    for call in (source.samples, source.waveform):
        with pytest.raises(AudioError, match=r"2: turn 2: .*not_audio"):
            call(1, 1, 30.0)
        with pytest.raises(AudioError, match="has no recording"):
            call(2, 0, 30.0)
    assert len(source.waveform(2, 2, 30.0)) == 6400
    assert source.record(0).dialogue_id == "talks-1"


@pytest.mark.parametrize(
    ("spec", "features", "told"),
    [
        (
            "tfds:{}",
            {"audio": "sond"},
            r"features.audio = 'sond': the data set has no such feature; it has file, float, info",
        ),
        ("tfds:{}", {"audio": "pcm"}, "features.rate: the sound of pcm is given as numbers"),
        ("tfds:{}", {"audio": "file", "turns": "info"}, "features.audio = 'file': must lie in info/"),
        ("tfds:{}[dev]", {"audio": "file"}, "there is no split 'dev'; it has test, train"),
        ("tfds:{}[train[5:]]", {"audio": "file"}, "there are no examples in train"),
        ("tfds:{}[train", {"audio": "file"}, "must be tfds:NAME"),
        ("tfds:no_such_set_anywhere", {"audio": "file"}, "is no data set that is prepared here"),
        ("tfds:/nowhere/at/all", {"audio": "file"}, "is no data set that is prepared here"),
        ("tfds:gs://bucket/x", {"audio": "file"}, "gs://bucket/x: files cannot be read"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(clips, spec, features, told):
    with pytest.raises(UserError, match=told):
        open_sources({"mine": SourceConfig(spec.format(clips), features=FeaturesConfig(**features))}, Quarantine(0.0))


def test_features_are_of_tfds_alone(tmp_path):
    path = spoken_corpus.write(tmp_path, 1)
    with pytest.raises(DataError, match=r"config.data.sources.mine.features: only a data set of TFDS"):
        open_sources({"mine": SourceConfig(str(path), features=MAP)}, Quarantine(0.0))
    for rate in (-1, 100, 1e9):
        with pytest.raises(ConfigError, match="rate: must be"):
            FeaturesConfig(rate=rate)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """(JSON lines, shards, data set) of the same dialogues."""
    folder = tmp_path_factory.mktemp("ours")
    path = spoken_corpus.write(folder / "corpus")
    spoken_corpus.shards(path, folder / "shards")
    assert (
        prepare.main(
            ["tfds", "--shards", f"train={folder / 'shards'}", "--name", "mine", "--out", str(folder / "tfds")]
        )
        == 0
    )
    return path, folder / "shards", folder / "tfds" / "mine" / "1.0.0"


def test_our_data_set_gives_the_batches_of_the_json_lines(ours):
    lines, _, made = ours
    spec = spoken_corpus.row_spec()
    assert spoken_corpus.hashes(f"tfds:{made}", spec) == spoken_corpus.hashes(lines, spec)


def test_our_data_set_keeps_everything(ours, tmp_path):
    path = tiny_corpus.write(tmp_path, tiny_corpus.records())
    spoken_corpus.shards(path, tmp_path / "shards", 2)
    arguments = [
        "--shards",
        str(tmp_path / "shards"),
        f"dev={ours[1]}",
        "--name",
        "two",
        "--out",
        str(tmp_path / "tfds"),
    ]
    assert prepare.main(["tfds", *arguments]) == 0
    made = tmp_path / "tfds" / "two" / "1.0.0"
    lines, source = JsonLines(path), TfdsRecords(f"tfds:{made}", FeaturesConfig())
    assert [to_json(source.record(n)) for n in range(3)] == [to_json(lines.record(n)) for n in range(3)]
    assert source.record(2).turns[1].units.tolist() == lines.record(2).turns[1].units.tolist()
    assert len(TfdsRecords(f"tfds:{made}[dev]", FeaturesConfig())) == len(ArrayRecords(ours[1]))
    other = TfdsRecords(f"tfds:{made}[dev]", FeaturesConfig(audio="turns/audio", turns="turns", words="turns/text"))
    np.testing.assert_array_equal(other.waveform(7, 0, 30.0), ArrayRecords(ours[1]).waveform(7, 0, 30.0))
    assert json.loads((made / "dataset_info.json").read_text())["redistributionInfo"]["license"] == "CC0"
    with pytest.raises(UserError, match="is there already"):
        prepare.main(["tfds", *arguments])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--name", "My Set"], "--name My Set"),
        (["--name", "x", "--version", "1"], "--version 1: must be three numbers"),
    ],
)
def test_names_that_tfds_does_not_take(ours, tmp_path, arguments, told):
    with pytest.raises(UserError, match=told):
        prepare.main(["tfds", "--shards", str(ours[1]), "--out", str(tmp_path / "new"), *arguments])
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_cut_off_is_noticed(clips, tmp_path):
    """At 64 KiB it reads as examples without content, which TFDS takes for examples."""
    items = [{"file": flac(np.random.default_rng(n).normal(size=16000) * 0.1)} for n in range(6)]
    place = build(tmp_path, "noise", {"file": F.Text()}, {"train": items})
    shutil.copytree(place, tmp_path / "whole")
    (shard,) = (path for path in (tmp_path / "noise" / "1.0.0").iterdir() if "array_record" in path.name)
    content = shard.read_bytes()
    features = FeaturesConfig(audio="file")
    assert len(TfdsRecords(f"tfds:{place}", features)) == 6
    sizes = [*range(0, len(content), 65536), len(content) - 1000]
    assert 65536 in sizes
    for size in sizes:
        shard.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"is empty|cannot be read"):
            TfdsRecords(f"tfds:{place}", features)
    shard.unlink()
    with pytest.raises(DataError, match="is missing"):
        TfdsRecords(f"tfds:{place}", features)
