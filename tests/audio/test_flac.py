"""Sound that FLAC gives back to the last bit."""

import io

import numpy as np
import pytest
import soundfile
from helpers import spoken_corpus

from ieat_jax.audio.files import AudioError, count_audio_bytes, count_samples, read_audio, read_audio_bytes
from ieat_jax.audio.flac import Flac, decode_flac, encode_flac, off_grid, on_grid


@pytest.mark.parametrize("bits", [8, 16, 24])
def test_numbers_of_so_many_bits_stay_what_they_are(bits):
    rng = np.random.default_rng(0)
    whole = rng.integers(-(1 << bits - 1), 1 << bits - 1, 4000)
    whole[:2] = -(1 << bits - 1), (1 << bits - 1) - 1
    wave = (whole / (1 << bits - 1)).astype(np.float32)
    samples, shift = on_grid(wave)
    assert shift == 0
    np.testing.assert_array_equal(off_grid(samples, shift), wave)
    flac = encode_flac(wave)
    np.testing.assert_array_equal(decode_flac(flac), wave)
    assert soundfile.info(io.BytesIO(flac.content)).subtype == ("PCM_24" if bits == 24 else "PCM_16")


@pytest.mark.parametrize("peak", [1e-5, 0.3, 1 - 2.0**-24, 1.0, 1.0001, 2.0, 4.0])
def test_others_move_by_half_a_step_and_only_once(peak):
    wave = (np.random.default_rng(1).uniform(-1, 1, 4000) * peak).astype(np.float32)
    wave[:2] = peak, -peak
    rounded = off_grid(*on_grid(wave))
    assert np.abs(rounded - wave).max() <= 2.0**-24 * max(1.0, 2 * peak)
    np.testing.assert_array_equal(off_grid(*on_grid(rounded)), rounded)
    np.testing.assert_array_equal(decode_flac(encode_flac(rounded)), rounded)
    again = decode_flac(encode_flac(rounded, 16))
    assert 0 < np.abs(again - rounded).max() <= 2.0**-15 * max(1.0, 2 * peak)


def test_what_is_read_of_any_file_is_what_its_flac_holds(tmp_path):
    path = spoken_corpus.write(tmp_path, 4)
    kinds = set()
    for file in sorted(path.parent.glob("*_*_*")):
        wave = read_audio(file, max_seconds=30)
        np.testing.assert_array_equal(decode_flac(encode_flac(wave)), wave, err_msg=str(file))
        content = file.read_bytes()
        np.testing.assert_array_equal(read_audio_bytes(content, max_seconds=30, where="here"), wave)
        assert count_audio_bytes(content, where="here") == count_samples(file, max_seconds=30) >= len(wave)
        kinds.add(file.name.split("_")[-1])
    assert kinds == set(spoken_corpus.KINDS)


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "empty"), (b"no sound", "not_audio"), (b"RIFF\0\0\0\0WAVE", "not_audio")]
)
def test_bytes_that_are_no_sound_are_named(content, code):
    for read in (
        lambda: read_audio_bytes(content, max_seconds=30, where="x"),
        lambda: count_audio_bytes(content, where="x"),
    ):
        with pytest.raises(AudioError, match=r"^x: ") as error:
            read()
        assert error.value.code == code


def test_bytes_of_a_file_that_is_too_long_are_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.sin(np.arange(16000) / 9), 16000)
    with pytest.raises(AudioError, match="too_long"):
        read_audio_bytes(path.read_bytes(), max_seconds=0.5, where="x")


def test_flac_that_is_cut_off_or_of_another_rate_is_not_decoded():
    flac = encode_flac(np.sin(np.arange(16000) / 9).astype(np.float32))
    for size in (0, 40, len(flac.content) // 2):
        with pytest.raises(ValueError, match=r"not whole|unimplemented|recogni|lost sync"):
            decode_flac(Flac(flac.content[:size], 0))
    made = io.BytesIO()
    soundfile.write(made, np.sin(np.arange(16000) / 9), 8000, format="FLAC")
    with pytest.raises(ValueError, match="16 kHz"):
        decode_flac(Flac(made.getvalue(), 0))
