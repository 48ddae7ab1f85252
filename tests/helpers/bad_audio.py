"""Sound that cannot be used, and sound that looks odd and can, of every kind that is known; made anew by the tests.

A maker is given a folder and a name, and leaves the file there; one that needs another name returns it. Codes are those
where at most `LIMIT` seconds are accepted.
"""

import gzip
import io
import json
import os
import socket
import stat
import struct
import zipfile

import numpy as np
import soundfile

RATE, LIMIT = 16_000, 5.0
FORMATS = {
    "wav": {"format": "WAV"}, "flac": {"format": "FLAC"}, "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {"format": "MP3"}, "aiff": {"format": "AIFF"},
    "au": {"format": "AU"}, "caf": {"format": "CAF"}, "w64": {"format": "W64"}, "rf64": {"format": "RF64"},
    "nist": {"format": "NIST"},
}  # fmt: skip


def tone(seconds=0.5, rate=RATE, hz=300.0, channels=1):
    wave = (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


def encoded(data, rate=RATE, **options):
    """The bytes of a sound file, a WAV by default."""
    file = io.BytesIO()
    soundfile.write(file, data, rate, **({"format": "WAV"} | options))
    return file.getvalue()


def noisy(seconds=1.0, **options):
    """A tone in noise, which no encoder makes small: what is done in the middle of it meets sound."""
    wave = tone(seconds) + 0.05 * np.random.default_rng(0).normal(size=int(seconds * RATE)).astype(np.float32)
    return encoded(wave, **options)


def patched(content, offset, new):
    return content[:offset] + new + content[offset + len(new) :]


def cut(content):
    return content[: len(content) * 3 // 5]


def flipped(content, share):
    at = int(len(content) * share)
    return patched(content, at, bytes([content[at] ^ 0x10]))


def lying_flac(frames):
    """A FLAC with `frames` in the 36 bits of its header that count samples."""
    whole = encoded(tone(), format="FLAC")
    field = int.from_bytes(whole[18:26], "big") & ~((1 << 36) - 1) | frames
    return patched(whole, 18, field.to_bytes(8, "big"))


def lying_mp3(frames):
    """An MP3 with another number of frames in its encoder's note."""
    whole = noisy(**FORMATS["mp3"])
    at = whole.index(b"Info" if b"Info" in whole[:200] else b"Xing")
    return patched(whole, at + 8, frames.to_bytes(4, "big"))


def wav_sizes(riff, data, content=None):
    content = content or encoded(tone())
    at = content.index(b"data") + 4
    return patched(patched(content, 4, struct.pack("<I", riff)), at, struct.pack("<I", data))


def odd(value):
    wave = tone()
    wave[100] = value
    return encoded(wave, subtype="FLOAT")


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.wav", encoded(tone()))
    return file.getvalue()


def array_file():
    file = io.BytesIO()
    np.save(file, tone())
    return file.getvalue()


def write(content):
    """A maker of a file with this content."""
    return lambda folder, name: (folder / name).write_bytes(content) and None


def sparse(content, size):
    """A maker of a file that is followed by zeros up to `size`, which take no disk."""

    def make(folder, name):
        (folder / name).write_bytes(content)
        os.truncate(folder / name, size)

    return make


def link(target):
    return lambda folder, name: (folder / name).symlink_to(target.format(folder=folder, name=name))


def device(folder, name):
    os.mknod(folder / name, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero, which never ends


def bound_socket(folder, name):
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket is at most 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(name)
    finally:
        os.chdir(here)


def locked(folder, name):
    (folder / name).write_bytes(encoded(tone()))
    (folder / name).chmod(0)


def outside(folder, name):
    (folder.parent / "outside.wav").write_bytes(encoded(tone()))
    (folder / name).symlink_to("../outside.wav")


def through_folder(folder, name):
    (folder / name).symlink_to("..")
    outside(folder, name + ".link")
    return f"{name}/outside.wav"


def beneath_file(folder, name):
    (folder / name).write_bytes(encoded(tone()))
    return f"{name}/a.wav"


def other(name):
    """A maker of nothing, with another name."""
    return lambda folder, _: name


def make_all(folder):
    """Kind -> (its code, the path of such a file from `folder`); of what this user can make and is refused."""
    made = {}
    for number, (kind, (code, maker)) in enumerate(files().items()):
        if kind == "no permission" and os.geteuid() == 0:  # who may read everything
            continue
        try:
            made[kind] = code, maker(folder, f"{number}.wav") or f"{number}.wav"
        except PermissionError:  # a device is made by root alone
            assert kind == "device"
    return made


def files():
    """Kind -> (its code, maker)."""
    return no_sounds() | damaged_sounds()


def no_sounds():
    """Of what is no file, or holds no sound."""
    return {
        # what is no file
        "missing": ("missing", lambda folder, name: None),
        "link to nothing": ("missing", link("nowhere.wav")),
        "folder": ("not_a_file", lambda folder, name: (folder / name).mkdir()),
        "pipe": ("not_a_file", lambda folder, name: os.mkfifo(folder / name)),
        "socket": ("not_a_file", bound_socket),
        "device": ("not_a_file", device),
        "link loop": ("bad_path", link("{name}")),
        "name of 300 bytes": ("bad_path", other("x" * 300)),
        "path of 9000 bytes": ("bad_path", other("x/" * 4500 + "a.wav")),
        "beneath a file": ("bad_path", beneath_file),
        "no permission": ("unreadable", locked),
        "link out of the folder": ("outside_root", outside),
        "linked folder out of the folder": ("outside_root", through_folder),
        "link to a device": ("outside_root", link("/dev/zero")),
        # what is no sound
        "no bytes": ("empty", write(b"")),
        "one byte": ("not_audio", write(b"R")),
        "random bytes": ("not_audio", write(np.random.default_rng(3).bytes(5000))),
        "zeros": ("not_audio", write(bytes(5000))),
        "4 GiB of zeros": ("not_audio", sparse(b"", 1 << 32)),
        "web page": ("not_audio", write(b"<!doctype html><html>404 not found</html>" * 20)),
        "JSON": ("not_audio", write(json.dumps({"error": "quota"}).encode())),
        "pointer of git lfs": ("not_audio", write(b"version https://git-lfs.github.com/spec/v1\nsize 9\n")),
        "archive": ("not_audio", write(zipped())),
        "packed sound": ("not_audio", write(gzip.compress(encoded(tone())))),
        "NumPy array": ("not_audio", write(array_file())),
        "video": ("not_audio", write(b"\0\0\0\x20ftypisom" + bytes(range(256)) * 20)),
        "samples without a header": ("not_audio", write((tone() * 32_000).astype("<i2").tobytes())),
        "format without a length": ("format", write(encoded(tone(), format="AVR"))),
    }  # fmt: skip


def damaged_sounds():
    """Of headers that lie, sound that is damaged, and values and lengths that cannot be used."""
    w64 = noisy(**FORMATS["w64"])
    two_pieces = encoded(tone(2))
    two_pieces = two_pieces[:32_044] + b"data" + struct.pack("<I", 31_992) + two_pieces[32_052:]
    two_pieces = wav_sizes(len(two_pieces) - 8, 32_000, two_pieces)
    long_wav = wav_sizes(0x140AE024, 0x140AE000, encoded(tone()))
    return {
        # headers
        "no samples": ("empty", write(encoded(np.zeros(0, np.float32)))),
        "header alone, FLAC": ("corrupt", write(encoded(tone(), format="FLAC")[:42])),
        "header alone": ("truncated", write(encoded(tone())[:44])),
        "half a header": ("not_audio", write(encoded(tone())[:20])),
        "0 channels": ("not_audio", write(patched(encoded(tone()), 22, struct.pack("<H", 0)))),
        "9 channels": ("channels", write(encoded(tone(channels=9)))),
        "65535 channels": ("not_audio", write(patched(encoded(tone()), 22, struct.pack("<H", 65_535)))),
        "0 Hz": ("not_audio", write(patched(encoded(tone()), 24, struct.pack("<I", 0)))),
        "1 Hz": ("sample_rate", write(encoded(tone(), 1))),
        "384 kHz": ("sample_rate", write(encoded(tone(), 384_000))),
        "4 GHz": ("not_audio", write(patched(encoded(tone()), 24, struct.pack("<I", 0xFFFFFFFF)))),
        "0 bits": ("not_audio", write(patched(encoded(tone()), 34, struct.pack("<H", 0)))),
        "1.9 GB promised": ("truncated", write(wav_sizes(0x70000024, 0x70000000))),
        "twice as much promised": ("truncated", write(wav_sizes(32_036, 32_000))),
        "half as much promised": ("lying_header", write(wav_sizes(32_036, 32_000, encoded(tone(4))))),
        "two pieces of sound": ("joined", write(two_pieces)),
        "two files in one, AU": ("joined", write(encoded(tone(), format="AU") * 2)),
        "FLAC of 256 GiB": ("truncated", write(lying_flac((1 << 36) - 1))),
        "FLAC of unknown length": ("lying_header", write(lying_flac(0))),
        "FLAC longer than told": ("lying_header", write(lying_flac(2000))),
        "FLAC shorter than told": ("truncated", write(lying_flac(9000))),
        "FLAC of another rate": ("lying_header", write(patched(lying_flac(8000), 18, b"\x0a\xc4\x40"))),
        "MP3 shorter than told": ("truncated", write(lying_mp3(9000))),
        # cut short or damaged
        **{f"cut, {kind}": ("truncated", write(cut(noisy(**FORMATS[kind])))) for kind in FORMATS},
        "cut by 100 bytes": ("truncated", write(encoded(tone())[:-100])),
        **{f"flipped bit, {kind}": ("corrupt", write(flipped(noisy(**FORMATS[kind]), 0.8)))
           for kind in ("vorbis", "opus")},
        "flipped bit, FLAC": ("corrupt", write(flipped(noisy(**FORMATS["flac"]), 0.8))),
        "zeros in the middle, FLAC": ("corrupt", write(patched(noisy(**FORMATS["flac"]), 9000, bytes(4096)))),
        "zeros in the middle, Ogg": ("corrupt", write(patched(noisy(**FORMATS["opus"]), 2000, bytes(400)))),
        # values
        "NaN": ("not_finite", write(odd(np.nan))),
        "infinity": ("not_finite", write(odd(-np.inf))),
        "NaN in float64": ("not_finite", write(encoded(np.full(8000, np.nan), subtype="DOUBLE"))),
        "3e5": ("out_of_range", write(odd(3e5))),
        "integers as float": ("out_of_range", write(encoded(tone() * 32_768, subtype="FLOAT"))),
        "silence": ("silent", write(encoded(np.zeros(8000, np.float32)))),
        "one step of noise": ("silent", write(encoded(np.tile([0, 1], 4000).astype(np.int16)))),
        "constant": ("constant", write(encoded(np.full(8000, 0.3, np.float32)))),
        "antiphase": ("antiphase", write(encoded(np.stack([tone(), -0.98 * tone()], axis=1)))),
        # lengths
        "one sample": ("too_short", write(encoded(np.full(1, 0.5, np.float32)))),
        "50 ms": ("too_short", write(encoded(tone(0.05)))),
        "6 s": ("too_long", write(encoded(tone(6.0)))),
        "3 h": ("too_long", sparse(long_wav, 0x140AE02C)),
        "1.06 GiB, length not written": ("too_long", sparse(wav_sizes(0xFFFFFFFF, 0xFFFFFFFF), 17 << 26)),
        "1000 MP3s in one": ("too_long", write(noisy(**FORMATS["mp3"]) * 1000)),
        "6 s in two": ("too_long", write(encoded(tone(3.0), format="FLAC") * 2)),
        "w64 of 2**63 bytes": ("truncated", write(patched(w64, 16, b"\xff" * 7 + b"\x7f"))),
    }  # fmt: skip


def good():
    """Name of a kind -> (content of a file of one second of `tone`, largest difference from it or None)."""
    whole = tone(1)
    fine = {"float": 1e-7, "double": 1e-7, "pcm_24": 1e-6, "pcm_32": 1e-7, "pcm_16": 4e-5, "pcm_u8": 0.01}
    return {
        **{name: (encoded(whole, subtype=name.upper()), most) for name, most in fine.items()},
        "u-law": (encoded(whole, subtype="ULAW"), 0.02),
        "a-law": (encoded(whole, subtype="ALAW"), 0.02),
        "IMA ADPCM": (encoded(whole, subtype="IMA_ADPCM"), None),
        "MS ADPCM": (encoded(whole, subtype="MS_ADPCM"), None),
        "GSM 6.10": (encoded(tone(1, 8000), 8000, subtype="GSM610"), None),
        **{kind: (encoded(whole, **options), 4e-5 if kind not in ("vorbis", "opus", "mp3") else None)
           for kind, options in FORMATS.items()},
        "FLAC of 24 bits": (encoded(whole, format="FLAC", subtype="PCM_24"), 1e-6),
        "8 channels": (encoded(tone(1, channels=8)), 4e-5),
        "8 channels of 48 kHz": (encoded(tone(1, 48_000, channels=8), 48_000), None),
        "192 kHz": (encoded(tone(1, 192_000), 192_000), None),
        "uncorrelated channels": (encoded(np.stack([whole * 2, 0 * whole], axis=1), subtype="FLOAT"), 1e-6),
        "length not written": (wav_sizes(0, 0, encoded(whole)), 4e-5),
        "length unknown": (wav_sizes(0xFFFFFFFF, 0xFFFFFFFF, encoded(whole)), 4e-5),
        "two FLACs": (encoded(whole[:8000], format="FLAC") + encoded(whole[8000:], format="FLAC"), 4e-5),
        "zeros behind": (encoded(whole, format="FLAC") + bytes(9000), 4e-5),
    }  # fmt: skip
