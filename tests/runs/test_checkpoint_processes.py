"""Checkpoints of two real processes, of which only one meets the damage."""

import os
import socket
import subprocess
import sys
import textwrap

from helpers.xla_flags import FAST_COMPILATION, devices

PROGRAM = """
    import os, sys, types
    port, process, folder, flags = sys.argv[1:]
    os.environ |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    import jax, numpy as np
    from pathlib import Path
    jax.distributed.initialize("127.0.0.1:" + port, num_processes=2, process_id=int(process),
                               heartbeat_timeout_seconds=30, shutdown_timeout_seconds=10)
    from ieat_jax.model.sharding import make_mesh
    from ieat_jax.runs.checkpoints import Checkpoints, load_frozen, restore_named, save_frozen
    from ieat_jax.training.metrics import MetricWriter

    mesh = make_mesh(types.SimpleNamespace(replica=1, fsdp=4, context=1, tensor=1))
    value = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    place = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", None))
    x = jax.make_array_from_callback(value.shape, place, lambda index: value[index])
    abstract = {"a.kernel": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)}

    def same(array):
        return all((np.asarray(s.data) == value[s.index]).all() for s in array.addressable_shards)

    with jax.set_mesh(mesh), Checkpoints(folder + "/checkpoints") as checkpoints:
        save_frozen(folder + "/frozen", {"f.kernel": x})
        save_frozen(folder + "/frozen", {"f.kernel": x})
        for step in (1, 2):
            checkpoints.save(step, {"trainable": {"a.kernel": x}, "count": np.int32(step)}, {"step": step})
        checkpoints.wait()
        if process == "0":
            for file in Path(folder, "checkpoints/2").rglob("ocdbt.process_1/d/*"):
                os.truncate(file, 100)
        found = restore_named(folder, {**abstract, "f.kernel": abstract["a.kernel"]})
        assert (found.step, found.missing, found.left_over) == (1, (), ())
        assert same(found.loaded["a.kernel"]) and same(found.loaded["f.kernel"])
        restored = checkpoints.restore(None, {"trainable": abstract})
        assert same(restored.items["trainable"]["a.kernel"])
        assert Path(folder, "checkpoints/2.corrupt").is_dir()
        with MetricWriter(folder, total_steps=2) as writer:
            writer.write(1, {"x": jax.device_put(1.0, jax.NamedSharding(mesh, jax.sharding.PartitionSpec()))})
        print("restored", restored.step, checkpoints.steps(), flush=True)
"""


def test_all_processes_fall_back_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), port]
    processes = [
        subprocess.Popen(
            [*command, str(number), str(tmp_path), f"{devices(2)} {FAST_COMPILATION}"],
            env=dict(os.environ),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
        assert "restored 1 [1]" in output
    assert "checkpoints/2 is damaged and skipped" in outputs[0]
    assert "is damaged" not in outputs[1]  # process 0 speaks for all
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
