"""An import from beginning to end: every input becomes part of a record, or is set aside with its reason."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, RecordError, parse_record
from ieat_jax.data.understood import Labels
from ieat_jax.importers.corpus import Corpus, CorpusError, Found, Place, Refused
from ieat_jax.progress import counted

MAX_SECONDS = 600.0  # nobody speaks for longer in one turn; `prepare check` knows the window of a model
CHUNK = 256  # records whose audio is looked at together


@dataclasses.dataclass
class Account:
    """What became of the inputs of an import."""

    kinds: Counter[str] = dataclasses.field(default_factory=Counter)  # all inputs
    accepted: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)  # (kind, code)
    records: Counter[str] = dataclasses.field(default_factory=Counter)  # per split
    emotions: Counter[str] = dataclasses.field(default_factory=Counter)
    speakers: set[str] = dataclasses.field(default_factory=set)
    turns: int = 0
    replies: int = 0
    used: set[str] = dataclasses.field(default_factory=set)  # sound files of records
    seen: set[str] = dataclasses.field(default_factory=set)  # inputs

    def take(self, place: Place, item: Found | Refused) -> None:
        """Count what becomes of the inputs of an item, each once.

        Raises:
            ValueError: the importer accounts for an input twice, or for one that there is not (a fault of ours).
        """
        for name in item.inputs:
            if name in self.seen or name not in place.inputs:
                raise ValueError(f"{name}: accounted for twice, or no input")
            self.seen.add(name)
            if isinstance(item, Found):
                self.accepted[place.inputs[name]] += 1
            else:
                self.refused[place.inputs[name], item.code] += 1

    def count(self, record: Record, split: str) -> None:
        """Count an accepted record."""
        self.records[split] += 1
        self.turns += len(record.turns)
        self.replies += sum(bool(turn.response_text) for turn in record.turns)
        self.emotions.update(turn.emotion or "unknown" for turn in record.turns)
        if record.speaker is not None:
            self.speakers.add(record.speaker)
        for turn in record.turns:
            self.used.update(path for path in (turn.audio, turn.response_audio) if path is not None)

    def sentences(self, name: str) -> list[str]:
        """For people: "ravdess: 3 recordings = 2 accepted + 1 quarantined (1 x silent)", and what is in the records."""
        said = []
        for kind, total in self.kinds.items():
            codes = {code: count for (of, code), count in self.refused.items() if of == kind}
            listed = ", ".join(f"{count} x {code}" for code, count in codes.items())
            refused = f"{sum(codes.values())} quarantined" + (f" ({listed})" if listed else "")
            said.append(f"{name}: {total} {kind} = {self.accepted[kind]} accepted + {refused}")
        emotions = ", ".join(f"{label} {count}" for label, count in self.emotions.most_common())
        splits = ", ".join(f"{split} {count}" for split, count in self.records.items())
        said.append(
            f"{name}: {sum(self.records.values())} dialogues ({splits}), {self.turns} turns, {len(self.speakers)} "
            f"speakers; emotions: {emotions}"
        )
        return said


def import_corpus(
    corpus: Corpus,
    place: Place,
    targets: Targets,
    *,
    max_bad_share: float,
    listen: bool = True,
) -> tuple[Account, list[str]]:
    """Write the records of a corpus; (the account, sentences about labels and keys that nobody understands).

    Nothing is written where an error is raised, but for the list of what was set aside.

    Args:
        corpus: which.
        place: its folder.
        targets: where its records go.
        max_bad_share: share of inputs that may be set aside, and of labels that nobody may understand.
        listen: decode every sound file. Without, it is enough that they are there.

    Raises:
        QuarantineError: more inputs are bad than accepted.
        LabelError: more labels are in a spelling that nobody understands.
        CorpusError: the folder is not this corpus.
    """
    account, labels, ids = Account(), Labels(), set[str]()
    faults, told = Quarantine(max_bad_share), Quarantine(1.0, targets.quarantine)
    with targets:
        for item in counted(_checked(corpus.find(place), place, listen), f"inputs of {corpus.name}", None):
            if isinstance(item, Found):
                item = _with_provenance(item, corpus)
                try:
                    record = parse_record(item.record, path=corpus.name)
                    if record.dialogue_id in ids:
                        raise RecordError("duplicate_id", corpus.name, 0, f"two dialogues are {record.dialogue_id!r}")
                except RecordError as error:
                    item = _refused(item, error.code, error.message)
                else:
                    ids.add(record.dialogue_id)
                    labels.add(record)
                    account.count(record, item.split)
                    targets.write(item.split, item.record)
            account.take(place, item)
            _note(item, faults, told)
        for name in [name for name in place.inputs if name not in account.seen]:
            missed = Refused((name,), "not_listed", f"{name}: no label or list of the corpus names it")
            account.take(place, missed)
            _note(missed, faults, told)
        account.kinds = Counter(place.inputs.values())
        faults.expect(len(place.inputs))
        faults.check()
        labels.check(max_bad_share, corpus.name)
        if not account.records:
            raise CorpusError(f"{place.path}: nothing of it can be used; {targets.quarantine} says why")
        targets.complete()
    return account, [*labels.sentences(), *labels.unread.sentences()]


def _refused(item: Found, code: str, message: str) -> Refused:
    """An item whose record cannot be used. Where another record accounts for its inputs, the message names it."""
    name = ", ".join(item.inputs[:2]) or f"a further dialogue, {item.record.get('dialogue_id')}"
    return Refused(item.inputs, code, f"{name}: {message}")


def _note(item: Found | Refused, faults: Quarantine, told: Quarantine) -> None:
    if isinstance(item, Found):
        return
    for name in item.inputs or (item.message,):
        told.note(name, item.code, item.message)
        if not item.meant:
            faults.note(name, item.code, item.message)


def _with_provenance(found: Found, corpus: Corpus) -> Found:
    meta = {"corpus": corpus.name, "licence": corpus.licence, "split": found.split}
    value = {**found.record, "ieat_meta": {**(found.record.get("ieat_meta") or {}), **meta}}
    return dataclasses.replace(found, record=value)


def _checked(items: Iterable[Found | Refused], place: Place, listen: bool) -> Iterator[Found | Refused]:
    """The same items; records with a sound file that cannot be used are refused."""
    items = iter(items)
    with ThreadPoolExecutor() as pool:
        while part := list(islice(items, CHUNK)):
            files = dict.fromkeys(path for item in part if isinstance(item, Found) for path in _paths(item.record))
            looked = pool.map(lambda path: _sound(path, place.audio_root, listen), files)
            wrong = dict(zip(files, looked, strict=True))
            for item in part:
                if isinstance(item, Found):
                    error = next((each for path in _paths(item.record) if (each := wrong[path]) is not None), None)
                    if error is not None:
                        item = _refused(item, error.code, str(error))
                yield item


def _paths(record: dict[str, Any]) -> list[str]:
    """Paths of a record that has not been checked yet: whatever else stands there is for the record's own checks."""
    turns = record.get("turns")
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    found = [turn.get(key) for turn in turns for key in ("split_audio_file", "response_audio")]
    return [path for path in found if isinstance(path, str) and path]


