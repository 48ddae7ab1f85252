"""Offline speech units: a codec trained on the replies of a corpus, and records with the units of their replies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ieat_jax.audio.codec import UnitCodec, check_identity
from ieat_jax.audio.files import SAMPLE_RATE, AudioError, read_audio
from ieat_jax.codecs.load import load_codec
from ieat_jax.codecs.mel import MelCodec, train_mel_codec
from ieat_jax.codecs.source_filter import MELS, analyse
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, with_units
from ieat_jax.errors import UserError
from ieat_jax.preparation.files import Journal, work_on
from ieat_jax.progress import Progress, counted

MAX_SECONDS = 60.0  # of one reply
HELD_OUT = 8  # clips that tell how well a codec does


class UnitError(UserError):
    """Records of which no units can be made."""


def reply_files(records: Iterable[Record]) -> list[str]:
    """The distinct `response_audio` paths, in the order of their first use."""
    return list(
        dict.fromkeys(turn.response_audio for record in records for turn in record.turns if turn.response_audio)
    )


def train_on_replies(
    files: Sequence[str],
    root: Path,
    quarantine: Quarantine,
    *,
    codes: int,
    minutes: float,
    seed: int,
    places: Mapping[str | None, str] | None = None,
) -> tuple[MelCodec, dict[str, float]]:
    """Train a codec on replies drawn at random, `minutes` at most -> (codec, figures of `resynthesis` on others).

    A file that cannot be used is noted in the quarantine under its path, with where records name it (`places`). Figures
    are empty for small corpora.

    Raises:
        UnitError: no replies. CodecError: too little speech.
    """
    if not files:
        raise UnitError("no record has a response_audio: there is nothing to train a codec on")
    order = [files[index] for index in np.random.default_rng(seed).permutation(len(files))]
    held_out = order[: min(HELD_OUT, len(order) // 20)]
    parts = 4 if held_out else 3
    places = places or {}
    spoken = _watched(order[len(held_out) :], root, quarantine, places, minutes, parts)
    codec = train_mel_codec(spoken, codes=codes, max_minutes=minutes, seed=seed, part=(2, parts))
    waveforms = list(_readable(held_out, root, quarantine, places))
    return codec, resynthesis(codec, waveforms) if waveforms else {}


def _watched(
    files: Sequence[str],
    root: Path,
    quarantine: Quarantine,
    places: Mapping[str | None, str],
    minutes: float,
    parts: int,
) -> Iterator[np.ndarray]:
    """The waveforms, with a progress: they end with the files, or when `minutes` are read."""
    seconds, known = 0.0, 0
    with Progress("codec: speech analysed, in per cent", 100, part=(1, parts)) as progress:
        for number, file in enumerate(files, 1):
            for waveform in _readable([file], root, quarantine, places):
                seconds += len(waveform) / SAMPLE_RATE
                yield waveform
            share = max(number / len(files), seconds / max(60 * minutes, 1))
            progress.done(new := min(100, int(100 * share)) - known)
            known += new


def _readable(
    files: Iterable[str], root: Path, quarantine: Quarantine, places: Mapping[str | None, str]
) -> Iterator[np.ndarray]:
    for file in files:
        quarantine.expect(1)
        try:
            yield read_audio(file, max_seconds=MAX_SECONDS, root=root)
        except AudioError as error:
            quarantine.note(file, error.code, f"{places[file]}: {error}" if file in places else str(error))


def resynthesis(codec: UnitCodec, waveforms: Sequence[np.ndarray]) -> dict[str, float]:
    """How waveforms differ from decoding their units; means over frames that can be heard.

    'spectrum_db': of the log-mel envelope without its level; 'level_db'; 'pitch_semitones': median where both are
    voiced; 'voicing': share of frames with the same voicing.
    """
    spectrum, level, pitch, voicing = [], [], [], []
    for waveform in counted(waveforms, "codec: replies compared", len(waveforms), part=(4, 4)):
        (before, voiced), (after, voiced_after) = (
            analyse(wave[: len(waveform)]) for wave in (waveform, codec.decode(codec.encode(waveform)))
        )
        decibels, decibels_after = (10 / np.log(10) * frames[:, :MELS] for frames in (before, after))
        loud = decibels.mean(axis=1) > decibels.mean(axis=1).max() - 40
        difference = (decibels_after - decibels)[loud]
        spectrum.append(np.abs(difference - difference.mean(axis=1, keepdims=True)).mean(axis=1))
        level.append(np.abs(difference.mean(axis=1)))
        both = voiced & voiced_after
        pitch.append(np.abs(after[both, -1] - before[both, -1]) * 12 / np.log(2))
        voicing.append((voiced == voiced_after)[loud])
    joined = {"spectrum_db": spectrum, "level_db": level, "pitch_semitones": pitch, "voicing": voicing}
    return {
        name: float((np.median if name == "pitch_semitones" else np.mean)(np.concatenate(parts)))
        for name, parts in joined.items()
    }


def encode_files(
    files: Sequence[str], root: Path, codec: Path, *, workers: int | None = None, journal: Path | None = None
) -> Iterator[tuple[str, np.ndarray | AudioError]]:
    """(file, its units or what is wrong with it), in the order given; `workers` processes (default: all cores).

    Whatever goes wrong with one file, its process included, is a result like another. `journal`: a file that keeps what
    was encoded, so that work that was cut off is not done again.
    """
    return work_on(
        files,
        root,
        _encode,
        setup=(_load, (str(codec),)),
        workers=workers,
        journal=None if journal is None else Journal(journal, root, load_codec(codec).identity()),
        plain=np.ndarray.tolist,
        again=lambda ids: np.asarray(ids, np.int32),
    )


_codec: UnitCodec | None = None


def _load(spec: str) -> None:
    global _codec
    _codec = load_codec(spec)


def _encode(job: tuple[str, str]) -> tuple[str, np.ndarray | AudioError]:
    file, root = job
    try:
        return file, _codec.encode(read_audio(file, max_seconds=MAX_SECONDS, root=root))
    except AudioError as error:
        return file, error
    except Exception as error:  # a codec's, of which one file must not end the work on all
        return file, AudioError("not_encoded", file, f"cannot be encoded ({type(error).__name__}: {error})")


def add_units(
    records: Iterable[Record],
    units: dict[str, np.ndarray | AudioError],
    identity: dict,
    quarantine: Quarantine,
    *,
    where: str,
) -> list[Record]:
    """The records with their replies' units; one with a reply that cannot be read is quarantined and left out.

    Raises:
        CodecError: a record has units of another codec and no audio to make new ones of.
    """
    kept = []
    for record in records:
        found, bad = {}, None
        for turn in record.turns:
            if turn.response_audio is None:
                if turn.units is not None:
                    check_identity(record.codec, identity, where=f"{where}: {record.dialogue_id}")
                continue
            result = units[turn.response_audio]
            if isinstance(result, AudioError):
                bad = bad or result
            else:
                found[turn.turn_id] = result
        if bad is not None:
            name = f"{where}: {record.dialogue_id}"
            quarantine.note(name, bad.code, f"{where}:{record.line}: {record.dialogue_id}: {bad}")
        else:
            kept.append(with_units(record, found, identity) if found else record)
    return kept
