"""Sound in a page: a player that holds the sound itself, and a picture of it. No plotting library is needed."""

import base64
import html
import io
import struct
import zlib

import numpy as np
import soundfile

# Anchors of a perceptually even dark-to-light map (after matplotlib's magma).
_SPECTRUM = np.array(
    [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97],
     [254, 194, 135], [252, 253, 191]]
)  # fmt: skip


def _png(pixels: np.ndarray, palette: np.ndarray) -> bytes:
    """Indexed PNG of pixels [height, width] uint8 and palette [256, 3] uint8."""
    height, width = pixels.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", palette.astype(np.uint8).tobytes())
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def spectrogram(waveform: np.ndarray, label: str, *, sample_rate: int = 16000) -> str:
    """`<img>` of a waveform's spectrogram: 0..8 kHz on a mel-like axis, 70 dB deep."""
    size, hop = sample_rate // 32, sample_rate // 80
    padded = np.pad(np.asarray(waveform, np.float32), (0, max(size - len(waveform), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    mel = np.linspace(np.log1p(60 / 700), np.log1p(sample_rate / 2 / 700), 72)
    decibel = 10 * np.log10(np.maximum(power, 1e-12))
    rows = np.stack([np.interp(np.expm1(mel) * 700, hertz, frame) for frame in decibel])
    level = np.clip((rows - rows.max() + 70) / 70, 0, 1)
    pixels = np.round(level.T[::-1] * 255).astype(np.uint8)
    steps = np.linspace(0, len(_SPECTRUM) - 1, 256)
    palette = np.stack([np.interp(steps, np.arange(len(_SPECTRUM)), channel) for channel in _SPECTRUM.T], axis=1)
    data = base64.b64encode(_png(pixels, palette)).decode()
    return f'<img class="spectrogram" alt="{html.escape(label)}" src="data:image/png;base64,{data}">'


def player(waveform: np.ndarray, label: str, *, sample_rate: int = 16000) -> str:
    """`<audio>` with a mono waveform inside the page, and its spectrogram."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format="FLAC", subtype="PCM_16")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<audio controls preload="none" aria-label="{html.escape(label)}" '
        f'src="data:audio/flac;base64,{data}"></audio>'
        f"{spectrogram(waveform, f'spectrogram: {label}', sample_rate=sample_rate)}"
    )
