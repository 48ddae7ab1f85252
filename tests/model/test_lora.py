import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ieat_jax.model.config import LoraConfig, ModelConfigError
from ieat_jax.model.llm import Think
from ieat_jax.model.lora import add_lora, merge_lora, strip_lora
from ieat_jax.model.names import map_named, named_leaves

TOKENS = np.arange(6, dtype=np.int32)[None]


@pytest.fixture
def think(tiny, init):
    return init(Think, tiny(qkv_bias=True))


@pytest.fixture
def sight(make_stream):
    return make_stream([[1] * 6])


def shaken(model):
    """LoRA's b away from zero."""
    return map_named(lambda name, x: x + 0.1 if name.endswith("lora_b") else x, model)


def test_new_lora_changes_nothing_and_trains(think, sight):
    lora = add_lora(think, LoraConfig(rank=2, pattern=".*"), jax.random.key(1))
    np.testing.assert_array_equal(lora(TOKENS, sight), think(TOKENS, sight))
    grads = named_leaves(jax.grad(lambda model: jnp.sum(jnp.square(model(TOKENS, sight))))(lora))
    assert all(np.abs(grad).max() > 0 for name, grad in grads.items() if name.endswith("lora_b"))


def test_merged_equals_unmerged_and_stripped_equals_the_base(think, sight):
    lora = shaken(add_lora(think, LoraConfig(rank=2, alpha=4.0, pattern=".*"), jax.random.key(1)))
    out = lora(TOKENS, sight)
    assert np.abs(out - think(TOKENS, sight)).max() > 1e-2
    merged = merge_lora(lora)
    np.testing.assert_allclose(merged(TOKENS, sight), out, atol=1e-5)
    assert named_leaves(merged).keys() == named_leaves(think).keys()
    stripped = jax.jit(lambda model: strip_lora(model)(TOKENS, sight))(lora)
    np.testing.assert_allclose(stripped, think(TOKENS, sight), atol=1e-6)
    assert "layers.attention.q.lora_a" in named_leaves(lora)  # strip and merge leave their argument as it was


def test_alpha_over_rank_scales_and_pattern_selects(think, sight):
    def added(**config):
        return shaken(add_lora(think, LoraConfig(pattern=r"layers\.attention\.q", **config), jax.random.key(1)))

    lora = added(rank=2, alpha=2.0)
    names = {name for name in named_leaves(lora) if "lora" in name}
    assert names == {"layers.attention.q.lora_a", "layers.attention.q.lora_b"}
    base = think.layers.attention.q.kernel.get_value()
    change = [
        merge_lora(model).layers.attention.q.kernel.get_value() - base for model in (lora, added(rank=2, alpha=6.0))
    ]
    np.testing.assert_allclose(change[1], 3 * change[0], rtol=1e-3, atol=1e-6)


def test_shapes_beside_the_kernel(think):
    lora = named_leaves(add_lora(think, LoraConfig(rank=3, pattern=".*"), jax.random.key(1)))
    assert lora["layers.attention.o.lora_a"].shape == (2, 4, 8, 3)
    assert lora["layers.attention.o.lora_b"].shape == (2, 3, 16)
    assert lora["layers.mlp.up.lora_b"].shape == (2, 3, 32)


def test_a_pattern_that_matches_nothing_is_an_error(think):
    with pytest.raises(
        ModelConfigError, match=r"config.model.lora.pattern: 'nothing' matches no linear layer.*attention"
    ):
        add_lora(think, LoraConfig(rank=2, pattern="nothing"), jax.random.key(1))
