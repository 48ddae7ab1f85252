"""Trees of corpora as their owners give them, made of tiny recordings, and their import through the command line."""

import json

import numpy as np
import soundfile

from ieat_jax import prepare
from ieat_jax.data.records import read_records


def sound(path, *, seconds=0.3, rate=16_000, channels=1, silent=False):
    """Write a hum, another one for every path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pitch = 100 + sum(path.as_posix().encode()) % 300
    time = np.arange(round(seconds * rate)) / rate
    wave = 0 * time if silent else 0.2 * np.sin(2 * np.pi * pitch * time)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)


def tree(folder, files):
    """Write files: None = a recording, bytes and strings as they are, everything else as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            sound(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def lines(values):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def imported(corpus, folder, out, *arguments, code=0, strange_keys=False):
    """{dialogue_id: record} of an import; the file is `out`/records.jsonl. `strange_keys`: the corpus has some."""
    path = out / "records.jsonl"
    assert prepare.main(["import", corpus, str(folder), "--out", str(path), *arguments]) == code
    if code:
        return {}
    records = {record.dialogue_id: record for record in read_records(path)}
    if not strange_keys:  # whatever an importer writes is known, or `prepare check` would complain of every import
        assert {key for record in records.values() for key in record.unread} == set()
    return records


def set_aside(out):
    """{input: code} of what an import set aside."""
    path = out / "records.quarantine.jsonl"
    notes = [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []
    return {note["id"]: note["code"] for note in notes}
