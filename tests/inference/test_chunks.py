import numpy as np
import pytest

from ieat_jax.inference.chunks import ChunkedVocoder


class SmoothCodec:
    """10 samples per unit; samples average over neighbouring units; the last sample is missing."""

    rate, sample_rate = 50, 500

    def decode(self, units):
        held = np.repeat(np.asarray(units, np.float32), 10)
        padded = np.pad(held, 15, mode="edge")
        return np.convolve(padded, np.ones(31) / 31, mode="valid")[:-1] if len(held) else held


@pytest.mark.parametrize("sizes", [[100], [4] * 25, [24, 48, 28], [1, 0, 3, 96]])
def test_chunks_join_to_the_whole(sizes):
    units = np.random.default_rng(0).integers(0, 50, sum(sizes))
    codec = SmoothCodec()
    vocoder = ChunkedVocoder(codec)
    chunks, first = [], 0
    for number, size in enumerate(sizes):
        chunks.append(vocoder.push(units[first : first + size], final=number == len(sizes) - 1))
        first += size
    joined, whole = np.concatenate(chunks), codec.decode(units)
    assert len(joined) == 10 * len(units)
    np.testing.assert_allclose(joined[:-1], whole, atol=1e-4)


def test_the_newest_units_wait_for_their_context():
    vocoder = ChunkedVocoder(SmoothCodec(), hold=0.1)
    assert len(vocoder.push(np.arange(5))) == 0
    assert len(vocoder.push(np.arange(3))) == 30
    assert len(vocoder.push(np.zeros(0, np.int32), final=True)) == 50
    assert len(vocoder.push(np.zeros(0, np.int32), final=True)) == 0
