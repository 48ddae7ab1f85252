import json
import os
import resource
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.saved_arrays import arrays, assert_same_bits, shapes, three_steps
from jax.sharding import PartitionSpec

from ieat_jax.runs import arrays as stored
from ieat_jax.runs.checkpoints import (
    CheckpointError,
    Checkpoints,
    load_frozen,
    restore_named,
    save_frozen,
)
from ieat_jax.runs.fingerprints import fingerprints
from ieat_jax.runs.steps import read_metadata

# Orbax leaves coroutines of failed loads behind.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_round_trip_is_bit_equal_with_metadata_beside_it(tmp_path, mesh_of):
    items = arrays(mesh_of(1, 4, 1, 2))
    metadata = {"codec": {"name": "x", "rate": 50}, "examples": 12}
    with Checkpoints(tmp_path / "c", keep=2, every=10) as checkpoints:
        assert checkpoints.latest() is None
        assert [step for step in range(31) if checkpoints.due(step)] == [10, 20, 30]
        for step in (10, 20, 30):
            assert checkpoints.save(step, items, metadata | {"step": step})
        assert not checkpoints.save(30, items, {})  # it exists
        restored = checkpoints.restore(None, shapes(items))
        assert checkpoints.steps() == [20, 30]
    assert restored.step == 30
    assert restored.metadata == metadata | {"step": 30}
    assert_same_bits(restored.items, items)
    jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail("sharding"), restored.items, items)
    assert read_metadata(tmp_path / "c") == (30, metadata | {"step": 30})
    assert read_metadata(tmp_path / "c", 20)[1]["step"] == 20
    assert (tmp_path / "c/30/trainable").is_dir()
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(20, shapes(items)).step == 20
        with pytest.raises(CheckpointError, match="no checkpoint of step 5; there are 20, 30"):
            checkpoints.restore(5, shapes(items))


def test_restores_on_another_mesh(tmp_path, mesh_of):
    items = arrays(mesh_of(1, 8, 1, 1))
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, items, {})
    with Checkpoints(tmp_path / "c") as checkpoints:
        for mesh in (mesh_of(1, 2, 1, 4), mesh_of(2, 2, 1, 2), None):
            target = arrays(mesh, seed=1)
            restored = checkpoints.restore(None, shapes(target)).items
            assert_same_bits(restored, items)
            jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail("sharding"), restored, target)
        mesh = mesh_of(1, 2, 1, 4)
        with jax.set_mesh(mesh):  # shardings of `jax.eval_shape` are over an abstract mesh
            abstract = jax.eval_shape(lambda x: x, arrays(mesh)["trainable"])
            restored = checkpoints.restore(None, {"trainable": abstract}).items["trainable"]
    assert restored["think.embed"].sharding == jax.NamedSharding(mesh, PartitionSpec("tensor", "fsdp"))


