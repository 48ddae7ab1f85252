import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from ieat_jax.audio.files import SAMPLE_RATE, AudioError, check_waveform, read_audio, write_wav
from ieat_jax.errors import UserError

RATE = 16_000


def tone(seconds=0.5, rate=RATE, hz=300.0, channels=1):
    wave = (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


def wav(path, data, rate=RATE, **options):
    soundfile.write(path, data, rate, **options)
    return path


def patched(path, offset, data):
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(data)] = data
    path.write_bytes(raw)
    return path


def cut(path, share):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    return path


def lying_flac(path, frames):
    """Write `frames` into the 36-bit sample count of a FLAC's STREAMINFO."""
    wav(path, tone())
    field = int.from_bytes(path.read_bytes()[18:26], "big") & ~((1 << 36) - 1) | frames
    return patched(path, 18, field.to_bytes(8, "big"))


def pipe(path):
    os.mkfifo(path)
    return path


def loop(path):
    path.symlink_to(path)
    return path


def noise(path, size):
    path.write_bytes(np.random.default_rng(0).bytes(size))
    return path


def text(path, content):
    path.write_text(content)
    return path


def half_nan():
    wave = tone()
    wave[100] = np.nan
    return wave


BAD = {
    "missing": ("missing", lambda p: p / "no.wav"),
    "folder": ("not_a_file", lambda p: p),
    "pipe_would_hang": ("not_a_file", lambda p: pipe(p / "pipe.wav")),
    "device": ("not_a_file", lambda p: "/dev/zero"),
    "link_loop": ("bad_path", lambda p: loop(p / "loop.wav")),
    "nul_in_name": ("bad_path", lambda p: "a\0b.wav"),
    "name_too_long": ("bad_path", lambda p: p / ("x" * 400)),
    "no_bytes": ("empty", lambda p: noise(p / "a.wav", 0)),
    "random_bytes": ("not_audio", lambda p: noise(p / "a.wav", 5000)),
    "web_page": ("not_audio", lambda p: text(p / "a.wav", "<html>404 not found</html>" * 20)),
    "no_samples": ("empty", lambda p: wav(p / "a.wav", np.zeros(0, np.float32))),
    "too_short": ("too_short", lambda p: wav(p / "a.wav", tone(0.05))),
    "too_long": ("too_long", lambda p: wav(p / "a.wav", tone(6.0))),
    "one_hertz": ("sample_rate", lambda p: wav(p / "a.wav", tone(), 1)),
    "384_khz": ("sample_rate", lambda p: wav(p / "a.wav", tone(), 384_000)),
    "many_channels": ("channels", lambda p: wav(p / "a.wav", tone(channels=12))),
    "zero_channels": ("not_audio", lambda p: patched(wav(p / "a.wav", tone()), 22, struct.pack("<H", 0))),
    "zero_rate": ("not_audio", lambda p: patched(wav(p / "a.wav", tone()), 24, struct.pack("<I", 0))),
    "wav_cut_short": ("truncated", lambda p: cut(wav(p / "a.wav", tone()), 0.5)),
    "flac_cut_short": ("corrupt", lambda p: cut(wav(p / "a.flac", np.random.default_rng(0).random(8000) - 0.5), 0.5)),
    "flac_lies_256_gib": ("lying_header", lambda p: lying_flac(p / "a.flac", (1 << 36) - 1)),
    "flac_unknown_length": ("lying_header", lambda p: lying_flac(p / "a.flac", 0)),
    "nan": ("not_finite", lambda p: wav(p / "a.wav", half_nan(), subtype="FLOAT")),
    "infinite": ("not_finite", lambda p: wav(p / "a.wav", half_nan() * 0 + np.inf, subtype="FLOAT")),
    "integers_as_float": ("out_of_range", lambda p: wav(p / "a.wav", tone() * 32768, subtype="FLOAT")),
    "silent": ("silent", lambda p: wav(p / "a.wav", np.zeros(8000, np.float32))),
    "constant": ("constant", lambda p: wav(p / "a.wav", np.full(8000, 0.3, np.float32))),
    "antiphase": ("antiphase", lambda p: wav(p / "a.wav", np.stack([tone(), -0.98 * tone()], axis=1))),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_end_in_an_error_with_a_code(tmp_path, name):
    code, make = BAD[name]
    path = make(tmp_path)
    with pytest.raises(AudioError) as caught:
        read_audio(path, max_seconds=5.0)
    assert caught.value.code == code, str(caught.value)
    assert isinstance(caught.value, UserError)
    assert code in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.code, again.path, str(again)) == (code, caught.value.path, str(caught.value))


@pytest.mark.parametrize(
    "escape", ["../outside.wav", "link.wav", "folder_link/outside.wav", "/etc/passwd", "../inside2/a.wav"]
)
def test_nothing_outside_of_the_root_is_read(tmp_path, escape):
    root = tmp_path / "inside"
    root.mkdir()
    (tmp_path / "inside2").mkdir()
    wav(tmp_path / "inside2" / "a.wav", tone())
    wav(tmp_path / "outside.wav", tone())
    (root / "link.wav").symlink_to(tmp_path / "outside.wav")
    (root / "folder_link").symlink_to(tmp_path)
    with pytest.raises(AudioError) as caught:
        read_audio(escape, max_seconds=5.0, root=root)
    assert caught.value.code == "outside_root"


