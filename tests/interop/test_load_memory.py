"""Loading holds a block of a tensor on the host, not a parameter; the large one is tests/benchmarks/load_memory.py."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from benchmarks.load_memory import TINY, write

from ieat_jax.interop.containers import source
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.config import ModelConfig, SpeakConfig
from ieat_jax.model.landing import land
from ieat_jax.model.names import named_leaves

SIZES = dataclasses.replace(TINY, vocab_size=8192, width=128, mlp_width=1024, num_layers=12)
BLOCK = 1 << 16  # numbers, in place of the millions of real models


@pytest.mark.parametrize("tied", [False, True])
def test_the_host_holds_less_than_a_shard(tmp_path, monkeypatch, tied):
    monkeypatch.setattr(source, "BLOCK", BLOCK)
    monkeypatch.setattr(source, "STEP", BLOCK)
    sizes = dataclasses.replace(SIZES, tie_embeddings=tied)
    largest = write(tmp_path, sizes, 3e6)
    assert len(list(tmp_path.glob("*.safetensors"))) >= 4
    config = ModelConfig(llm=sizes, speak=SpeakConfig(enabled=False, freeze_layer=0))
    wanted = named_leaves(abstract_model(config, None))
    stacked = max(leaf.size for leaf in wanted.values()) * 4
    assert stacked > largest  # what putting a parameter together would take
    llm = load_llm(str(tmp_path))
    landed = dict(land(llm.pieces(config), wanted, at_once=BLOCK))  # programs are compiled here
    tracemalloc.start()
    again = dict(land(llm.pieces(config), wanted, at_once=BLOCK))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < largest
    for name, array in llm.weights(config):
        np.testing.assert_array_equal(np.asarray(landed[name]), array, err_msg=name)
        np.testing.assert_array_equal(np.asarray(again[name]), array, err_msg=name)
