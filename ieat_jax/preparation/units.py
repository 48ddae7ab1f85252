"""Offline speech units: a codec trained on the replies of a corpus, and records with the units of their replies."""

import json
import multiprocessing
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
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
from ieat_jax.progress import Progress, counted
from ieat_jax.storage import local_path

MAX_SECONDS = 60.0  # of one reply
HELD_OUT = 8  # clips that tell how well a codec does
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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
    done = _Journal(journal, codec, root) if journal is not None else None
    known = {} if done is None else done.read(files)
    jobs = [(file, str(root)) for file in files if file not in known]
    workers = min(workers or os.cpu_count() or 1, -(-len(jobs) // 8))
    if workers <= 1:
        _load(str(codec))
        found = map(_encode, jobs)
    else:
        found = _encode_in_processes(jobs, codec, workers)
    for file in files:
        if file in known:
            yield file, known[file]
            continue
        encoded, result = next(found)
        if done is not None and not isinstance(result, AudioError):
            done.note(encoded, result)
        yield encoded, result


def _encode_in_processes(
    jobs: Sequence[tuple[str, str]], codec: Path, workers: int
) -> Iterator[tuple[str, np.ndarray | AudioError]]:
    part = 512 * workers  # so that a large corpus is not queued as a whole
    start = 0
    while start < len(jobs):
        with _processes(codec, workers) as pool:
            try:
                while start < len(jobs):
                    for result in pool.map(_encode, jobs[start : start + part], chunksize=8):
                        yield result
                        start += 1
                return
            except BrokenProcessPool:
                pass
        # A process was killed: by one of the files that follow. Each is tried on its own, until it is found.
        for job in jobs[start : start + 8 * workers]:
            start += 1
            with _processes(codec, 1) as pool:
                try:
                    yield pool.submit(_encode, job).result()
                except BrokenProcessPool:
                    yield job[0], AudioError("crashed", job[0], "the process that encoded it died")
                    break


@contextmanager
def _processes(codec: Path, workers: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned, not forked: the caller may run threads that a fork would leave in a broken state.
    context = multiprocessing.get_context("spawn")
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, mp_context=context, initializer=_load, initargs=(str(codec),)) as pool,
    ):
        yield pool


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


class _Journal:
    """A file of what was encoded: a line for each audio file, which counts while the file and the codec are those."""

    def __init__(self, path: Path, codec: Path, root: Path):
        self.path, self.root = local_path(path, "units"), root
        self.identity = load_codec(codec).identity()

    def read(self, files: Iterable[str]) -> dict[str, np.ndarray]:
        """The units that are known already."""
        if not self.path.is_file():
            return {}
        lines, wanted = {}, set(files)
        for line in self.path.read_bytes().splitlines():
            mark, _, text = line.partition(b" ")
            if mark != _mark(text):  # the last line may be cut off, and any may be damaged
                continue
            entry = json.loads(text)
            if (entry["codec"], entry["root"]) == (self.identity, str(self.root)) and entry["file"] in wanted:
                lines[entry["file"]] = entry
        return {
            file: np.asarray(entry["units"], np.int32)
            for file, entry in lines.items()
            if entry["state"] == self._state(file)
        }

    def note(self, file: str, units: np.ndarray) -> None:
        """Add one."""
        entry = {"file": file, "root": str(self.root), "state": self._state(file), "codec": self.identity}
        entry["units"] = units.tolist()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(entry).encode()
        with self.path.open("ab") as out:
            out.write(_mark(text) + b" " + text + b"\n")

    def _state(self, file: str) -> list[int]:
        with suppress(OSError):
            status = (self.root / file).stat()
            return [status.st_size, status.st_mtime_ns]
        return []


def _mark(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread for linear algebra: they share the cores already."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


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
