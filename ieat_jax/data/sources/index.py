"""What is known of all records of a source without reading them: an index, made once and kept on disk.

    array     of            holds
    offsets   records + 1   the turns of record i are offsets[i] to offsets[i + 1]
    emotion   records       of the last turn, as a place in EMOTIONS; -1 = unknown
    samples   turns         of the clip at 16 kHz; 0 = there is none; -1 - k = it has the fault facts["faults"][k]
    units     turns         number of units of the reply
    answered  turns         whether there is a reply

Sources have arrays of their own beside these: where a record lies, say. The facts are `identity` (hashes), `content`
(a hash that other records or another order of them change), `spoken` (turns with units), `codecs` (identities of
codecs, each with the first record that has its units), `report` (labels and keys that nobody understands), `faults`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.audio.codec import IDENTITY_FIELDS
from ieat_jax.data.jsonl import RecordError
from ieat_jax.data.labels import EMOTIONS
from ieat_jax.data.records import Record, to_json
from ieat_jax.data.sources.store import ArrayStore, StoreWriter
from ieat_jax.data.understood import Labels

TYPES = {"offsets": np.int64, "emotion": np.int8, "units": np.int32, "answered": np.bool_}
FLUSH = 1 << 14  # records that are collected before they are written
MOST_SAMPLES = 2**31 - 1  # 37 hours; what is longer is as much too long


class Index:
    """Arrays and facts of one or several stores; of one name the first counts."""

    def __init__(self, *stores: ArrayStore):
        self.stores = stores
        self.facts: dict[str, Any] = {}
        for store in reversed(stores):
            self.facts |= store.facts

    @property
    def folder(self) -> Path:
        """Where it lies, and what is computed from its records can be kept."""
        return self.stores[0].folder.parent

    def __getitem__(self, name: str) -> np.ndarray:
        """An array; it must not be changed."""
        return next(store[name] for store in self.stores if name in store)

    def __len__(self) -> int:
        """How many records."""
        return len(self["offsets"]) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        return Index, self.stores

    def identity(self) -> dict[str, Any]:
        """Number of records, and hashes."""
        hashes: dict[str, str] = {}
        for store in self.stores:
            hashes |= store.facts.get("identity", {})
        return {"records": len(self), **hashes}

    def bad(self, name: str) -> Iterator[tuple[str, str, str]]:
        """(place, code, message) of what was left out; `name`: that of the source."""
        for line in self["bad"].tobytes().splitlines():
            number, code, message = json.loads(line)
            yield f"{name}:{number}", code, str(RecordError(code, name, number, message))


class IndexWriter:
    """Collects what an index holds of records, in their order, and writes it into a store."""

    def __init__(self, store: StoreWriter, types: Mapping[str, Any]):
        """`types`: names and types of the arrays that the source has besides."""
        self.store, self._types = store, {**TYPES, **types}
        self.count = self.spoken = 0
        self._turns = 0
        self._labels = Labels()
        self._hash, self._content = hashlib.sha256(), hashlib.sha256()
        self._codecs: dict[str, tuple[dict, str]] = {}
        self._kept: dict[str, list[Any]] = {name: [] for name in self._types}
        self._keep("offsets", 0)

    def add(self, record: Record, *, record_arrays: Mapping[str, Any], turn_arrays: Mapping[str, Any]) -> None:
        """Count a record; besides, the values of it and of its turns in arrays of its source."""
        raw, whole = (json.dumps(value, sort_keys=True, default=_listed) for value in (record.raw, to_json(record)))
        self._hash.update(raw.encode())
        self._content.update(whole.encode())
        for turn in record.turns:
            self._hash.update(b"-" if turn.units is None else np.asarray(turn.units, np.int32).tobytes())
            self._keep("units", 0 if turn.units is None else len(turn.units))
            self._keep("answered", bool(turn.response_text))
            self.spoken += turn.units is not None
        self._labels.add(record)
        if record.codec is not None:
            key = json.dumps([record.codec.get(field) for field in IDENTITY_FIELDS])
            self._codecs.setdefault(key, (record.codec, record.dialogue_id))
        last = record.turns[-1].emotion
        self._keep("emotion", EMOTIONS.index(last) if last in EMOTIONS else -1)
        self.count += 1
        self._turns += len(record.turns)
        self._keep("offsets", self._turns)
        for name, value in record_arrays.items():
            self._keep(name, value)
        for name, values in turn_arrays.items():
            self._kept[name].extend(values)
        if self.count % FLUSH == 0:
            self._flush()

    def finish(self) -> dict[str, Any]:
        """Write what is left; return the facts."""
        self._flush()
        return {
            "records": self.count,
            "turns": self._turns,
            "spoken": self.spoken,
            "codecs": list(self._codecs.values()),
            "report": self._labels.report(),
            "identity": {"hash": self._hash.hexdigest()[:16], "content": self._content.hexdigest()[:16]},
        }

    def _keep(self, name: str, value: Any) -> None:
        self._kept[name].append(value)

    def _flush(self) -> None:
        for name, values in self._kept.items():
            self.store.add(name, np.array(values, self._types[name]))
            values.clear()


def _listed(value: Any) -> Any:
    return value.tolist()
