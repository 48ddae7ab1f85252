"""A data set of TensorFlow Datasets as a source, without TensorFlow: `tfds:NAME[/CONFIG][:VERSION]` or `tfds:FOLDER`.

Both may end in a split, `[train[:90%]]`; without one it is train. `config.data.sources.NAME.features` says which
features make the record. Data sets have to be prepared already, in the format array_record; nothing is downloaded.

What records say, and how long their clips are, is read once into an index beside the data set's folder, FOLDER.index/,
with the arrays `lines` and `line_end`: each record as JSON; sound is read when it is asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.audio.files import SAMPLE_RATE, AudioError, check_length, read_audio_bytes
from ieat_jax.config.sections import FeaturesConfig
from ieat_jax.data.jsonl import RecordError
from ieat_jax.data.records import FATAL, Record, parse_line, parse_record, to_json
from ieat_jax.data.sources.features import FeatureMap
from ieat_jax.data.sources.index import Index, IndexWriter
from ieat_jax.data.sources.store import DataError, StoreWriter, open_or_make
from ieat_jax.errors import UserError
from ieat_jax.progress import Progress
from ieat_jax.storage import local_path

PREFIX = "tfds:"
TYPES = {"line_end": np.int64, "example": np.int64, "samples": np.int32}
_SPEC = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<split>.+)\])?")


def folder_named(records: str) -> str:
    """The path that `config.data.sources.NAME.records` names; '' = a name that TFDS knows."""
    if not records.startswith(PREFIX):
        return records
    name = records.removeprefix(PREFIX).partition("[")[0]
    return name if name.startswith((".", "/")) or Path(name).is_dir() else ""


class TfdsRecords:
    """The examples of a data set of TFDS as records; see `source.Source`."""

    def __init__(self, spec: str, features: FeaturesConfig, *, key: str = "", weight: float = 1.0):
        """Open a data set, and make its index where there is none that fits.

        Raises:
            DataError: there is no such data set or split, or it cannot be read without TensorFlow, or it is damaged.
            ConfigError: a feature that the data set does not have.
        """
        self.key, self.name, self.weight = key, spec, weight
        self._features = features
        self._open()
        self.index = self._open_index()

    def _open(self) -> None:
        found = _SPEC.fullmatch(self.name.removeprefix(PREFIX))
        if not found:
            raise DataError(f"{self.name}: must be tfds:NAME[/CONFIG][:VERSION] or tfds:FOLDER, with [SPLIT] behind it")
        self._split = found["split"] or "train"
        builder = _builder(found["name"], self.name, f"config.data.sources.{self.key or 'NAME'}.records")
        if self._split.split("[")[0] not in builder.info.splits:
            known = ", ".join(sorted(builder.info.splits)) or "none"
            raise DataError(f"{self.name}: there is no split {self._split!r}; it has {known}")
        self.folder = Path(os.path.abspath(builder.data_path))
        _check_files(self.name, builder, self._split.split("[")[0])
        self._map = FeatureMap(
            self._features, builder.info.features, f"config.data.sources.{self.key or 'NAME'}.features"
        )
        try:
            if not builder.info.splits[self._split].num_examples:
                raise DataError(f"{self.name}: there are no examples in {self._split}")
            self._data = builder.as_data_source(self._split)
            len(self._data)
        except UserError:
            raise
        except Exception as error:  # of TFDS, which has no class for it
            raise DataError(
                f"{self.name}: cannot be read ({_first(error)}); its format must be array_record"
            ) from error

    def __len__(self) -> int:
        return len(self.index)

    def record(self, number: int) -> Record:
        """See `source.Source`.

        Raises:
            DataError: the index is of another version of this program.
        """
        ends = self.index["line_end"]
        content = self.index["lines"][int(ends[number - 1]) if number else 0 : int(ends[number])].tobytes()
        found = parse_line(content, path=self.name, number=int(self.index["example"][number]) + 1)
        if isinstance(found, Record):
            return found
        raise DataError(f"{self._place(number)}: is not what its index tells of; remove {self.index.folder}") from found

    def _place(self, number: int) -> str:
        return f"{self.name}:{int(self.index['example'][number]) + 1}"

    def place(self, number: int) -> str:
        """See `source.Source`."""
        return f"{self._place(number)}: {self.record(number).dialogue_id}"

    def samples(self, number: int, turn: int, max_seconds: float) -> int:
        """See `source.Source`.

        Raises:
            AudioError: what is wrong with it.
        """
        where = f"{self._place(number)}: turn {turn + 1}"
        count = int(self.index["samples"][int(self.index["offsets"][number]) + turn])
        if count < 0:
            raise AudioError(self.index.facts["faults"][-1 - count], where, "its sound cannot be used")
        if not count:
            raise AudioError("missing", where, "has no recording")
        check_length(where, count / SAMPLE_RATE, max_seconds)
        return count

    def waveform(self, number: int, turn: int, max_seconds: float) -> np.ndarray:
        """See `source.Source`.

        Raises:
            DataError: the data set cannot be read.
        """
        self.samples(number, turn, max_seconds)
        example = _read(self._data, int(self.index["example"][number]), self.name)
        where = f"{self._place(number)}: turn {turn + 1}"
        return read_audio_bytes(self._map.sound(example, turn, where) or b"", max_seconds=max_seconds, where=where)

    def identity(self) -> dict[str, Any]:
        """See `source.Source`; `audio` is over the sound of all examples."""
        return {**self.index.identity(), "weight": self.weight}

    def bad(self) -> Iterator[tuple[str, str, str]]:
        """See `source.Source`: the examples of which no record can be made."""
        return self.index.bad(self.name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_data", "_map")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open_index(self) -> Index:
        made = hashlib.sha256(repr(self._features).encode() + self._split.encode())
        for path in (Path(__file__), Path(__file__).with_name("features.py")):
            made.update(path.read_bytes())
        for path in sorted(path for path in self.folder.iterdir() if path.is_file()):
            found = path.stat()
            made.update(f"{path.name}:{found.st_size}:{found.st_mtime_ns}\n".encode())
        parent = self.folder.with_name(self.folder.name + ".index")
        return Index(open_or_make(parent / made.hexdigest()[:16], "records", self._make))

    def _make(self, store: StoreWriter) -> dict[str, Any]:
        made, sound, end = IndexWriter(store, TYPES), hashlib.sha256(), 0
        faults: list[str] = []
        known: dict[str, int] = {}
        for name in ("lines", "bad"):
            store.add(name, np.zeros(0, np.uint8))
        with Progress(f"{self.name}: examples read", len(self._data)) as progress:
            for number in range(len(self._data)):
                example = _read(self._data, number, self.name)
                try:
                    value = self._map.record(example, f"{self.folder.parent.name}-{number + 1}")
                    record = parse_record(value, path=self.name, line=number + 1)
                    first = known.setdefault(record.dialogue_id, number + 1)
                    if first != number + 1:
                        message = f"dialogue_id {record.dialogue_id!r} is that of example {first} already"
                        raise RecordError("duplicate_id", self.name, number + 1, message)
                except RecordError as error:
                    if error.code in FATAL:
                        raise
                    told = json.dumps([number + 1, error.code, error.message]) + "\n"
                    store.add("bad", np.frombuffer(told.encode(), np.uint8))
                    continue
                counts = []
                for turn in range(len(record.turns)):
                    content, samples, fault = self._map.measured(example, turn, f"{self.name}:{number + 1}")
                    sound.update(hashlib.sha256(content).digest())
                    if fault and fault not in faults:
                        faults.append(fault)
                    counts.append(-1 - faults.index(fault) if fault else samples)
                line = json.dumps(to_json(record), ensure_ascii=False).encode()
                end += len(line)
                store.add("lines", np.frombuffer(line, np.uint8))
                made.add(record, record_arrays={"line_end": end, "example": number}, turn_arrays={"samples": counts})
                progress.done(1)
        if not made.count:
            raise DataError(f"{self.name}: none of its {len(self._data)} examples is a record; see config.data.sources")
        facts = made.finish()
        identity = {**facts["identity"], "audio": sound.hexdigest()[:16]}
        return {**facts, "faults": faults, "identity": identity}


def _builder(name: str, spec: str, field: str) -> Any:
    import tensorflow_datasets as tfds  # half a second, which other sources need not wait for

    try:
        _read_audio_features(tfds)
        if (folder := local_path(name, field)).is_dir():
            return tfds.builder_from_directory(folder)
        return tfds.builder(name, try_gcs=False)
    except UserError:
        raise
    except Exception as error:  # of TFDS: each of its many classes for this is another
        raise DataError(
            f"{spec}: is no data set that is prepared here ({_first(error)}); give tfds:FOLDER, the folder that holds "
            "its dataset_info.json"
        ) from error


def _read_audio_features(tfds: Any) -> None:
    """Let TFDS read its feature Audio, which it makes with TensorFlow alone, as what it keeps: numbers, or a file."""
    if importlib.util.find_spec("tensorflow") is not None:
        return

    def made(cls: type, value: Any) -> Any:
        if value.lazy_decode:
            return tfds.features.Text()
        feature = tfds.core.features.feature
        kept = tfds.features.Tensor(
            shape=feature.from_shape_proto(value.shape),
            dtype=feature.dtype_from_str(value.dtype),
            encoding=value.encoding,
        )
        kept.sample_rate = value.sample_rate or None
        return kept

    tfds.features.Audio.from_json_content = classmethod(made)


def _check_files(name: str, builder: Any, split: str) -> None:
    """Refuse a data set whose files are not there: TFDS reads what is left as examples without content."""
    for path in builder.info.splits[split].filepaths:
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{name}: {path} is missing; prepare the data set again, or copy it whole")


def _read(data: Any, number: int, name: str) -> dict[str, Any]:
    """An example.

    Raises:
        DataError: it cannot be read, or is empty: so a shard that was cut off at 64 KiB reads.
    """
    try:
        example = data[number]
    except Exception as error:  # of ArrayRecord and Riegeli
        raise DataError(f"{name}: example {number + 1} cannot be read ({_first(error)}); copy it again") from error
    if not example or all(value is None for value in _leaves(example)):
        raise DataError(f"{name}: example {number + 1} is empty: a file of it was cut off; copy it again")
    return example


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    else:
        yield value


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
