import subprocess
import sys
from pathlib import Path

import pytest

from ieat_jax.costs.hardware import CHIPS, MACHINES, SLICES, TopologyError, chip_of, main, slice_of

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_slices():
    """Chips of a name, of its topology and of its hosts agree."""
    command = [sys.executable, "-S", "-m", "ieat_jax.costs.hardware", "slices"]  # -S: no packages
    table = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in table.splitlines()]
    assert len(rows) == len({row[0] for row in rows}) == 28
    for name, kind, software, gke, topology, hosts, chips in rows:
        family, number = name.split("-")
        count = int(hosts) * int(chips)
        assert count == int(number) // (2 if family == "v5p" else 1)
        assert eval(topology.replace("x", "*")) == count
        assert topology.count("x") == (2 if family == "v5p" else 1)
        expected = {
            "v5e": (f"v5litepod-{number}", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
            "v5p": (name, "v2-alpha-tpuv5", "tpu-v5p-slice"),
            "v6e": (name, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
        }[family]
        assert (kind, software, gke) == expected


def test_a_slices_line(capsys):
    assert main(["slice", "v5p-12288"]) == 0
    assert capsys.readouterr().out == "v5p-12288 v5p-12288 v2-alpha-tpuv5 tpu-v5p-slice 16x16x24 1536 4\n"
    assert main(["slice", "v5e-8"]) == 0
    assert capsys.readouterr().out == "v5e-8 v5litepod-8 v2-alpha-tpuv5-lite tpu-v5-lite-podslice 2x4 1 8\n"
    with pytest.raises(TopologyError, match=r"--accelerator v5e-255 is not known; one of: v5e-1 v5e-4 .* v6e-256$"):
        slice_of("v5e-255")


def test_chips_slices_and_machines_agree():
    for name, each in SLICES.items():
        assert chip_of(f"{each.chip}:{each.topology}") is CHIPS[each.chip]
        assert name == each.name
    assert MACHINES == {"v5e-256": 256, "v5p-128": 64, "v6e-256": 256, "8xH100": 8}
