"""The sources of a run, each opened by what its path names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from ieat_jax.audio.codec import check_identity
from ieat_jax.config.sections import SourceConfig
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.jsonl import JsonLines
from ieat_jax.data.sources.source import Source
from ieat_jax.data.sources.store import DataError
from ieat_jax.data.understood import told_of_report
from ieat_jax.storage import local_path


def open_sources(
    settings: Mapping[str, SourceConfig], quarantine: Quarantine, *, codec: dict | None = None
) -> list[Source]:
    """Open `config.data.sources`: a weight of 0 leaves a source out.

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
        source = _open(name, entry)
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


def _open(name: str, entry: SourceConfig) -> Source:
    """The source that `config.data.sources.NAME` names; each kind of path is a line here."""
    path = local_path(entry.records, f"config.data.sources.{name}.records")
    root = _root(name, entry)
    return JsonLines(path, key=name, weight=float(entry.weight), audio_root=root)


def _root(name: str, entry: SourceConfig) -> Path | None:
    if not entry.audio_root:
        return None
    root = local_path(entry.audio_root, f"config.data.sources.{name}.audio_root")
    if not root.is_dir():
        raise DataError(f"config.data.sources.{name}.audio_root: there is no folder {root}")
    return root
