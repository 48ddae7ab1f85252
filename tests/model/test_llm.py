"""Think + Write against transformers, float32, tiny random weights."""

import functools
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from ieat_jax.interop.families.configs import llm_config
from ieat_jax.model.attention import attend, rope
from ieat_jax.model.config import REMAT_POLICIES, ModelConfig, ModelConfigError, SpeakConfig
from ieat_jax.model.llm import Think, Write
from ieat_jax.model.names import map_named
from ieat_jax.model.sight import Sight

SIZES = dict(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
    rope_theta=1e4,
)
FAMILIES = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama3 scaling": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, use_sliding_window=False, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16, use_sliding_window=False),
}


def from_torch(reference, config, name):
    """Our parameter `name` out of a Hugging Face state dict."""
    state, llm = reference.state_dict(), config.llm
    simple = {"think.embed": "model.embed_tokens.weight", "write.norm.scale": "model.norm.weight"}
    if name in simple:
        return state[simple[name]].numpy()
    if name == "write.head":
        return state["lm_head.weight"].numpy().T
    part, _, rest = name.partition(".layers.")
    first, count = (0, config.think_layers) if part == "think" else (config.think_layers, config.write_layers)
    theirs = rest.replace("attention_norm.scale", "input_layernorm.weight").replace(".kernel", "_proj.weight")
    theirs = theirs.replace("mlp_norm.scale", "post_attention_layernorm.weight").replace("norm.scale", "norm.weight")
    theirs = theirs.replace("attention.", "self_attn.").replace(".bias", "_proj.bias")
    arrays = []
    for index in range(first, first + count):
        array = state[f"model.layers.{index}.{theirs}"].numpy()
        if theirs.endswith("proj.weight"):
            array = array.T
        if "attention.o.kernel" in rest:
            array = array.reshape(llm.num_heads, llm.head_dim, llm.width)
        elif "self_attn" in theirs and "proj" in theirs:
            array = array.reshape(*array.shape[:-1], -1, llm.head_dim)
        arrays.append(array)
    return np.stack(arrays)


@pytest.fixture(params=FAMILIES)
def pair(request, init):
    """(transformers model, our config, Think, Write, head) with the same weights."""
    torch.manual_seed(0)
    reference = transformers.AutoModelForCausalLM.from_config(FAMILIES[request.param](), attn_implementation="eager")
    reference = reference.float().eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():  # biases and norms start at constants: move them
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embed" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    config = ModelConfig(llm=llm_config(reference.config.to_dict()), speak=SpeakConfig(enabled=False, freeze_layer=0))

    def load(prefix, module):
        def take(name, leaf):
            array = from_torch(reference, config, f"{prefix}.{name}")
            assert array.shape == leaf.shape, name
            return jnp.asarray(array)

        return map_named(take, module)

    return reference, config, load("think", init(Think, config)), load("write", init(Write, config))


def test_modules_match_transformers(pair):
    reference, config, think, _ = pair
    llm, layer = config.llm, jax.tree.map(lambda x: x[0], think.layers)
    theirs = reference.model.layers[0]
    x = torch.randn(2, 40, 32)  # longer than llama3's original length, so that scaling shows
    positions = torch.arange(40)[None].expand(2, -1)
    with torch.no_grad():
        rotation = reference.model.rotary_emb(x, positions)
        mask = torch.full((40, 40), -1e30).triu(1)[None, None]
        expected = {
            "norm": theirs.input_layernorm(x),
            "mlp": theirs.mlp(x),
            "attention": theirs.self_attn(x, position_embeddings=rotation, attention_mask=mask)[0],
        }
    sight = Sight.plain(np.ones((2, 40), bool))
    ours = rope(sight.positions, llm.head_dim, llm.rope_theta, llm.rope_scaling)
    mix = functools.partial(attend, q_sight=sight, kv_sight=sight, causal=True)
    got = {
        "norm": layer.attention_norm(x.numpy()),
        "mlp": layer.mlp(x.numpy()),
        "attention": layer.attention(x.numpy(), ours, mix),
    }
    for name, value in expected.items():
        assert np.abs(value.numpy() - got[name]).max() <= 1e-5, name


def test_states_and_logits_match_transformers(pair):
    reference, config, think, write = pair
    tokens = np.random.default_rng(0).integers(0, 50, (2, 40)).astype(np.int32)
    with torch.no_grad():
        out = reference(torch.from_numpy(tokens).long(), output_hidden_states=True)
    sight = Sight.plain(np.ones((2, 40), bool))
    states = think(tokens, sight)
    assert np.abs(out.hidden_states[config.think_layers].numpy() - states).max() <= 1e-4
    last = write(states, sight)
    assert np.abs(out.hidden_states[-1].numpy() - last).max() <= 1e-4
    head = think.embed.get_value().T if config.llm.tie_embeddings else write.head.get_value()
    assert np.abs(out.logits.numpy() - last @ head).max() <= 1e-4


def test_remat_changes_memory_not_numbers(tiny, init, make_stream):
    sight = make_stream([[1] * 6])
    tokens = np.arange(6, dtype=np.int32)[None]
    results = {}
    for remat in REMAT_POLICIES:
        think = init(Think, tiny(remat=remat))
        value, grads = jax.value_and_grad(lambda think: jnp.mean(jnp.square(think(tokens, sight))))(think)
        results[remat] = [value, *jax.tree.leaves(grads)]
    for remat in REMAT_POLICIES:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), results["none"], results[remat])


def test_remat_policies_keep_less_and_less(tiny, init, make_stream):
    sight = make_stream([[1] * 6])
    tokens = np.arange(6, dtype=np.int32)[None]
    kept = {}
    for remat in ("none", "dots", "attention", "full"):
        _, backward = jax.vjp(lambda think: think(tokens, sight), init(Think, tiny(remat=remat)))
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(backward))
    assert kept["none"] > kept["dots"] > kept["attention"] > kept["full"]


def test_bfloat16_computes_in_bfloat16_with_float32_parameters(tiny, init, make_stream):
    config = tiny(dtype="bfloat16", qk_norm=True)
    think, write = init(Think, config), init(Write, config)
    sight = make_stream([[1, 1, 1, 0]])
    states = think(np.arange(4, dtype=np.int32)[None], sight)
    assert states.dtype == write(states, sight).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((think, write))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(model_type="gemma"), "model_type 'gemma' is not supported"),
        (dict(hidden_act="gelu"), "hidden_act 'gelu'"),
        (dict(rope_parameters=dict(rope_type="longrope", factor=2.0)), "RoPE scaling 'longrope'"),
        (dict(use_sliding_window=True), "use_sliding_window"),
        (dict(attention_bias=True), "attention_bias"),
    ],
)
def test_unsupported_llm_configs_are_refused(change, message):
    with pytest.raises(ModelConfigError, match=message):
        llm_config(FAMILIES["llama"]().to_dict() | change)
