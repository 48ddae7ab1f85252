import pickle
import tracemalloc

import numpy as np
import pytest
import soundfile
from helpers import bad_audio
from helpers.bad_audio import tone

from ieat_jax.audio.files import SAMPLE_RATE, AudioError, check_waveform, read_audio, write_wav
from ieat_jax.errors import UserError

RATE = 16_000


def wav(path, data, rate=RATE, **options):
    soundfile.write(path, data, rate, **options)
    return path


def half_nan():
    wave = tone()
    wave[100] = np.nan
    return wave


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "inside"
    folder.mkdir()
    return folder, bad_audio.make_all(folder)


@pytest.mark.parametrize("kind", bad_audio.files())
def test_bad_files_end_in_an_error_with_a_code(bad, kind):
    folder, made = bad
    if kind not in made:
        pytest.skip("this user cannot make such a file, or may read it")
    code, path = made[kind]
    with pytest.raises(AudioError) as caught:
        read_audio(path, max_seconds=bad_audio.LIMIT, root=folder)
    assert caught.value.code == code, str(caught.value)
    assert isinstance(caught.value, UserError)
    assert code in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.code, again.path, str(again)) == (code, caught.value.path, str(caught.value))


@pytest.mark.parametrize(("path", "code"), [("a\0b.wav", "bad_path"), ("/dev/zero", "not_a_file")])
def test_paths_that_no_record_can_hold(path, code):
    with pytest.raises(AudioError) as caught:
        read_audio(path, max_seconds=5.0)
    assert caught.value.code == code


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


@pytest.mark.parametrize("kind", bad_audio.good())
def test_good_files_of_any_kind_have_their_whole_length_and_their_values(tmp_path, kind):
    content, most = bad_audio.good()[kind]
    (tmp_path / "a.wav").write_bytes(content)
    wave = read_audio(tmp_path / "a.wav", max_seconds=5.0)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    if most is None:  # lossy, or resampled
        assert SAMPLE_RATE <= len(wave) <= SAMPLE_RATE + 700  # a block of the encoder's, filled up
        middle = wave[4000:12000]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(8000)))
        assert abs(int(spectrum.argmax()) * 2 - 300) <= 4
        assert np.sqrt(np.square(middle).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.06)
    else:
        np.testing.assert_allclose(wave, tone(1), atol=most)


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
