"""The default unit codec: one of 4,096 ids per 20 ms of speech, for one speaker, trained in about a minute on a CPU.

Encoding finds the nearest of 4,096 vocoder frames (k-means over envelope, aperiodicity, pitch and level). Decoding
turns ids into two frames of 10 ms each by a linear map of the neighbouring centroids, fitted by ridge regression, which
smooths the steps that quantisation leaves; then the vocoder speaks them. Made for the demo corpus: it carries that one
voice and its prosody, not other speakers.
"""

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ieat_jax.audio.codec import GROUP_SIZE, CodecError, check_ids, content_hash
from ieat_jax.audio.files import SAMPLE_RATE
from ieat_jax.codecs.source_filter import DEFAULT_F0, FEATURES, HOP, MELS, analyse, synthesise
from ieat_jax.errors import UserError
from ieat_jax.progress import Progress, counted
from ieat_jax.storage import local_path

RATE = 50
FRAMES_PER_UNIT = SAMPLE_RATE // RATE // HOP
CODES = 4096
CONTEXT = 5  # units on either side that decoding looks at
# Relative importance for k-means: a semitone of pitch weighs as much as 1 neper in one mel band.
APERIODICITY_WEIGHT = 2.0
PITCH_WEIGHT = 12 / np.log(2)
FILES = ("codec.json", "codec.safetensors")
ARRAYS = ("centroids", "decoder", "offset", "mean_pitch")
FORMAT = 1