def _sound(path: str, root: Path, listen: bool) -> AudioError | None:
    try:
        if listen:
            read_audio(path, max_seconds=MAX_SECONDS, root=root)
        elif not (root / path).is_file():
            raise AudioError("missing", path, f"no such file under {root}")
    except AudioError as error:
        return error
    return None


class Targets:
    """The files that records go to, which appear together when all are complete."""

    def __init__(self, out: Path, splits: Iterable[str] | None = None):
        """Args:
        out: a file that ends in .jsonl for all records, or a folder for a file per split.
        splits: those that are written; None = all.
        """
        self.single = out.suffix == ".jsonl"
        self.out, self.splits = out, None if splits is None else frozenset(splits)
        self.quarantine = out.with_suffix(".quarantine.jsonl") if self.single else out / "quarantine.jsonl"
        self.written: Counter[Path] = Counter()
        self.left: Counter[str] = Counter()  # dialogues of splits that were not asked for
        self._open: dict[Path, IO[str]] = {}

    def __enter__(self) -> Targets:
        return self

    def __exit__(self, *error: object) -> None:
        for path, file in self._open.items():
            file.close()
            _partial(path).unlink(missing_ok=True)
        self._open = {}

    def write(self, split: str, record: Mapping[str, Any]) -> None:
        """Add a record of a split."""
        if self.splits is not None and split not in self.splits:
            self.left[split] += 1
            return
        path = self.out if self.single else self.out / f"{split}.jsonl"
        if path not in self._open:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open[path] = _partial(path).open("w", encoding="utf-8", newline="\n")
        self._open[path].write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self.written[path] += 1

    def complete(self) -> None:
        """Give the files their names.

        Raises:
            CorpusError: no record is of a split that was asked for.
        """
        if not self._open:
            there = ", ".join(f"{split} ({count})" for split, count in self.left.items())
            raise CorpusError(f"--split {' '.join(sorted(self.splits or ()))}: no dialogue is of it; there are {there}")
        for path, file in self._open.items():
            file.close()
            os.replace(_partial(path), path)
        self._open = {}


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def report(corpus: Corpus, place: Place, account: Account, labels: list[str], targets: Targets, started: float) -> None:
    """Say what was done."""
    for sentence in account.sentences(corpus.name):
        print(sentence)
    for sentence in (*place.notes, *(f"warning: {sentence}" for sentence in labels)):
        print(f"{corpus.name}: {sentence}")
    rest = len(place.files) - len({path for path in place.files if path in place.inputs})
    unused = [
        path for path in place.sounds() if path not in place.inputs and _from_root(place, path) not in account.used
    ]
    if unused:
        print(f"{corpus.name}: {len(unused)} other sound files and videos are in no record, such as {unused[0]}")
    print(f"{corpus.name}: {rest} other files in the folder (lists, texts, what is not of the corpus)")
    for path, count in targets.written.items():
        print(f"wrote {path}: {count} dialogues")
    if targets.left:
        listed = ", ".join(f"{split} {count}" for split, count in targets.left.items())
        print(f"not written, of other splits: {listed}")
    if any(account.refused.values()):
        print(f"what was set aside, and why: {targets.quarantine}")
    if account.used:
        print(f"audio paths start from {place.audio_root}: give it as --audio-root")
    if account.replies < account.turns:
        print(
            f"{account.turns - account.replies} of {account.turns} turns have no reply: `prepare responses` adds them"
        )
    print(f"{corpus.licence}; {time.perf_counter() - started:.1f} s")


def _from_root(place: Place, path: str) -> str:
    return Path(os.path.relpath(place.folder / path, place.audio_root)).as_posix()
