import numpy as np
import pytest

from ieat_jax.audio.pitch import track_pitch
from ieat_jax.codecs.source_filter import BANDS, FEATURES, HOP, MELS, analyse, synthesise


def buzz(f0, seconds=1.0, amplitude=0.1):
    time = np.arange(int(seconds * 16_000)) / 16_000
    harmonics = range(1, int(7000 / f0))
    return (amplitude * sum(np.cos(2 * np.pi * k * f0 * time) / k for k in harmonics)).astype(np.float32)


def noise(seconds=1.0, level=0.05):
    return np.random.default_rng(0).normal(0, level, int(seconds * 16_000)).astype(np.float32)


@pytest.mark.parametrize("f0", [80, 110, 165.5, 240, 333.3, 500])
def test_pitch_of_a_buzz(f0):
    found, periodicity = track_pitch(buzz(f0), 16_000, HOP)
    assert found.shape == periodicity.shape == (100,)
    middle = found[5:-5]
    assert (middle > 0).all()
    assert np.abs(12 * np.log2(middle / f0)).max() < 0.3
    assert periodicity[5:-5].min() > 0.8


def test_pitch_follows_a_glide():
    rate = 2 ** np.linspace(0, 1, 16_000)
    phase = 2 * np.pi * np.cumsum(150 * rate) / 16_000
    wave = sum(np.sin(k * phase) / k for k in range(1, 12)).astype(np.float32)
    found = track_pitch(wave, 16_000, HOP)[0][8:-8]
    wanted = 150 * rate[np.arange(8, 92) * HOP]
    assert np.abs(12 * np.log2(found / wanted)).max() < 0.5


@pytest.mark.parametrize("wave", [noise(), np.zeros(16_000, np.float32), np.full(16_000, 0.5, np.float32)])
def test_noise_silence_and_a_constant_have_no_pitch(wave):
    assert (track_pitch(wave, 16_000, HOP)[0] > 0).mean() < 0.1


@pytest.mark.parametrize("samples", [0, 1, HOP - 1, HOP, 3 * HOP + 7])
def test_tiny_inputs(samples):
    features, voiced = analyse(noise()[:samples])
    assert features.shape == (samples // HOP, FEATURES)
    assert voiced.shape == (samples // HOP,)
    assert np.isfinite(features).all()
    assert synthesise(features).shape == (samples // HOP * HOP,)


def test_envelope_does_not_depend_on_pitch():
    """The same spectrum sampled by harmonics of different F0 gives the same log powers, up to the density of lines."""

    def formants(f0):
        time = np.arange(16_000) / 16_000
        lines = [(k * f0, np.exp(-np.square((k * f0 - 1200) / 900))) for k in range(1, int(7900 / f0))]
        wave = sum(gain * np.cos(2 * np.pi * hz * time + hz**2) for hz, gain in lines)
        return (0.1 * np.sqrt(f0 / 200) * wave).astype(np.float32)

    low, high = (analyse(formants(f0))[0][10:-10, 3:22].mean(0) for f0 in (150, 260))
    assert np.abs(low - high).max() < 0.7


def test_periodic_and_noisy_bands_are_told_apart():
    time = np.arange(16_000) / 16_000
    low_buzz = sum(np.cos(2 * np.pi * k * 200 * time) for k in range(1, 8))
    hiss = np.fft.irfft(np.where(np.arange(8001) > 4200, np.fft.rfft(noise(level=1.0)), 0))
    features, voiced = analyse((0.05 * low_buzz + 0.1 * hiss).astype(np.float32))
    aperiodic = features[10:-10, MELS : MELS + len(BANDS)].mean(0)
    assert voiced[10:-10].all()
    assert aperiodic[0] < 0.1
    assert aperiodic[2] > 0.6


@pytest.mark.parametrize("wave", [buzz(200), noise()], ids=["buzz", "noise"])
def test_resynthesis_keeps_the_features(wave):
    before, voiced = analyse(wave)
    again = synthesise(before)
    after, voiced_again = analyse(again)
    assert len(again) == len(wave)
    inner = slice(8, -8)
    assert (voiced == voiced_again)[inner].mean() > 0.95
    assert np.abs(before[inner, :MELS].mean(0) - after[inner, :MELS].mean(0)).mean() < 0.5
    assert abs(20 * np.log10(np.std(again[1600:-1600]) / np.std(wave[1600:-1600]))) < 1.0


def test_the_seed_changes_the_noise_only():
    features, _ = analyse(noise())
    np.testing.assert_array_equal(synthesise(features, 1), synthesise(features, 1))
    assert np.abs(synthesise(features, 1) - synthesise(features, 2)).max() > 0.01
