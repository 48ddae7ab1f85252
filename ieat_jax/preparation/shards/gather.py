"""The shards of a data set as one: its index, its card, and what was left out."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.array_record import FORMAT, INDEX, SHARDS, STORE, TYPES
from ieat_jax.data.sources.store import FACTS, StoreWriter
from ieat_jax.preparation.shards.card import make_card, write_card
from ieat_jax.preparation.shards.cut import Job, RecordFile
from ieat_jax.preparation.shards.make import ShardError, read_told, told_name
from ieat_jax.preparation.shards.tally import Tally
from ieat_jax.progress import counted
from ieat_jax.storage import PARTIAL, written

CARD, README, BAD = "card.json", "README.md", "quarantine.jsonl"


def gather(
    out: Any, files: Sequence[RecordFile], jobs: Sequence[Job], settings: Mapping[str, Any], quarantine: Quarantine
) -> dict[str, Any]:
    """Write index, card and quarantine of finished shards; return the card.

    Raises:
        ShardError: a shard is missing, no dialogue is left, or units are of several codecs.
        QuarantineError, LabelError: more is bad than accepted; then there is the quarantine, and no index.
    """
    tally, bad, shards = Tally(), [], []
    with tempfile.TemporaryDirectory() as folder, StoreWriter(Path(folder), STORE) as store:
        store.add("offsets", np.zeros(1, TYPES["offsets"]))
        turns = 0
        for job in counted(jobs, "shards gathered", len(jobs)):
            told = read_told(out / SHARDS / told_name(job))
            if told is None:
                raise ShardError(f"{out}: shard {job.name} was not made; start the same command again to go on")
            tally.merge(told["tally"])
            bad += told["bad"]
            counts = np.array(told["arrays"].pop("turns"), TYPES["offsets"])
            store.add("offsets", turns + np.cumsum(counts))
            turns += int(counts.sum())
            for name, values in told["arrays"].items():
                store.add(name, np.array(values, TYPES[name]))
            shards.append({"records": len(counts), "files": told["files"]})
        _put(out / BAD, "".join(json.dumps(_note(each)) + "\n" for each in bad))  # for who has to repair them, too
        _check(out, tally, bad, sum(told.lines for job in jobs for told in job.parts), quarantine)
        card = make_card(tally, settings, files, shards, bad)
        _put(out / README, write_card(card))
        _put(out / CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        facts = {
            "shards": shards,
            "records": card["dialogues"],
            "turns": turns,
            "spoken": card["spoken_replies"],
            "codecs": tally.codecs,
            "report": tally.labels.report(),
            "faults": [],
            "identity": _hashes(shards),
            "tokenizer": settings["tokenizer"],
            "version": FORMAT,
        }
        made = store.finish(facts)
        for path in sorted(made.folder.iterdir(), key=lambda path: path.name == FACTS):  # which is read first
            with written(out / INDEX / STORE / path.name) as local:
                local.write_bytes(path.read_bytes())
    for left in (out / SHARDS).iterdir():  # of workers that were killed
        if left.name.endswith(PARTIAL):
            left.unlink(missing_ok=True)
    return card


def _check(out: Any, tally: Tally, bad: Sequence[Sequence[Any]], lines: int, quarantine: Quarantine) -> None:
    quarantine.expect(lines)
    for path, line, _, code, message in bad:
        quarantine.note(f"{path}:{line}", code, f"{path}:{line}: {message}")
    quarantine.check()
    if not tally.counts["dialogues"]:
        raise ShardError(f"{out}: none of {lines} lines is a dialogue that can be used; see {BAD}")
    if len(tally.codecs) > 1:
        (one, first), (other, second) = tally.codecs[:2]
        raise ShardError(
            f"{out}: units of several codecs: {first!r} has those of {one['name']} ({one['hash']}), {second!r} of "
            f"{other['name']} ({other['hash']}); give --codec, or make them with one"
        )
    tally.labels.check(quarantine.max_share, out)


def _hashes(shards: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The data's identity: over the texts, and over the sound."""
    sound, text = (hashlib.sha256() for _ in range(2))
    for shard in shards:
        for made, file in zip((sound, text), shard["files"], strict=True):
            made.update(file["sha256"].encode())
    return {"hash": text.hexdigest()[:16], "content": text.hexdigest()[:16], "audio": sound.hexdigest()[:16]}


def _note(bad: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(("file", "line", "dialogue_id", "code", "message"), bad, strict=True))


def _put(target: Any, text: str) -> None:
    with written(target) as local:
        local.write_text(text, encoding="utf-8")
