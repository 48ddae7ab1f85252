"""One shard: from lines of records to a file of dialogues with their sound, and what is to be known of it.

Plain Python, and a function of the input alone: the same bytes wherever it runs, and however many others do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from ieat_jax.audio.codec import UnitCodec, check_identity
from ieat_jax.audio.files import SAMPLE_RATE, AudioError, count_samples, read_audio
from ieat_jax.audio.flac import BITS, Flac, encode_flac
from ieat_jax.codecs.load import load_codec
from ieat_jax.data.labels import EMOTIONS
from ieat_jax.data.payload import pack
from ieat_jax.data.records import FATAL, Record, RecordError, to_json, with_units
from ieat_jax.data.sources.array_record import FORMAT, file_hash, text_name
from ieat_jax.data.sources.sound import sample
from ieat_jax.errors import UserError
from ieat_jax.preparation.shards.cut import Job, records_of
from ieat_jax.preparation.shards.tally import Tally
from ieat_jax.storage import open_place, written
from ieat_jax.text.tokenizer import TextTokenizer, load_tokenizer, tokenizer_digest

WRITER = "group_size:1"  # a dialogue is read alone, at random: 400 times as fast as of a group of 65,536


class ShardError(UserError):
    """Records of which no shards can be made, or shards that cannot be written."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How dialogues are prepared."""

    clip_seconds: float  # longest clip, and longest reply
    reply_seconds: float
    codec: str = ""  # of the units; '' = as the records have them
    tokenizer: str = ""  # whose tokens are counted; '' = none
    bits: int = BITS  # of a sample
    replies: bool = False  # keep the sound of replies


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A dialogue as a shard holds it, and its sizes by turn."""

    record: Record
    payload: bytes
    samples: list[int]  # of clips, as `count_samples` counts them; 0 = none
    reply_samples: list[int]
    text_tokens: list[int]
    reply_tokens: list[int]


class DialogueMaker:
    """Prepares dialogues: sound checked, resampled and compressed, units made, tokens counted."""

    def __init__(self, settings: Settings):
        """Load codec and tokenizer.

        Raises:
            CodecError, TokenizerError: they cannot be loaded.
        """
        self.settings = settings
        self.codec: UnitCodec | None = load_codec(settings.codec) if settings.codec else None
        self.tokenizer: TextTokenizer | None = load_tokenizer(settings.tokenizer) if settings.tokenizer else None
        self.identity: dict[str, Any] = {
            "format": FORMAT,
            "bits": settings.bits,
            "clip_seconds": settings.clip_seconds,
            "reply_seconds": settings.reply_seconds,
            "replies": settings.replies,
            "codec": None if self.codec is None else self.codec.identity(),
            "tokenizer": None if self.tokenizer is None else _identity(self.tokenizer),
        }

    def __call__(self, record: Record, root: str | Path) -> Dialogue:
        """Prepare one record; `root`: the folder that its audio paths start from.

        Raises:
            AudioError: a recording of it cannot be used.
            CodecError: it has units of another codec, and no recording to make new ones of.
        """
        settings, turns = self.settings, record.turns
        clips = [self._flac(turn.audio, root, settings.clip_seconds) for turn in turns]
        counted = [0 if turn.audio is None else self._count(turn.audio, root) for turn in turns]
        replies: list[Flac | None] = []
        reply_samples: list[int] = []
        units: dict[int, np.ndarray] = {}
        for turn in turns:
            waveform = None
            if turn.response_audio is not None and (self.codec is not None or settings.replies):
                waveform = read_audio(turn.response_audio, max_seconds=settings.reply_seconds, root=root)
                if self.codec is not None:
                    units[turn.turn_id] = self._encode(waveform, turn.response_audio)
            elif turn.units is not None and self.codec is not None:
                check_identity(record.codec or {}, self.codec.identity(), where=record.dialogue_id)
            reply_samples.append(0 if waveform is None else len(waveform))
            if settings.replies:
                replies.append(None if waveform is None else encode_flac(waveform, settings.bits))
        if units and self.codec is not None:
            record = with_units(record, units, self.codec.identity())
        count = (lambda text: 0) if self.tokenizer is None else (lambda text: len(self.tokenizer.encode(text)))
        return Dialogue(
            record,
            pack(record, clips, replies),
            counted,
            reply_samples,
            [count(turn.text) for turn in turns],
            [count(turn.response_text) for turn in turns],
        )

    def _flac(self, audio: str | None, root: str | Path, seconds: float) -> Flac | None:
        return (
            None
            if audio is None
            else encode_flac(read_audio(audio, max_seconds=seconds, root=root), self.settings.bits)
        )

    def _count(self, audio: str, root: str | Path) -> int:
        return count_samples(audio, max_seconds=self.settings.clip_seconds, root=root)

    def _encode(self, waveform: np.ndarray, file: str) -> np.ndarray:
        assert self.codec is not None
        try:
            return np.asarray(self.codec.encode(waveform), np.int32)
        except UserError:
            raise
        except Exception as error:  # a codec's, of which one file must not end the work on all
            raise AudioError("not_encoded", file, f"cannot be encoded ({type(error).__name__}: {error})") from error


def _identity(tokenizer: TextTokenizer) -> dict[str, Any]:
    return {"vocab_size": tokenizer.vocab_size, "hash": tokenizer_digest(tokenizer)}


def make_shard(job: Job, maker: DialogueMaker, folder: str) -> dict[str, Any]:
    """Write a shard and what is known of it into `folder`, unless both are there and intact; return the latter.

    Raises:
        RecordError: a path of a record leads out of its folder.
        CodecError: units of another codec.
        StorageError: the folder cannot be reached.
    """
    place = open_place(folder, "--out")
    told = place / told_name(job)
    inputs = input_hash(job, maker.identity)
    known = read_told(told)
    if known is not None and known["inputs"] == inputs and all(intact(place, file) for file in known["files"]):
        return known
    facts = _Facts()
    with written(place / job.name) as sound, written(place / text_name(job.name)) as text:
        writer = ArrayRecordWriter(str(sound), WRITER)
        try:
            with text.open("wb") as lines:
                for dialogue in _dialogues(job, maker, facts):
                    writer.write(dialogue.payload)
                    lines.write(facts.add(dialogue) + b"\n")
        finally:
            writer.close()
        files = [
            {"file": name, "bytes": path.stat().st_size, "sha256": file_hash(path)}
            for name, path in ((job.name, sound), (text_name(job.name), text))
        ]
    found = {"inputs": inputs, "files": files, **facts.as_json()}
    with written(told) as local:
        local.write_text(json.dumps(found, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return found


def _dialogues(job: Job, maker: DialogueMaker, facts: _Facts) -> Iterator[Dialogue]:
    for part in job.parts:
        for number, _, record in records_of(part):
            facts.lines += 1
            if isinstance(record, RecordError):
                if record.code in FATAL:
                    raise record
                facts.note(part.path, number, record.dialogue_id, record.code, record.message)
                continue
            try:
                yield maker(record, part.root)
            except AudioError as error:
                if error.code in FATAL:
                    raise RecordError(error.code, part.path, number, error.message) from error
                facts.note(part.path, number, record.dialogue_id, error.code, str(error))


class _Facts:
    """What is to be known of a shard."""

    def __init__(self) -> None:
        self.lines = 0
        self.bad: list[list[Any]] = []  # [file, line, dialogue_id, code, message]
        self.tally = Tally()
        self.arrays: dict[str, list[int]] = {
            name: []
            for name in (
                "turns", "begin", "size", "check", "emotion",
                "samples", "units", "answered", "text_tokens", "reply_tokens",
            )
        }  # fmt: skip
        self._end = 0

    def note(self, path: str, line: int, name: str | None, code: str, message: str) -> None:
        self.bad.append([path, line, name, code, message])

    def add(self, dialogue: Dialogue) -> bytes:
        """Count a dialogue; its line without sound, which the rows of a run are planned from."""
        value = to_json(dialogue.record)
        line = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        for name, number in (("begin", self._end), ("size", len(line)), ("check", zlib.crc32(line))):
            self.arrays[name].append(number)
        self._end += len(line) + 1
        turns = dialogue.record.turns
        last = turns[-1].emotion
        self.arrays["turns"].append(len(turns))
        self.arrays["emotion"].append(EMOTIONS.index(last) if last in EMOTIONS else -1)
        self.arrays["samples"] += dialogue.samples
        self.arrays["units"] += [0 if turn.units is None else len(turn.units) for turn in turns]
        self.arrays["answered"] += [int(bool(turn.response_text)) for turn in turns]
        self.arrays["text_tokens"] += dialogue.text_tokens
        self.arrays["reply_tokens"] += dialogue.reply_tokens
        seconds = [sum(samples) / SAMPLE_RATE for samples in (dialogue.samples, dialogue.reply_samples)]
        self.tally.add(dialogue.record, *seconds)
        return line

    def as_json(self) -> dict[str, Any]:
        return {"lines": self.lines, "bad": self.bad, "arrays": self.arrays, "tally": self.tally.as_json()}


def told_name(job: Job) -> str:
    """The file of what is known of a shard."""
    return job.name.removesuffix(".array_record") + ".json"


def read_told(path: Any) -> dict[str, Any] | None:
    """What is known of a shard; None where that is missing or damaged: it is made again."""
    try:
        found = json.loads(path.read_bytes())
        return found if {"inputs", "files", "arrays", "tally", "bad", "lines"} <= set(found) else None
    except (OSError, ValueError, TypeError):
        return None


def intact(folder: Any, told: Mapping[str, Any]) -> bool:
    """Whether a file is what was written, to the last bit."""
    path = folder / told["file"]
    try:
        return path.stat().length == told["bytes"] and file_hash(path) == told["sha256"]
    except OSError:
        return False


def input_hash(job: Job, identity: Mapping[str, Any]) -> str:
    """A hash over all that a shard depends on: settings, lines, and a part of every recording."""
    made = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for part in job.parts:
        for number, content, record in records_of(part):
            made.update(b"%d:%d:" % (number, len(content or b"")) + (content or b""))
            made.update(part.twice.get(number, "").encode("utf-8", "surrogatepass"))
            for turn in () if isinstance(record, RecordError) else record.turns:
                for audio in (turn.audio, turn.response_audio):
                    made.update(b"-" if audio is None else sample(Path(part.root) / audio))
    return made.hexdigest()
