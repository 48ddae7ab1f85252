"""Files that hold more than their first header says: joined streams, sizes never written, chunks after the sound."""

import io
import itertools
import struct

import numpy as np
import pytest
import soundfile

from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.audio.streams import _mp3_frame

WAV, FLAC, MP3 = ("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", None)
VORBIS, OPUS = ("OGG", "VORBIS"), ("OGG", "OPUS")
KINDS = {"wav": WAV, "flac": FLAC, "mp3": MP3, "vorbis": VORBIS, "opus": OPUS}
RATES = {"opus": (8000, 16_000, 48_000)}  # others of Opus do not exist
ID3 = b"ID3\4\0\0" + bytes([0, 0, 2, 44]) + bytes(300)
ID3V1 = b"TAG" + bytes(125)


def tone(seconds, rate, hz=300.0, channels=1):
    wave = (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
    return np.stack([wave] * channels, axis=1)


def stream(kind, rate=16_000, seconds=1.0, hz=300.0, channels=1):
    file = io.BytesIO()
    soundfile.write(file, tone(seconds, rate, hz, channels), rate, format=kind[0], subtype=kind[1])
    return file.getvalue()


def read(tmp_path, content, name="a.bin", max_seconds=60):
    path = tmp_path / name
    path.write_bytes(content)
    return read_audio(path, max_seconds=max_seconds)


def pitches(wave, count):
    """The frequency in the middle of each of `count` equal parts."""
    found = []
    for part in np.array_split(wave, count):
        middle = part[len(part) // 4 : 3 * len(part) // 4]
        found.append(int(np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax()) * 16_000 / len(middle))
    return found


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("name", "rate"), [(n, r) for n in KINDS for r in RATES.get(n, (8000, 16_000, 44_100))])
def test_joined_streams_are_read_whole(name, rate, count, tmp_path):
    hertz = [300, 500, 800][:count]
    wave = read(tmp_path, b"".join(stream(KINDS[name], rate, 2.0, hz) for hz in hertz))
    assert len(wave) == pytest.approx(2 * count * 16_000, abs=1300 * count)
    assert pitches(wave, count) == pytest.approx(hertz, abs=4)


@pytest.mark.parametrize("name", KINDS)
def test_joined_streams_of_other_rates_and_channels(name, tmp_path):
    parts = [stream(KINDS[name], 16_000, 2.0, 300), stream(KINDS[name], 48_000, 2.0, 500, channels=2)]
    wave = read(tmp_path, b"".join(parts))
    assert len(wave) == pytest.approx(4 * 16_000, abs=2600)
    assert pitches(wave, 2) == pytest.approx([300, 500], abs=4)
    assert np.sqrt(np.square(wave[4000:28_000]).mean()) == pytest.approx(0.21, rel=0.1)


@pytest.mark.parametrize(("first", "second"), itertools.product(("wav", "vorbis", "opus"), KINDS))
def test_joined_streams_of_different_containers(first, second, tmp_path):
    wave = read(tmp_path, stream(KINDS[first], seconds=2.0) + stream(KINDS[second], seconds=2.0, hz=500))
    assert len(wave) == pytest.approx(4 * 16_000, abs=2600)
    assert pitches(wave, 2) == pytest.approx([300, 500], abs=4)


@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF", "W64", "RF64"])
def test_joined_streams_that_can_not_be_read_name_the_file(kind, tmp_path):
    one = stream((kind, "PCM_16"))
    assert len(read(tmp_path, one)) == 16_000
    with pytest.raises(AudioError, match=r"a\.bin") as caught:
        read(tmp_path, one + one)
    assert caught.value.code in ("joined", "not_audio")


@pytest.mark.parametrize("before", [b"", ID3])
@pytest.mark.parametrize("between", [b"", ID3, ID3V1, ID3V1 + ID3, bytes(1000)])
def test_mp3_streams_with_tags_around_them(before, between, tmp_path):
    one, two = stream(MP3, seconds=2.0), stream(MP3, seconds=2.0, hz=500)
    wave = read(tmp_path, before + one + between + two + ID3V1)
    assert len(wave) == pytest.approx(4 * 16_000, abs=2600)
    assert pitches(wave, 2) == pytest.approx([300, 500], abs=4)


def without_note(mp3):
    """An MP3 without its first frame, which tells how many follow."""
    size = _mp3_frame(mp3, 0).size
    assert b"Info" in mp3[:size] or b"Xing" in mp3[:size]
    return mp3[size:]


@pytest.mark.parametrize("noted", itertools.product([True, False], repeat=2))
def test_mp3_streams_with_and_without_a_count_of_their_frames(noted, tmp_path):
    parts = [stream(MP3, seconds=2.0, hz=hz) for hz in (300, 500)]
    parts = [part if keep else without_note(part) for part, keep in zip(parts, noted, strict=True)]
    wave = read(tmp_path, b"".join(parts))
    assert len(wave) == pytest.approx(4 * 16_000, abs=4000)
    assert pitches(wave, 2) == pytest.approx([300, 500], abs=4)


def test_an_mp3_of_varying_rate_is_not_judged_by_its_first_frame(tmp_path):
    wave = read(tmp_path, without_note(stream(MP3, seconds=3.0)))
    assert len(wave) == pytest.approx(48_000, abs=2000)


def test_an_mp3_whose_note_tells_of_too_few_frames(tmp_path):
    whole = stream(MP3, seconds=3.0)
    at = whole.index(b"Info" if b"Info" in whole[:200] else b"Xing")
    wave = read(tmp_path, whole[: at + 8] + (20).to_bytes(4, "big") + whole[at + 12 :])
    assert len(wave) == pytest.approx(48_000, abs=2000)


def test_the_limit_holds_for_all_streams_together(tmp_path):
    one = stream(FLAC, seconds=3.0)
    assert len(read(tmp_path, one, max_seconds=5)) == 48_000
    with pytest.raises(AudioError, match=r"6\.0 s of audio; the limit is 5 s"):
        read(tmp_path, one + one, max_seconds=5)


def test_one_of_several_streams_may_be_silent(tmp_path):
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(16_000), 16_000, format="FLAC")
    assert len(read(tmp_path, stream(FLAC) + silence.getvalue())) == 32_000
    with pytest.raises(AudioError, match="silent"):
        read(tmp_path, silence.getvalue() * 2)


