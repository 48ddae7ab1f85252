"""Arrays in a folder: what was written or nothing, whatever was damaged, and however many write at a time."""

import os
import pickle
import time
import warnings

import numpy as np
import pytest
from helpers.damage import amount, damages, outcome

from ieat_jax.data.sources import store as module
from ieat_jax.data.sources.store import (
    ArrayStore,
    DamagedError,
    DataError,
    StoreWriter,
    open_or_make,
    read_facts,
    write_facts,
)

ARRAYS = {
    "whole": np.arange(50, dtype=np.int64),
    "pairs": np.arange(60, dtype=np.int32).reshape(15, 2, 2),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float32),
}


def written(parent, name="store", facts=None, arrays=ARRAYS):
    with StoreWriter(parent, name) as writer:
        for key, values in arrays.items():
            for part in np.array_split(values, 3):
                writer.add(key, part)
        return writer.finish(facts or {"words": "müde"})


def content(store):
    return [(name, store[name].tolist(), str(store[name].dtype)) for name in ARRAYS], store.facts


def test_what_is_written_in_parts_is_read_as_a_whole_and_without_memory(tmp_path):
    written(tmp_path)
    store = ArrayStore(tmp_path / "store")
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(store[name], values)
        assert store[name].dtype == values.dtype
        np.testing.assert_array_equal(np.load(tmp_path / "store" / f"{name}.npy"), values)
    assert isinstance(store["whole"].base, np.memmap)
    assert store.facts["words"] == "müde"
    assert "whole" in store
    assert "other" not in store
    with pytest.raises(FileNotFoundError):
        ArrayStore(tmp_path / "absent")


@pytest.mark.parametrize("name", ["facts.json", *(f"{name}.npy" for name in ARRAYS)])
def test_no_damage_is_trusted(name, tmp_path):
    whole = content(written(tmp_path))
    file = tmp_path / "store" / name
    held = file.read_bytes()
    cuts = [(f"cut at {at}", held[:at]) for at in range(0, len(held), 7)]
    noticed = 0
    for what, damaged in [*damages(held, *amount(40, 40)), *cuts, ("longer", held + b"x")]:
        file.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy, on a header
            try:
                found = content(ArrayStore(tmp_path / "store"))
            except DamagedError:
                noticed += 1
                continue
        assert found == whole, what  # a blank of the JSON, or the padding of a header
    assert noticed > 60
    for gone in (file.unlink, file.mkdir, file.rmdir, lambda: os.mkfifo(file)):
        gone()
        with pytest.raises(DamagedError):
            outcome(lambda: ArrayStore(tmp_path / "store"))  # in time


def test_a_damaged_store_is_made_again_and_an_intact_one_is_not(tmp_path, capsys):
    made = []

    def make(writer):
        made.append(1)
        writer.add("whole", ARRAYS["whole"])
        return {"words": "now"}

    for _ in range(2):
        assert open_or_make(tmp_path / "in", "store", make).facts["words"] == "now"
    assert len(made) == 1
    file = tmp_path / "in/store/whole.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    store = open_or_make(tmp_path / "in", "store", make)
    np.testing.assert_array_equal(store["whole"], ARRAYS["whole"])
    assert len(made) == 2
    assert capsys.readouterr().err == f"{tmp_path}/in/store: whole.npy has another content; it is made again\n"
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["store"]


def test_it_is_small_when_it_travels_and_is_the_one_that_was_meant(tmp_path):
    sent = pickle.dumps(written(tmp_path, arrays=ARRAYS | {"whole": np.arange(100_000)}))
    assert len(sent) < 1000
    assert len(pickle.loads(sent)["whole"]) == 100_000
    with StoreWriter(tmp_path, "store") as writer:
        writer.finish({"words": "other"}, replace=True)
    with pytest.raises(DataError, match=r"store: was made anew, of other data, while the run goes on; start the run"):
        pickle.loads(sent)
    module.discard(tmp_path / "store")
    with pytest.raises(DataError, match="start the run again"):
        pickle.loads(sent)


def test_the_first_of_several_writers_gives_its_own_to_all(tmp_path):
    with StoreWriter(tmp_path, "store") as one, StoreWriter(tmp_path, "store") as two:
        for writer in (one, two):
            writer.add("whole", ARRAYS["whole"])
        one.finish({"words": "first"})
        assert two.finish({"words": "second"}).facts["words"] == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_fails_leaves_nothing_behind_and_what_was_killed_is_removed_later(tmp_path, monkeypatch):
    with StoreWriter(tmp_path, "store") as writer:  # which is not finished
        writer.add("whole", ARRAYS["whole"])
    assert list(tmp_path.iterdir()) == []
    for age, name in ((10, ".store-young"), (100_000, ".store-old")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    written(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".store-young", "store"}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_facts", full)
    with pytest.raises(DataError, match=r"other: cannot be written \(No space left on device\)"):
        written(tmp_path, "other")
    assert not (tmp_path / "other").exists()


def test_where_nothing_can_be_written_a_temporary_place_is_used_and_said_once(tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")

    def make(writer):
        writer.add("whole", ARRAYS["whole"])
        return {}

    for _ in range(2):
        store = open_or_make(tmp_path / "taken", "store", make)
        np.testing.assert_array_equal(store["whole"], ARRAYS["whole"])
    assert not store.folder.is_relative_to(tmp_path)
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path}/taken: cannot be written (")
    assert said.count("\n") == 1
    assert str(store.folder.parent) in said


def test_facts_know_their_own_damage(tmp_path):
    write_facts(tmp_path / "a.json", {"size": 3})
    assert read_facts(tmp_path / "a.json")[0] == {"size": 3}
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace("3", "4", 1))
    with pytest.raises(DamagedError):
        read_facts(tmp_path / "a.json")
