import numpy as np
import pytest

from ieat_jax.audio.logmel import HOP, clip_frames, clip_log_mel, log_mel, mel_filters


def speechlike(seconds, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    buzz = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 30))
    swell = np.square(np.sin(3 * np.pi * time))
    return (0.1 * buzz * swell + 0.001 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.3, 4.0, 30.0, 31.0])
def test_equals_the_whisper_feature_extractor(mels, seconds):
    transformers = pytest.importorskip("transformers")
    wave = speechlike(seconds)
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels)
    wanted = extractor(wave, sampling_rate=16_000, return_tensors="np").input_features[0].T
    found = log_mel(wave, num_mels=mels, window_seconds=30.0)
    assert found.shape == (3000, mels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(("mels", "n_fft"), [(80, 400), (128, 400), (40, 1024)])
def test_filters_equal_librosa(mels, n_fft):
    librosa = pytest.importorskip("librosa")
    wanted = librosa.filters.mel(sr=16_000, n_fft=n_fft, n_mels=mels).T
    np.testing.assert_allclose(mel_filters(mels, n_fft), wanted, atol=1e-7)


def test_a_short_window_gives_the_same_speech_frames():
    wave = speechlike(4.0)
    whole, short = log_mel(wave, window_seconds=30.0), log_mel(wave)
    assert short.shape == (400, 80)
    # The frame that touches the end sees silence in one and a mirror image in the other.
    np.testing.assert_allclose(short[:398], whole[:398], atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, HOP - 1, HOP, HOP + 1, 399, 400, 1000])
def test_tiny_windows(samples):
    mel = log_mel(speechlike(1.0)[:samples])
    assert mel.shape == (samples // HOP, 80)
    assert np.isfinite(mel).all()


def test_silence_is_finite_and_constant():
    mel = log_mel(np.zeros(16_000, np.float32))
    assert np.isfinite(mel).all()
    assert np.ptp(mel) == 0


def test_rejects_more_than_one_channel():
    with pytest.raises(ValueError, match="one waveform"):
        log_mel(np.zeros((2, 16_000), np.float32))


def test_a_clip_keeps_every_frame_that_hears_it_and_the_rest_of_its_window_is_silence():
    rng = np.random.default_rng(0)
    for samples in (4000, 4001, 4159, 15_900, 20_000):
        waveform = rng.normal(size=samples).astype(np.float32) * 0.1
        whole = log_mel(waveform, window_seconds=1.0)
        clip = clip_log_mel(waveform, num_mels=80, window_seconds=1.0)
        np.testing.assert_allclose(clip, whole[: len(clip)], atol=1e-6)  # sums of other sizes round otherwise
        silence = max(whole.max() - 2.0, -1.5)  # Whisper's floor: 8 decades below the maximum, scaled by 1 / 4
        np.testing.assert_allclose(whole[len(clip) :], silence, atol=1e-5)


def test_frames_of_many_clips_are_those_of_each():
    lengths = np.array([1, 159, 160, 200, 201, 15_999, 16_000, 16_001, 99_999])
    found = clip_frames(lengths, window_seconds=1.0)
    assert found.tolist() == [clip_frames(int(length), window_seconds=1.0) for length in lengths]
    for length, frames in zip(lengths.tolist(), found.tolist(), strict=True):
        assert len(clip_log_mel(np.ones(length, np.float32), num_mels=4, window_seconds=1.0)) == frames