def patched(wav, riff, data):
    """A WAV whose two sizes say something else."""
    at = wav.index(b"data") + 4
    return wav[:4] + struct.pack("<I", riff) + wav[8:at] + struct.pack("<I", data) + wav[at + 4 :]


# (RIFF, data) as written by programs that do not know the size, or were never able to go back and write it.
SIZES = {
    "SoX": (0x7FFFF024, 0x7FFFF000),
    "FFmpeg": (0xFFFFFFFF, 0xFFFFFFFF),
    "arecord": (0x80000024, 0x80000000),
    "signed": (0x7FFFFFFF, 0x7FFFFFFF),
    "minus 8": (0xFFFFFFF7, 0xFFFFFFD3),
    "only the sound unknown": (0, 0xFFFFFFFF),
    "only RIFF unknown": (0xFFFFFFFF, 0),
    "never written": (0, 0),
    "an empty file's": (36, 0),
}


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_wav_of_unknown_size_is_read_to_its_end(sizes, subtype, tmp_path):
    whole = stream(("WAV", subtype), 22_050, 2.0)
    if subtype in ("FLOAT", "ULAW") and sizes[0] == 36:
        sizes = (whole.index(b"data"), 0)  # these have a chunk more
    expected = read(tmp_path, whole)
    np.testing.assert_array_equal(read(tmp_path, patched(whole, *sizes)), expected)
    # A recorder that died in the middle of a sample, and two such files in one.
    cut = read(tmp_path, patched(whole, *sizes)[:-1])
    assert len(expected) - 2 <= len(cut) <= len(expected)
    joined = read(tmp_path, patched(whole, *sizes) * 2)
    assert len(joined) == pytest.approx(2 * len(expected), abs=2)


def test_a_wav_that_is_empty_or_cut_short_is_still_refused(tmp_path):
    with pytest.raises(AudioError, match="empty"):
        read(tmp_path, stream(WAV, seconds=0))
    whole = stream(WAV)
    for size in (len(whole) // 2, 2000):
        with pytest.raises(AudioError, match="cut short"):
            read(tmp_path, whole[:size])


@pytest.mark.parametrize("after", [0, 1, 2, 300, 30_000])
def test_chunks_after_the_sound_are_not_sound(after, tmp_path):
    whole = stream(WAV)
    note = b"LIST" + struct.pack("<I", after) + b"x" * after + b"\0" * (after % 2)
    content = whole[:4] + struct.pack("<I", len(whole) - 8 + len(note)) + whole[8:] + note
    for written in (content, whole + note, whole + ID3, whole + ID3V1, whole + bytes(after)):
        np.testing.assert_array_equal(read(tmp_path, written), read(tmp_path, whole))


def test_more_sound_than_the_header_tells_of_is_named(tmp_path):
    whole = stream(WAV, seconds=4.0)
    short = patched(whole, 36 + 32_000, 32_000)  # as the header stood after one second
    with pytest.raises(AudioError, match=r"32000 bytes of sound, and 96000 bytes follow") as caught:
        read(tmp_path, short)
    assert caught.value.code == "lying_header"
    with pytest.raises(AudioError, match="a second piece of sound begins at byte 32044"):
        read(
            tmp_path,
            patched(whole[:44] + whole[44:32_044] + b"data" + struct.pack("<I", 96_000) + whole[32_044:], 36, 32_000),
        )


@pytest.mark.parametrize("name", ["a.raw", "a.RAW", "a", "a.wav.raw", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_content_counts_not_the_name(kind, name, tmp_path):
    assert len(read(tmp_path, stream(kind), name)) == pytest.approx(16_000, abs=1300)


def test_samples_without_a_header_are_no_audio_file(tmp_path):
    with pytest.raises(AudioError, match=r"a\.raw.*cannot be decoded") as caught:
        read(tmp_path, (tone(1, 16_000) * 32_000).astype("<i2").tobytes(), "a.raw")
    assert caught.value.code == "not_audio"


def test_damaged_streams_end_in_an_audio_error_or_a_waveform(tmp_path):
    rng = np.random.default_rng(0)
    for kind in KINDS.values():
        whole = stream(kind, seconds=0.5) * 2
        for _ in range(60):
            content = bytearray(whole)
            content[rng.integers(min(len(content), 200) if rng.random() < 0.5 else len(content))] ^= 1 << rng.integers(
                8
            )
            try:
                wave = read(tmp_path, bytes(content[: rng.integers(len(content)) if rng.random() < 0.3 else None]))
            except AudioError:
                continue
            assert np.isfinite(wave).all()
