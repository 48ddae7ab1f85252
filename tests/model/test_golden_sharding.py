"""How every parameter of the shipped models lies on the mesh, against golden files.

After a change that is meant: `IEAT_WRITE_GOLDEN=1 python -m pytest tests/model/test_golden_sharding.py`, and read the
difference before committing it.
"""

import functools
import json
import math
import os
import types
from pathlib import Path

import jax
import pytest

from ieat_jax.config.recipes import load_model
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.names import named_leaves
from ieat_jax.model.sharding import MESH_AXES, make_mesh

MODELS = Path(__file__).parents[2] / "configs" / "models"
GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in MODELS.glob("*.py"))
MIB = 2**20


@functools.cache
def leaves(name):
    sizes = types.SimpleNamespace(**dict(zip(MESH_AXES, (1, 4, 2, 1), strict=True)))
    return named_leaves(abstract_model(load_model(MODELS, name), make_mesh(sizes, jax.devices())))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_lies_where_the_golden_file_says(name):
    got = {path: f"{list(leaf.shape)} {leaf.sharding.spec}" for path, leaf in leaves(name).items()}
    file = GOLDEN / f"{name}.json"
    if os.environ.get("IEAT_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(got, indent=1) + "\n")
    assert got == json.loads(file.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_no_large_parameter_is_whole_on_every_device(name):
    for path, leaf in leaves(name).items():
        if math.prod(leaf.shape) * 4 > MIB:
            assert "fsdp" in leaf.sharding.spec, path


def test_every_golden_file_has_its_model():
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == NAMES
