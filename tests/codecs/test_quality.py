"""The default codec on the demo voice: what is said must survive."""

import subprocess
import sys

import pytest

from ieat_jax.audio.files import read_audio
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import read_records
from ieat_jax.evaluation.asr import WhisperASR
from ieat_jax.evaluation.words import error_rate
from ieat_jax.preparation.units import reply_files, resynthesis, train_on_replies

CLIPS = 8


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    """Three minutes of the demo corpus, spoken in a process of its own."""
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    build = "build_demo(sys.argv[1], hours=0.05, text_dialogues=1, workers=1)"
    command = f"import sys; from ieat_jax.preparation.demo.corpus import build_demo; {build}"
    subprocess.run([sys.executable, "-c", command, str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def resynthesised(small_demo):
    """A codec trained on one split's replies, and replies of another split that it has not heard."""
    heard = reply_files(read_records(small_demo / "test.jsonl"))
    codec, _ = train_on_replies(heard, small_demo, Quarantine(0.0), codes=1024, minutes=5, seed=0)
    said = {
        turn.response_audio: turn.response_text for r in read_records(small_demo / "train.jsonl") for turn in r.turns
    }
    files = [file for file in said if file not in heard][:CLIPS]
    assert len(files) >= 4
    return codec, [read_audio(file, max_seconds=30, root=small_demo) for file in files], [said[file] for file in files]


def test_words_survive_the_codec(resynthesised):
    codec, waveforms, texts = resynthesised
    again = [codec.decode(codec.encode(waveform)) for waveform in waveforms]
    english = ["en"] * len(texts)
    assert error_rate(texts, WhisperASR().transcribe(again, english), english) <= 0.30


def test_prosody_survives_the_codec(resynthesised):
    codec, waveforms, _ = resynthesised
    figures = resynthesis(codec, waveforms)
    assert figures["pitch_semitones"] < 1
    assert figures["level_db"] < 3
    assert figures["spectrum_db"] < 5
    assert figures["voicing"] > 0.85
