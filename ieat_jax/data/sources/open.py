"""The sources of a run, each opened by what its path names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from ieat_jax.audio.codec import check_identity
from ieat_jax.config.sections import FeaturesConfig, SourceConfig
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.array_record import ArrayRecords
from ieat_jax.data.sources.jsonl import JsonLines
from ieat_jax.data.sources.source import Source
from ieat_jax.data.sources.store import DataError
from ieat_jax.data.sources.tfds import PREFIX, TfdsRecords
from ieat_jax.data.understood import told_of_report
from ieat_jax.storage import local_path


def open_sources(
    settings: Mapping[str, SourceConfig],
    quarantine: Quarantine,
    *,
    codec: dict | None = None,
    check_shards: str = "auto",
) -> list[Source]:
    """Open `config.data.sources`: a weight of 0 leaves a source out.

    `codec`: identity of the codec that the run speaks with; units of another one are refused. `check_shards`: see
    `array_record.ArrayRecords`. Labels that nobody understands, and keys that nobody reads, are reported on stderr.

    Raises:
        DataError: no source has a weight above 0, or an audio_root is not there, or shards are damaged.
        StorageError: records or audio in an object store.
        RecordError: a file that cannot be read.
        CodecError: units of another codec.
        LabelError: more labels than the quarantine's share are not understood.
    """
    sources = []
    for name, entry in sorted(settings.items()):
        if not entry.weight > 0:
            continue
        source = _open(name, entry, check_shards)
        for place, code, message in source.bad():
            quarantine.expect(1)
            quarantine.note(place, code, message)
        quarantine.expect(len(source))
        facts = source.index.facts
        for sentence in told_of_report(facts["report"], quarantine.max_share, source.name):
            print(f"{source.name}: {sentence}", file=sys.stderr, flush=True)
        for identity, record in facts["codecs"] if codec is not None else ():
            check_identity(identity, codec or {}, where=f"{source.name}: {record}")
        sources.append(source)
    if not sources:
        raise DataError("config.data.sources names no records with a weight above 0; give at least one")
    return sources


def _open(name: str, entry: SourceConfig, check_shards: str) -> Source:
    """The source that `config.data.sources.NAME` names; each kind of path is a line here."""
    field, weight = f"config.data.sources.{name}", float(entry.weight)
    if entry.records.startswith(PREFIX):
        return TfdsRecords(entry.records, entry.features, key=name, weight=weight)
    if entry.features != FeaturesConfig():
        raise DataError(f"{field}.features: only a data set of TFDS has features; its records begin with {PREFIX}")
    path = local_path(entry.records, f"{field}.records")
    if path.is_dir():
        return ArrayRecords(path, key=name, weight=weight, check=check_shards)
    root = _root(name, entry)
    return JsonLines(path, key=name, weight=weight, audio_root=root)


def _root(name: str, entry: SourceConfig) -> Path | None:
    if not entry.audio_root:
        return None
    root = local_path(entry.audio_root, f"config.data.sources.{name}.audio_root")
    if not root.is_dir():
        raise DataError(f"config.data.sources.{name}.audio_root: there is no folder {root}")
    return root
