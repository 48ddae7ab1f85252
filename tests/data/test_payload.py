"""A dialogue as bytes, and bytes that are none."""

import numpy as np
import pytest
from helpers import tiny_corpus

from ieat_jax.audio.flac import encode_flac
from ieat_jax.data.payload import Payload, PayloadError, pack
from ieat_jax.data.records import parse_record, to_json


@pytest.fixture(scope="module")
def record():
    return parse_record(tiny_corpus.records()[2])


@pytest.fixture(scope="module")
def waves():
    return [np.float32(0.3) * np.sin(np.arange(n) / 7).astype(np.float32) for n in (1600, 2400)]


def test_a_dialogue_comes_back_whole(record, waves):
    flac = [encode_flac(wave) for wave in waves]
    data = pack(record, [flac[0], None], [None, flac[1]])
    payload = Payload(data)
    assert to_json(payload.record()) == to_json(record)
    assert payload.record().codec == record.codec
    np.testing.assert_array_equal(payload.waveform(0), encode_and_back(waves[0]))
    np.testing.assert_array_equal(payload.waveform(1, reply=True), encode_and_back(waves[1]))
    assert payload.waveform(1) is None
    assert payload.waveform(0, reply=True) is None
    assert payload.waveform(2) is None
    assert data == pack(record, [flac[0], None], [None, flac[1]])
    assert Payload(pack(record, [None, None])).flac(0, reply=True) is None


def encode_and_back(wave):
    from ieat_jax.audio.flac import decode_flac

    return decode_flac(encode_flac(wave))


def test_nothing_that_is_damaged_passes(record, waves):
    data = pack(record, [encode_flac(wave) for wave in waves])
    rng = np.random.default_rng(0)
    for bit in rng.integers(0, 8 * len(data), 200):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PayloadError, match="damaged"):
            Payload(bytes(bad))
    for size in (1, 5, 9, len(data) - 1):
        with pytest.raises(PayloadError, match="damaged"):
            Payload(data[:size])
    with pytest.raises(PayloadError, match="empty"):
        Payload(b"")
    with pytest.raises(PayloadError, match="damaged"):
        Payload(data + b"\0")
