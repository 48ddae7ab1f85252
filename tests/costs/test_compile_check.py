"""The compile check end to end, with the real TPU compiler, on a model small enough to compile in seconds."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ieat_jax.compile_check import ENVIRONMENT
from ieat_jax.costs.hardware import CHIPS, TopologyError
from ieat_jax.costs.topology import usable_memory

ROOT = Path(__file__).parents[2]
SMALL = (
    "--config.model.dtype=bfloat16",
    "--config.model.attention=xla",
    "--config.model.remat=full",
    "--config.data.shapes.tokens=256",
    "--config.data.shapes.targets=256",
    "--config.objective.chunk=64",
)


def compile_check(*arguments, config="configs/demo.py:write"):
    command = [sys.executable, "-m", "ieat_jax.compile_check", "--config", config, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_step_that_fits(tmp_path):
    done = compile_check("--topology", "v5e:2x4", "--rows-per-device", "2", "--json", *SMALL)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^v\w+:\w+: compiling the step$", done.stderr, re.MULTILINE)  # not silent, nor on stdout
    (found,) = json.loads(done.stdout)
    assert found["fits"]
    assert (found["rows"], found["mesh"]["fsdp"]) == (2, 8)
    sizes = found["bytes"]
    assert sizes["parameters"] < sizes["optimizer"] + sizes["parameters"] < sizes["peak"] < sizes["hbm"] == 16 * 2**30
    # 2.5 M parameters train; a forward and two backward products a token and parameter, and the forward once more.
    products = 2 * 512 * 192 * (1536 + 6 * (192 * (4 + 4) * 48 / 192 + 48 * 4 + 3 * 512))
    assert 3 * products < found["model_flops"] < 3.6 * products
    assert 0.6 < found["useful_share"] < 0.85
    gathers = found["collective_bytes"]["all-gather fsdp"]
    parameters = 2 * 192 * (1536 + 6 * (3 * 512 + 2 * 4 * 48 + 2 * 2 * 48))  # bfloat16
    assert parameters < gathers < 2.5 * parameters  # layers twice, the head once
    kinds = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all")
    assert set(found["collective_bytes"]) <= {f"{kind} fsdp" for kind in kinds}
    assert 0 < found["mfu_bound"] < 1


@pytest.fixture(scope="module")
def two_slices():
    """A step whose replicas lie on two slices: what compile_check found."""
    return found_on_two_slices()


def found_on_two_slices(*more):
    mesh = ("--config.mesh.replica=2", "--config.mesh.fsdp=-1")
    flags = ("--topology", "v5e:2x2", "--slices", "2", "--rows-per-device", "1", "--json", *SMALL, *mesh, *more)
    done = compile_check(*flags)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)[0]


def test_compiler_options_reach_the_compiler(two_slices):
    found = found_on_two_slices("--config.train.compiler_options=('xla_tpu_scoped_vmem_limit_kib=98304',)")
    assert found["bytes"]["peak"] != two_slices["bytes"]["peak"]


def test_replicas_lie_on_several_slices(two_slices):
    assert (two_slices["mesh"]["replica"], two_slices["mesh"]["fsdp"]) == (2, 4)
    # Parameters are gathered within a slice; gradients are added up between slices.
    sizes = two_slices["collective_bytes"]
    assert "all-gather fsdp" in sizes
    assert not any("all-gather" in name for name in sizes if "between slices" in name)
    assert any("between slices" in name for name in sizes)


MESHES = """
import types
from ieat_jax.costs.topology import describe_topology
from ieat_jax.model.sharding import MESH_AXES, make_mesh

for topology, sizes in (("v6e:16x16", (4, 64, 1, 1)), ("v6e:16x16", (1, 32, 8, 1)), ("v5p:4x4x4", (2, 8, 2, 2))):
    mesh = make_mesh(types.SimpleNamespace(**dict(zip(MESH_AXES, sizes))), describe_topology(topology).devices)
    print(topology, tuple(mesh.shape.values()) == sizes, len({device.id for device in mesh.devices.flat}))
"""


def test_axes_of_the_mesh_may_share_an_axis_of_the_torus():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | ENVIRONMENT
    done = subprocess.run([sys.executable, "-c", MESHES], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["v6e:16x16", "True", "256", "v6e:16x16", "True", "256", "v5p:4x4x4", "True", "64"]


def test_hosts_of_gpus_need_the_gpus_compiler():
    """It is gigabytes, and not among what the tests install: where it is, the step compiles."""
    done = compile_check("--topology", "h100:8", "--rows-per-device", "1", "--json", *SMALL)
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        assert done.returncode == 2
        assert "the GPU compiler is missing" in done.stderr
        assert "pip install 'ieat_jax[gpu]'" in done.stderr
        return
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = json.loads(done.stdout)
    assert found["bytes"]["optimizer"] < found["bytes"]["peak"] < found["bytes"]["hbm"]
    assert 0.6 < found["useful_share"] <= 1
    assert "all-gather fsdp" in found["collective_bytes"]


def test_jax_takes_a_share_of_a_gpus_memory(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert usable_memory(CHIPS["h100"]) == 0.75 * CHIPS["h100"].hbm
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert usable_memory(CHIPS["h100"]) == 0.9 * CHIPS["h100"].hbm
    assert usable_memory(CHIPS["v5e"]) == CHIPS["v5e"].hbm
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "most")
    with pytest.raises(TopologyError, match="XLA_PYTHON_CLIENT_MEM_FRACTION=most: must be a number"):
        usable_memory(CHIPS["h100"])


def test_a_step_that_does_not_fit_says_which_knob_to_turn():
    large = ("--config.data.shapes.tokens=8192", "--config.data.batch_size=512", "--config.train.accumulate=2")
    done = compile_check("--topology", "v5e:2x2", *SMALL[:3], *large, "--config.model.remat=none")
    assert done.returncode == 1, done.stderr[-2000:]
    assert "does not fit" in done.stdout
    assert "try: each device takes 64 rows at a time: raise config.train.accumulate (now 2)" in done.stdout
    assert "config.model.remat='dots' (now 'none')" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--topology", "v9:4x4"), "write CHIP:SHAPE with CHIP one of v5e, v5p, v6e, tpu7x, h100, h200"),
        (("--topology", "h100:4x4"), "of GPUs, SHAPE is how many of one host's 8, such as h100:8"),
        (("--topology", "v5e"), "--topology=v5e: write CHIP:SHAPE"),
        (
            ("--topology", "v5e:2x4", "--config.train.compiler_options=('xla_foo=1',)"),
            "config.train.compiler_options: INVALID_ARGUMENT: No such compile option: 'xla_foo'",
        ),
        (("--topology", "v5e:2x4", "--config.mesh.tensor=3"), "config.mesh.tensor=3 does not fit 8 devices"),
        (
            ("--topology", "v5e:2x4", "--config.data.batch_size=12"),
            "config.data.batch_size = 12 does not divide by config.mesh.replica x config.mesh.fsdp",
        ),
        (
            ("--topology", "v5e:2x2", "--slices", "2"),
            "config.mesh.replica=1 must be a multiple of the 2 slices",
        ),
        (("--topology", "v5e:2x4", "--rows-per-device", "0"), "--rows-per-device=0: must be at least 1"),
        (
            ("--topology", "v5e:2x4", "--config.mesh.fsdp=1", "--config.mesh.tensor=8"),
            "(config.model.llm.num_heads) does not divide over config.mesh.tensor=8",
        ),
    ],
)
def test_what_can_not_be_checked_is_named(arguments, text):
    done = compile_check(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
