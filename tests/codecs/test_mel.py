import json

import numpy as np
import pytest

from ieat_jax.audio.codec import CodecError, UnitCodec, check_identity
from ieat_jax.audio.pitch import track_pitch
from ieat_jax.codecs.load import load_codec
from ieat_jax.codecs.mel import MelCodec, k_means, nearest, train_mel_codec, with_context


def vowels(seconds, seed, f0=None):
    """Buzzes through moving resonances, with gaps: enough like speech to quantise."""
    rng = np.random.default_rng(seed)
    count = int(seconds * 16_000)
    time = np.arange(count) / 16_000
    pitch = (f0 or rng.uniform(150, 300)) * 2 ** (0.2 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    wave = np.zeros(count)
    centre = 900 + 500 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time)
    for k in range(1, 16):
        wave += np.sin(k * phase) * np.exp(-np.square((k * pitch - centre) / 600))
    gate = np.clip(5 * np.sin(2 * np.pi * 1.5 * time) + 3, 0, 1)
    return (0.08 * wave * gate + 0.001 * rng.standard_normal(count)).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    return train_mel_codec([vowels(3, seed) for seed in range(12)], codes=256)


def test_it_is_a_unit_codec(codec):
    assert isinstance(codec, UnitCodec)
    assert (codec.rate, codec.group_size, codec.sample_rate) == (50, 4, 16_000)
    assert (codec.end_id, codec.vocab_size) == (256, 258)


@pytest.mark.parametrize("samples", [1600, 16_000, 16_001, 16_319, 16_320])
def test_lengths(codec, samples):
    ids = codec.encode(vowels(2, 50)[:samples])
    assert ids.dtype == np.int32
    assert len(ids) == -(-samples // 320)
    assert ((ids >= 0) & (ids < codec.end_id)).all()
    wave = codec.decode(ids)
    assert wave.dtype == np.float32
    assert wave.shape == (320 * len(ids),)
    assert np.abs(wave).max() <= 1


def test_nothing_in_nothing_out(codec):
    assert codec.encode(np.zeros(0, np.float32)).shape == (0,)
    assert codec.decode(np.zeros(0, np.int32)).shape == (0,)


@pytest.mark.parametrize("f0", [160, 220, 290])
def test_pitch_level_and_spectrum_survive(codec, f0):
    wave = vowels(3, 77, f0)
    again = codec.decode(codec.encode(wave))[: len(wave)]
    before, after = (track_pitch(signal, 16_000, 160)[0] for signal in (wave, again))
    both = (before > 0) & (after > 0)
    assert both.sum() > 0.8 * (before > 0).sum()
    assert np.median(np.abs(12 * np.log2(after[both] / before[both]))) < 1.5
    assert abs(20 * np.log10(np.std(again) / np.std(wave))) < 2


def test_encoding_and_decoding_are_deterministic(codec):
    wave = vowels(1, 5)
    np.testing.assert_array_equal(codec.encode(wave), codec.encode(wave))
    np.testing.assert_array_equal(codec.decode(codec.encode(wave)), codec.decode(codec.encode(wave)))


def test_training_is_deterministic_and_the_seed_matters():
    waves = [vowels(3, seed) for seed in range(3)]
    first, again, other = (train_mel_codec(waves, codes=64, seed=seed).identity() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_max_minutes_bounds_what_is_read():
    taken = []

    def waves():
        for seed in range(20):
            taken.append(seed)
            yield vowels(3, seed)

    train_mel_codec(waves(), codes=64, max_minutes=0.1)
    assert len(taken) == 2


def test_too_little_speech_is_an_error():
    with pytest.raises(CodecError, match=r"3 s of speech are too little to train 4096 units; 164 s are needed"):
        train_mel_codec([vowels(3, 0)])


def test_save_load_round_trip(codec, tmp_path):
    codec.save(tmp_path / "codec")
    again = load_codec(tmp_path / "codec")
    assert isinstance(again, MelCodec)
    assert again.identity() == codec.identity()
    check_identity(codec.identity(), again.identity())
    ids = codec.encode(vowels(1, 5))
    np.testing.assert_array_equal(codec.decode(ids), again.decode(ids))


def test_damaged_folders_are_errors(codec, tmp_path):
    with pytest.raises(CodecError, match="no codec here"):
        load_codec(tmp_path)
    codec.save(tmp_path)
    settings = json.loads((tmp_path / "codec.json").read_text())
    (tmp_path / "codec.json").write_text(json.dumps(settings | {"hash": "0" * 16}))
    with pytest.raises(CodecError, match="content hash differs"):
        load_codec(tmp_path)
    (tmp_path / "codec.json").write_text(json.dumps(settings | {"format": 99}))
    with pytest.raises(CodecError, match="format 99"):
        load_codec(tmp_path)
    for content in ("{", "[]", "{}"):
        (tmp_path / "codec.json").write_text(content)
        with pytest.raises(CodecError, match="not a readable codec folder"):
            load_codec(tmp_path)
    (tmp_path / "codec.json").write_text(json.dumps(settings))
    (tmp_path / "codec.safetensors").write_bytes(b"no")
    with pytest.raises(CodecError, match="not a readable codec folder"):
        load_codec(tmp_path)


@pytest.mark.parametrize("ids", [[256], [3, -1], [1, 2, 10**6]])
def test_ids_that_are_not_sound_are_named(codec, ids):
    with pytest.raises(CodecError, match="is not sound"):
        codec.decode(np.array(ids))


@pytest.mark.parametrize("ids", [np.zeros((2, 4), np.int32), np.zeros(3, np.float32)])
def test_ids_of_a_wrong_shape_or_kind(codec, ids):
    with pytest.raises(CodecError, match="one list of whole numbers"):
        codec.decode(ids)


def test_identity_mismatch_names_every_differing_field(codec):
    ours = codec.identity()
    check_identity(ours, dict(ours))
    with pytest.raises(CodecError, match="codec") as caught:
        check_identity(ours | {"rate": 25, "hash": "else"}, ours, where="train.jsonl")
    message = str(caught.value)
    assert message.startswith("train.jsonl: ")
    assert "rate: 25 there, 50 here" in message
    assert "hash: 'else' there" in message
    assert "vocab_size" not in message
    with pytest.raises(CodecError, match="name: None there"):
        check_identity({}, ours)


def test_nearest_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    points, centroids = rng.normal(size=(300, 7)).astype("f"), rng.normal(size=(20, 7)).astype("f")
    wanted = np.square(points[:, None] - centroids).sum(-1).argmin(1)
    np.testing.assert_array_equal(nearest(points, centroids, 0.5 * np.square(centroids).sum(1)), wanted)


def test_k_means_finds_separate_clusters_and_keeps_every_code_alive():
    rng = np.random.default_rng(0)
    middles = rng.normal(0, 50, (8, 3))
    points = (middles[rng.integers(8, size=2000)] + rng.normal(0, 0.1, (2000, 3))).astype("f")
    centroids = k_means(points, 32, rng)
    nearest_middle = np.abs(centroids[:, None] - middles).max(-1).min(1)
    assert nearest_middle.max() < 1
    assert len(np.unique(centroids.round(4), axis=0)) == 32


def test_context_repeats_the_ends():
    vectors = np.arange(3.0)[:, None]
    np.testing.assert_array_equal(with_context(vectors)[0], [0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2])
