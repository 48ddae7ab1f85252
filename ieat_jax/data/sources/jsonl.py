"""Records of JSON-lines files, as the sources of a mixture."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.audio.codec import check_identity
from ieat_jax.config.sections import SourceConfig
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, read_records, to_json
from ieat_jax.data.understood import told_of
from ieat_jax.errors import UserError
from ieat_jax.storage import local_path

SAMPLE_BYTES = 4096  # of every recording, for its fingerprint


class DataError(UserError):
    """A data recipe that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of records and its share of the mixture."""

    records: tuple[Record, ...]
    audio_root: Path
    weight: float
    name: str  # its file, for messages
    key: str = ""  # its name in config.data.sources


def open_sources(
    settings: Mapping[str, SourceConfig], quarantine: Quarantine, *, codec: dict | None = None
) -> list[Source]:
    """Read `config.data.sources`: a weight of 0 leaves a source out.

    `codec`: identity of the codec that the run speaks with; units of another one are refused. Labels that nobody
    understands, and keys that nobody reads, are reported on stderr.

    Raises:
        DataError: no source has a weight above 0, or an audio_root is not there.
        StorageError: records or audio in an object store.
        RecordError: a file that cannot be read.
        CodecError: units of another codec.
        LabelError: more labels than the quarantine's share are not understood.
    """
    sources = []
    for name, entry in sorted(settings.items()):
        if not entry.weight > 0:
            continue
        path = local_path(entry.records, f"config.data.sources.{name}.records")
        records = tuple(read_records(path, quarantine=quarantine))
        quarantine.expect(len(records))
        for sentence in told_of(records, quarantine.max_share, path):
            print(f"{path}: {sentence}", file=sys.stderr, flush=True)
        for record in records:
            if codec is not None and record.codec is not None:
                check_identity(record.codec, codec, where=f"{path}: {record.dialogue_id}")
        root = path.parent
        if entry.audio_root:
            root = local_path(entry.audio_root, f"config.data.sources.{name}.audio_root")
            if not root.is_dir():
                raise DataError(f"config.data.sources.{name}.audio_root: there is no folder {root}")
        sources.append(Source(records, root, float(entry.weight), str(path), name))
    if not sources:
        raise DataError("config.data.sources names no records with a weight above 0; give at least one")
    return sources


def fingerprints(settings: Mapping[str, SourceConfig], sources: Sequence[Source]) -> dict[str, dict[str, Any]]:
    """{NAME of config.data.sources: its fingerprint}, of sources as `open_sources` gives them."""
    names = [name for name, entry in sorted(settings.items()) if entry.weight > 0]
    return {name: fingerprint(source) for name, source in zip(names, sources, strict=True)}


def fingerprint(source: Source) -> dict[str, Any]:
    """Return what a data source was made of: its number of records, and hashes over all that they say and refer to.

    `hash` is over what stands beside the turns, and units; `content` over every word, label and path; `audio` over the
    size and a part of every recording, so that a copy of the data elsewhere is the same data.
    """
    digest, content, audio = (hashlib.sha256() for _ in range(3))
    for record in source.records:
        digest.update(json.dumps(record.raw, sort_keys=True, ensure_ascii=True, default=_listed).encode())
        content.update(json.dumps(to_json(record), sort_keys=True, ensure_ascii=True, default=_listed).encode())
        for turn in record.turns:
            digest.update(b"-" if turn.units is None else np.asarray(turn.units, np.int32).tobytes())
            audio.update(b"-" if turn.audio is None else sample(source.audio_root / turn.audio))
    hashes = {"hash": digest, "content": content, "audio": audio}
    return {
        "records": len(source.records),
        **{name: made.hexdigest()[:16] for name, made in hashes.items()},
        "weight": source.weight,
    }


def sample(file: Path) -> bytes:
    """Return the size of a file and what stands in its middle; '?' of what cannot be read or is no regular file."""
    try:
        if not file.is_file():  # a pipe would be waited for for ever
            return b"?"
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(size // 2)
            return b"%d:" % size + stream.read(SAMPLE_BYTES)
    except OSError:
        return b"?"


def _listed(value: Any) -> Any:
    return value.tolist()