class MelCodec:
    """`UnitCodec` over vocoder frames; `train_mel_codec` makes one, `load` reads one."""

    name = "ieat-mel"
    rate = RATE
    group_size = GROUP_SIZE
    sample_rate = SAMPLE_RATE

    def __init__(self, centroids: np.ndarray, decoder: np.ndarray, offset: np.ndarray, mean_pitch: np.ndarray):
        """Take centroids [codes, 44] (weighted), decoder [(2*CONTEXT+1)*44, 2*44], offset [2*44], mean_pitch [1]."""
        shapes = {
            "centroids": (len(centroids), FEATURES),
            "decoder": ((2 * CONTEXT + 1) * FEATURES, FRAMES_PER_UNIT * FEATURES),
            "offset": (FRAMES_PER_UNIT * FEATURES,),
            "mean_pitch": (1,),
        }
        for field, array in zip(ARRAYS, (centroids, decoder, offset, mean_pitch), strict=True):
            if array.shape != shapes[field]:
                raise CodecError(f"codec array {field} has shape {array.shape}, expected {shapes[field]}")
            setattr(self, field, np.ascontiguousarray(array, np.float32))
        self.end_id = len(centroids)
        self.vocab_size = self.end_id + 2
        self._half_norms = 0.5 * np.square(self.centroids).sum(axis=1)

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """16 kHz waveform [samples] -> int32 ids [ceil(samples / 320)]."""
        points, _, _ = unit_points(waveform, float(self.mean_pitch[0]))
        return nearest(points, self.centroids, self._half_norms)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Ids [n] -> float32 waveform [320 n] at 16 kHz."""
        ids = check_ids(ids, self.end_id)
        if not len(ids):
            return np.zeros(0, np.float32)
        frames = with_context(self.centroids[ids]) @ self.decoder + self.offset
        return np.clip(synthesise(frames.reshape(-1, FEATURES)), -1, 1)

    def identity(self) -> dict:
        """Name, rate, vocabulary and a hash of the arrays."""
        digest = content_hash(*(getattr(self, field).tobytes() for field in ARRAYS))
        return {"name": self.name, "rate": self.rate, "vocab_size": self.vocab_size, "hash": digest}

    def save(self, folder: str | Path) -> None:
        """Write codec.json and codec.safetensors to `folder`, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {field: getattr(self, field) for field in ARRAYS}
        safetensors.numpy.save_file(arrays, folder / "codec.safetensors")
        settings = {"format": FORMAT, **self.identity()}
        (folder / "codec.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "MelCodec":
        """Read a folder written by `save`.

        Raises:
            CodecError: the folder is damaged, or of another kind of codec.
        """
        folder = Path(folder)
        try:
            for name in FILES:
                local_path(folder / name, "codec")
            settings = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
            arrays = safetensors.numpy.load_file(folder / "codec.safetensors")
            if settings["format"] != FORMAT or settings["name"] != cls.name:
                raise CodecError(f"{folder}: codec {settings['name']!r} of format {settings['format']} is unknown here")
            codec = cls(*(arrays[field] for field in ARRAYS))
            stored = settings["hash"]
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            if isinstance(error, UserError):
                raise
            raise CodecError(f"{folder}: not a readable codec folder ({type(error).__name__}: {error})") from error
        if codec.identity()["hash"] != stored:
            raise CodecError(f"{folder}: codec.safetensors does not belong to codec.json (content hash differs)")
        return codec


def train_mel_codec(
    waveforms: Iterable[np.ndarray],
    *,
    codes: int = CODES,
    max_minutes: float = 25.0,
    seed: int = 0,
    part: tuple[int, int] = (1, 2),
) -> MelCodec:
    """Fit a codec on 16 kHz waveforms of one speaker.

    Reads waveforms until `max_minutes` are used. Needs at least two units of speech per code (164 s for 4,096).
    `part`: which of how many the first of its two parts is, for its progress on stderr.

    Raises:
        CodecError: there is too little speech.
    """
    points, frames, voiced, edges = [], [], [], [0]
    room = round(max_minutes * 60 * RATE)
    for waveform in waveforms:
        unit, frame, voice = unit_points(waveform, None)
        points.append(unit)
        frames.append(frame)
        voiced.append(voice)
        edges.append(edges[-1] + len(unit))
        if edges[-1] >= room:
            break
    if edges[-1] < 2 * codes:
        raise CodecError(
            f"{edges[-1] / RATE:.0f} s of speech are too little to train {codes} units; "
            f"{2 * codes / RATE:.0f} s are needed"
        )
    points, frames, voiced = np.concatenate(points), np.concatenate(frames), np.concatenate(voiced)
    # Unvoiced units all carry the mean pitch, so that pitch does not split them into useless kinds.
    mean_pitch = np.float32(frames[:, -1][voiced.reshape(-1)].mean() if voiced.any() else np.log(DEFAULT_F0))
    points[~voiced.any(axis=1), -1] = mean_pitch * PITCH_WEIGHT
    number, parts = part
    centroids = k_means(points, codes, np.random.default_rng(seed), part=part)
    ids = nearest(points, centroids, 0.5 * np.square(centroids).sum(axis=1))
    inputs = np.concatenate([with_context(centroids[ids[a:b]]) for a, b in pairwise(edges)])
    with Progress("codec: units to speech", 1, part=(number + 1, parts)):
        decoder, offset = _fit_decoder(inputs, frames.reshape(-1, FRAMES_PER_UNIT * FEATURES), voiced)
    return MelCodec(centroids, decoder, offset, np.array([mean_pitch]))


def unit_points(waveform: np.ndarray, mean_pitch: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points to quantise [n, 44] (weighted), vocoder frames [2n, 44] and voicing [n, 2] of a waveform.

    The pitch of a unit is that of its voiced frames; unvoiced units get `mean_pitch` where it is given.
    """
    size = SAMPLE_RATE // RATE
    waveform = np.pad(np.asarray(waveform, np.float32), (0, -len(waveform) % size))
    frames, voiced = analyse(waveform)
    pairs, voiced = frames.reshape(-1, FRAMES_PER_UNIT, FEATURES), voiced.reshape(-1, FRAMES_PER_UNIT)
    points = pairs.mean(axis=1)
    count = voiced.sum(axis=1)
    pitch = np.where(voiced, pairs[:, :, -1], 0).sum(axis=1) / np.maximum(count, 1)
    points[:, -1] = np.where(count > 0, pitch, points[:, -1] if mean_pitch is None else mean_pitch)
    points[:, MELS:-1] *= APERIODICITY_WEIGHT
    points[:, -1] *= PITCH_WEIGHT
    return points.astype(np.float32), frames, voiced


def nearest(points: np.ndarray, centroids: np.ndarray, half_norms: np.ndarray) -> np.ndarray:
    """Index of the nearest centroid of every point, int32 [n]."""
    ids = [np.argmax(part @ centroids.T - half_norms, axis=1) for part in _chunks(points)]
    return np.concatenate(ids).astype(np.int32) if ids else np.zeros(0, np.int32)


def with_context(vectors: np.ndarray) -> np.ndarray:
    """Each vector [n, d] with its CONTEXT neighbours on both sides, ends repeated: [n, (2*CONTEXT+1)*d]."""
    places = np.arange(len(vectors))[:, None] + np.arange(-CONTEXT, CONTEXT + 1)
    return vectors[np.clip(places, 0, len(vectors) - 1)].reshape(len(vectors), -1)


def k_means(
    points: np.ndarray,
    codes: int,
    rng: np.random.Generator,
    iterations: int = 12,
    part: tuple[int, int] | None = None,
) -> np.ndarray:
    """Lloyd's algorithm from random points; codes that lose all their points restart at random ones."""
    centroids = points[rng.choice(len(points), codes, replace=False)].copy()
    for _ in counted(range(iterations), "codec: rounds of choosing units", iterations, part=part):
        ids = nearest(points, centroids, 0.5 * np.square(centroids).sum(axis=1))
        order = np.argsort(ids, kind="stable")
        counts = np.bincount(ids, minlength=codes)
        used = counts > 0
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[used]
        centroids[used] = np.add.reduceat(points[order], starts, axis=0) / counts[used, None]
        centroids[~used] = points[rng.choice(len(points), int((~used).sum()), replace=False)]
    return centroids


def _chunks(points: np.ndarray, size: int = 2048) -> Iterable[np.ndarray]:
    return (points[start : start + size] for start in range(0, len(points), size))


def _fit_decoder(inputs: np.ndarray, targets: np.ndarray, voiced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression from centroids in context to frames; pitch is fitted on voiced frames alone."""
    columns = targets.shape[1]
    decoder, offset = np.zeros((inputs.shape[1], columns)), np.zeros(columns)
    pitch = np.arange(FEATURES - 1, columns, FEATURES)
    groups = [(np.setdiff1d(np.arange(columns), pitch), np.ones(len(inputs), bool))]
    groups += [(pitch[[place]], voiced[:, place]) for place in range(FRAMES_PER_UNIT)]
    for wanted, rows in groups:
        if not rows.any():
            offset[wanted] = np.log(DEFAULT_F0)
            continue
        x, y = inputs[rows], targets[rows][:, wanted]
        mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
        x, y = x - mean_x, y - mean_y
        gram = (x.T @ x).astype(np.float64)
        ridge = 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
        decoder[:, wanted] = np.linalg.solve(gram + ridge, (x.T @ y).astype(np.float64))
        offset[wanted] = mean_y - mean_x @ decoder[:, wanted]
    return decoder, offset