def test_numbers_and_empty_arrays_survive(tmp_path):
    items = {"state": {"float": np.float32(0.1), "int": 3, "empty": jnp.zeros((0, 4)), "x": np.arange(3)}, "none": {}}
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, items, {})
        items["state"]["x"][:] = 9  # after save, host arrays may change too
        state = checkpoints.restore(1, items).items["state"]
    assert (float(state["float"]), int(state["int"]), state["empty"].shape) == (np.float32(0.1), 3, (0, 4))
    np.testing.assert_array_equal(state["x"], [0, 1, 2])
    with Checkpoints(tmp_path / "d") as checkpoints, pytest.raises(ValueError, match="names collide"):
        checkpoints.save(1, {"state": {"a.b": jnp.ones(1), "a": jnp.ones(1)}}, {})
    with Checkpoints(tmp_path / "d") as checkpoints, pytest.raises(ValueError, match="same dotted name"):
        checkpoints.save(1, {"state": {"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}}, {})


def test_fingerprints_see_every_bit_and_no_mesh(mesh_of):
    on_mesh, alone = arrays(mesh_of(1, 4, 1, 2))["trainable"], arrays()["trainable"]
    assert fingerprints(on_mesh) == fingerprints(alone)
    assert fingerprints({"x": np.arange(6.0).reshape(2, 3)}) != fingerprints({"x": np.arange(6.0).reshape(3, 2).T})
    value = np.random.default_rng(0).normal(size=40).astype(np.float32)
    flips = np.tile(value.view(np.uint32), (200, 1))
    places = np.random.default_rng(1).integers(0, 40 * 32, 200)
    flips[np.arange(200), places // 32] ^= np.uint32(1) << (places % 32).astype(np.uint32)
    marks = fingerprints({str(number): flipped.view(np.float32) for number, flipped in enumerate(flips)})
    assert fingerprints({"x": value})["x"] not in marks.values()
    booleans = fingerprints({"a": np.array([True, False]), "b": np.array([False, True])})
    assert booleans["a"] != booleans["b"]
    with jax.set_mesh(mesh_of(1, 4, 1, 2)):  # as in training
        assert fingerprints(on_mesh | {"host": value}) == fingerprints(alone | {"host": value})


def data_file(step):
    """The file with most of the array data."""
    return max((p for p in step.rglob("ocdbt.process_0/d/*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# What is done to a step, and what is said of it with its manifest and without.
CHANGED, MISSING = "was changed after it was written", "is missing"
DAMAGE = {
    "bit flip": (lambda step: flip(data_file(step)), CHANGED, "other numbers than were saved in|DATA_LOSS|Error"),
    "truncated": (lambda step: cut(data_file(step)), CHANGED, "OUT_OF_RANGE|DATA_LOSS"),
    "deleted": (lambda step: data_file(step).unlink(), MISSING, "DATA_LOSS|NOT_FOUND"),
    "item deleted": (lambda step: shutil.rmtree(step / "trainable"), MISSING, "trainable is missing"),
    "metadata cut": (lambda step: cut(step / "_CHECKPOINT_METADATA"), CHANGED, "metadata cannot be read"),
    "metadata deleted": (lambda step: (step / "_CHECKPOINT_METADATA").unlink(), MISSING, "metadata file is missing"),
    "metadata changed": (lambda step: change_metadata(step), CHANGED, "metadata was changed"),
    "Orbax's metadata cut": (lambda step: cut(step / "trainable/_METADATA"), CHANGED, "JSONDecodeError"),
    "a name changed": (
        lambda step: change(step / "trainable/_METADATA", '"key": "norm"', '"key": "nosm"'),
        CHANGED,
        "without",
    ),
    "a key changed": (lambda step: change(step / "trainable/_METADATA", "value_m", "valum_m"), CHANGED, None),
    "another shape": (lambda step: change(step / "trainable/array_metadatas/process_0", "16", "17"), CHANGED, None),
    "manifest cut": (lambda step: cut(step / "manifest.json"), "manifest.json was changed", None),
    "manifest changed": (lambda step: change(step / "manifest.json", "0", "1"), "manifest.json was changed", None),
}


def change_metadata(step):
    path = step / "_CHECKPOINT_METADATA"
    record = json.loads(path.read_text())
    record["custom_metadata"]["items"]["trainable"]["write.norm"][1] = [3]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_steps_are_set_aside_and_an_older_one_is_used(tmp_path, damage, manifest, capsys):
    apply, *reasons = DAMAGE[damage]
    reason = reasons[0 if manifest else 1]
    if reason is None:
        return  # only the manifest knows
    items = three_steps(tmp_path / "c")
    if not manifest:  # saved before there were any, or killed just before it was written
        for step in (1, 2, 3):
            (tmp_path / f"c/{step}/manifest.json").unlink()
    apply(tmp_path / "c/3")
    with Checkpoints(tmp_path / "c") as checkpoints:
        if damage == "deleted":  # a step that was asked for is not replaced by another
            with pytest.raises(CheckpointError, match=rf"no intact checkpoint \(step 3: .*({reason})"):
                checkpoints.restore(3, shapes(items[2]))
        restored = checkpoints.restore(None, shapes(items[2]))
        assert checkpoints.steps() == [1, 2]
        assert restored.step == 2
        assert_same_bits(restored.items, items[1])
        assert (tmp_path / "c/3.corrupt").is_dir()
        printed = capsys.readouterr().out
        assert "c/3 is damaged and skipped" in printed
        assert "renamed to 3.corrupt" in printed
        assert any(part in printed for part in reason.split("|"))
        if damage != "bit flip":
            return
        assert checkpoints.save(3, items[2], {})  # training goes on and saves it again
        checkpoints.wait()
        for step in (1, 2, 3):
            cut(data_file(tmp_path / f"c/{step}"))
        with pytest.raises(CheckpointError, match=r"no intact checkpoint \(step 3: .*step 2: .*step 1: "):
            checkpoints.restore(None, shapes(items[2]))
        assert (tmp_path / "c/3.corrupt2").is_dir()
        assert checkpoints.latest() is None


def test_another_configuration_is_not_damage(tmp_path):
    items = three_steps(tmp_path / "c")[2]
    wanted = shapes(items)
    wanted["trainable"]["think.embed"] = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    wanted["trainable"]["new.kernel"] = wanted["trainable"].pop("write.norm")
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(CheckpointError, match="trainable does not fit this configuration") as error:
            checkpoints.restore(None, wanted)
        assert checkpoints.latest() == 3
    for part in ("new.kernel is missing there", "write.norm is only there", "float32[64, 16] there, float32[64, 32]"):
        assert part in str(error.value)


@pytest.mark.parametrize("error", [ValueError("RESOURCE_EXHAUSTED: out of memory"), PermissionError("no access")])
def test_a_step_that_can_not_be_read_now_is_not_set_aside(tmp_path, monkeypatch, error):
    items = three_steps(tmp_path / "c")[2]

    def fail(*arguments, **options):
        raise KeyError("incompatible handler") from error  # as Orbax does

    with Checkpoints(tmp_path / "c") as checkpoints:
        monkeypatch.setattr(stored.ocp, "load_checkpointables", fail)
        with pytest.raises(CheckpointError, match=r"c/3: cannot be read now \(.*(RESOURCE_EX|no access).*try again"):
            checkpoints.restore(None, shapes(items))
        assert checkpoints.steps() == [1, 2, 3]


def test_saved_arrays_may_be_donated_at_once(tmp_path):
    x = jnp.arange(1 << 20, dtype=jnp.float32)
    expected = np.array(x)
    step = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"state": {"x": x}}, {})
        for _ in range(3):
            x = step(x)
        got = checkpoints.restore(1, {"state": {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}}).items["state"]["x"]
    np.testing.assert_array_equal(got, expected)


def test_saves_leave_no_thread_and_no_descriptor_behind(tmp_path):
    def held():
        checkpoints.wait()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    items = {"state": {"x": jnp.ones(8)}}
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        for step in range(1, 4):  # the first ones fill pools
            checkpoints.save(step, items, {})
        before = held()
        for step in range(4, 16):
            checkpoints.save(step, items, {})
        assert held() == before


def test_a_failed_background_save_is_raised_by_the_next_call(tmp_path):
    big = {"state": {"x": jnp.asarray(np.random.default_rng(0).normal(size=1 << 18))}}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fail_to_save(checkpoints, step):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # the disk takes no more than 64 KiB per file
        try:
            checkpoints.save(step, big, {})
            while checkpoints._orbax.is_saving_in_progress():
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, big, {})
    checkpoints.wait()
    fail_to_save(checkpoints, 2)
    assert checkpoints.latest() == 1
    with pytest.raises(CheckpointError, match=r"step 2 could not be saved .*the newest complete step is 1"):
        checkpoints.save(3, big, {})
    with pytest.raises(CheckpointError, match="step 4 could not be saved"):  # noqa: PT012
        fail_to_save(checkpoints, 4)
        checkpoints.close()
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(None, big).step == 1
        assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1"]  # nothing half-written is left


def test_frozen_parameters_are_saved_once_and_verified(tmp_path, mesh_of):
    frozen = arrays()["trainable"]
    save_frozen(tmp_path / "frozen", frozen)
    save_frozen(tmp_path / "frozen", frozen)  # resuming
    with pytest.raises(CheckpointError, match=r"other frozen parameters than this run's \(think.embed"):
        save_frozen(tmp_path / "frozen", arrays(seed=1)["trainable"])
    target = arrays(mesh_of(1, 2, 1, 4))["trainable"]
    got = load_frozen(tmp_path / "frozen", shapes(target))
    assert_same_bits(got, frozen)
    assert got["think.embed"].sharding == target["think.embed"].sharding
    flip(data_file(tmp_path / "frozen"))
    with pytest.raises(CheckpointError, match="frozen parameters are damaged"):
        load_frozen(tmp_path / "frozen", shapes(frozen))
    with pytest.raises(CheckpointError, match="frozen parameters are missing"):
        load_frozen(tmp_path / "nowhere", shapes(frozen))
    save_frozen(tmp_path / "none", {})
    assert load_frozen(tmp_path / "none", {}) == {}


def test_hand_over_by_name(tmp_path, mesh_of, capsys):
    parameters = arrays(mesh_of(1, 8, 1, 1))["trainable"]
    frozen = {"think.embed": parameters.pop("think.embed")}
    save_frozen(tmp_path / "frozen", frozen)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"trainable": parameters}, {"step": step})
    mesh = mesh_of(1, 2, 1, 4)
    here = jax.NamedSharding(mesh, PartitionSpec("tensor", "fsdp"))
    wanted = {
        "think.embed": jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=here),
        "think.layers.up.kernel": jax.ShapeDtypeStruct((2, 16, 64), jnp.float32),  # stored as bfloat16
        "speak.heads": jax.ShapeDtypeStruct((4, 4), jnp.float32),
    }
    found = restore_named(tmp_path, wanted)
    assert (found.step, found.missing, found.left_over) == (2, ("speak.heads",), ("write.norm",))
    assert found.metadata == {"step": 2}
    assert found.loaded.keys() == {"think.embed", "think.layers.up.kernel"}
    np.testing.assert_array_equal(found.loaded["think.embed"], frozen["think.embed"])
    assert found.loaded["think.embed"].sharding == here
    assert found.loaded["think.layers.up.kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(
        found.loaded["think.layers.up.kernel"], parameters["think.layers.up.kernel"].astype(jnp.float32)
    )
    assert restore_named(tmp_path, wanted, step=1).step == 1
    with pytest.raises(CheckpointError, match=r"think.embed: \[64, 16\] there, \[64, 8\] here"):
        restore_named(tmp_path, wanted | {"think.embed": jax.ShapeDtypeStruct((64, 8), jnp.float32)})
    for file in (tmp_path / "checkpoints/2").rglob("d/*"):
        cut(file)
    capsys.readouterr()
    assert restore_named(tmp_path, wanted).step == 1
    assert "checkpoints/2 is damaged and skipped" in capsys.readouterr().out
    assert (tmp_path / "checkpoints/2").is_dir()  # another's run is only read
    with pytest.raises(CheckpointError, match=r"nowhere/checkpoints: there is no checkpoint of a step"):
        restore_named(tmp_path / "nowhere", wanted)


def test_impossible_settings_name_their_field(tmp_path):
    for change in ({"keep": 0}, {"every": 0}, {"keep_every": -1}):
        with pytest.raises(CheckpointError, match=rf"config.checkpoint.{next(iter(change))}: must be at least"):
            Checkpoints(tmp_path, **change)