def test_links_within_the_root_are_followed(tmp_path):
    wav(tmp_path / "a.wav", tone())
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    assert len(read_audio("b.wav", max_seconds=5.0, root=tmp_path)) == 8000


GOOD = {
    "pcm16": ("a.wav", RATE, 1, {}),
    "float": ("a.wav", RATE, 1, {"subtype": "FLOAT"}),
    "double": ("a.wav", RATE, 1, {"subtype": "DOUBLE"}),
    "pcm24": ("a.wav", RATE, 1, {"subtype": "PCM_24"}),
    "ulaw_8k": ("a.wav", 8000, 1, {"subtype": "ULAW"}),
    "stereo_44k": ("a.wav", 44_100, 2, {}),
    "eight_channels_48k": ("a.wav", 48_000, 8, {}),
    "flac_wrong_suffix": ("a.wav", RATE, 1, {"format": "FLAC"}),
    "ogg": ("a.ogg", RATE, 1, {"format": "OGG", "subtype": "VORBIS"}),
    "mp3": ("a.mp3", RATE, 1, {"format": "MP3"}),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_of_any_kind_give_the_same_tone(tmp_path, name):
    file, rate, channels, options = GOOD[name]
    path = wav(tmp_path / file, tone(1.0, rate, channels=channels), rate, **options)
    wave = read_audio(path, max_seconds=5.0)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert abs(len(wave) - SAMPLE_RATE) <= 1200
    middle = wave[4000:12000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(8000)))
    assert abs(int(spectrum.argmax()) * 2 - 300) <= 4
    assert np.sqrt(np.square(middle).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.06)


def test_streamed_wav_with_an_open_length_is_read(tmp_path):
    path = wav(tmp_path / "a.wav", tone())
    patched(path, 4, struct.pack("<I", 0xFFFFFFFF))
    patched(path, 40, struct.pack("<I", 0xFFFFFFFF))
    assert len(read_audio(path, max_seconds=5.0)) == 8000


def test_many_channels_do_not_take_many_times_the_memory(tmp_path):
    path = wav(tmp_path / "a.flac", np.tile(tone(15.0, 192_000)[:, None], 8), 192_000)
    tracemalloc.start()
    wave = read_audio(path, max_seconds=60)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(wave) == 15 * SAMPLE_RATE
    assert peak < 40e6  # 12 MB of one channel, twice, and a block; all channels at once are 92 MB


def test_uncorrelated_stereo_is_not_called_antiphase(tmp_path):
    stereo = np.random.default_rng(0).normal(0, 0.1, (8000, 2))
    assert len(read_audio(wav(tmp_path / "a.wav", stereo), max_seconds=5.0)) == 8000
    one_sided = np.stack([tone(), np.zeros(8000, np.float32)], axis=1)
    assert len(read_audio(wav(tmp_path / "b.wav", one_sided), max_seconds=5.0)) == 8000


def test_write_wav_round_trip_and_refusals(tmp_path):
    write_wav(tmp_path / "a.wav", tone())
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", max_seconds=5), tone(), atol=1e-4)
    write_wav(tmp_path / "loud.wav", tone() * 10)
    assert np.abs(read_audio(tmp_path / "loud.wav", max_seconds=5)).max() <= 1
    with pytest.raises(AudioError, match="not_finite"):
        write_wav(tmp_path / "b.wav", half_nan())
    with pytest.raises(AudioError, match="not_mono"):
        write_wav(tmp_path / "b.wav", tone(channels=2))
    assert not (tmp_path / "b.wav").exists()


WAVEFORMS = {
    "NaN": ("not_finite", half_nan()),
    "infinite": ("not_finite", half_nan() * 0 + np.inf),
    "too large for float32": ("not_finite", tone().astype(np.float64) * 1e300),
    "silent": ("silent", np.zeros(8000)),
    "constant": ("constant", np.full(8000, 0.3)),
    "integers": ("out_of_range", (tone() * 32768).astype(np.int16)),
    "integers as float": ("out_of_range", tone() * 32768),
    "stereo": ("not_mono", tone(channels=2)),
    "a number": ("not_mono", np.float32(1)),
    "none": ("not_mono", None),
    "texts": ("not_audio", np.array(["a"] * 8000)),
    "complex": ("not_audio", tone().astype(complex)),
    "empty": ("too_short", np.zeros(0)),
    "short": ("too_short", tone(0.05)),
    "long": ("too_long", tone(6.0)),
}


@pytest.mark.parametrize(("code", "waveform"), WAVEFORMS.values(), ids=WAVEFORMS)
def test_a_waveform_given_in_python_gets_the_checks_of_a_file(code, waveform):
    with pytest.raises(AudioError) as caught:
        check_waveform(waveform, 5.0, where="turn 2")
    assert caught.value.code == code, str(caught.value)
    assert str(caught.value).startswith("turn 2: ")
    for kind in (np.float16, np.float32, np.float64):
        given = check_waveform(tone().astype(kind), 5.0)
        assert given.dtype == np.float32
        np.testing.assert_array_equal(given, tone().astype(kind).astype(np.float32))
