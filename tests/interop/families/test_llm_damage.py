"""Folders of LLMs that are damaged or say what cannot be: a sentence each."""

import json
import shutil

import numpy as np
import pytest
from helpers.llm_folders import LLAMA3_OLD, YARN, model_config

from ieat_jax.errors import UserError
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.text.tokenizer import train_tokenizer

SIZE_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
CONFIG_KEYS = (
    "model_type", *SIZE_KEYS, "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings",
    "rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings", "hidden_act", "attention_bias",
    "mlp_bias", "use_sliding_window", "layer_types", "partial_rotary_factor", "sliding_window",
)  # fmt: skip
ABSENT = object()
VALUES = (
    ABSENT,
    None,
    "32",
    "",
    0,
    -1,
    1.5,
    True,
    [],
    {},
    ["full_attention"],
    float("nan"),
    float("inf"),
    1e400,
    2**70,
)


@pytest.mark.parametrize("key", CONFIG_KEYS)
@pytest.mark.parametrize("family", ["llama untied", "qwen2", "qwen3", "mistral", "olmo2 untied"])
def test_a_key_that_is_absent_null_or_of_a_wrong_type_is_a_sentence(folder, family, key, tmp_path):
    whole = json.loads((folder(family) / "config.json").read_text())
    refused = 0
    for value in VALUES:
        written = {name: each for name, each in whole.items() if name != key} | (
            {} if value is ABSENT else {key: value}
        )
        (tmp_path / "config.json").write_text(json.dumps(written))
        shutil.copy(folder(family) / "model.safetensors", tmp_path)
        said = refusal(lambda: load_llm(str(tmp_path)))
        assert str(tmp_path / "config.json") in (said or str(tmp_path / "config.json"))
        assert said is None or value is not ABSENT or key in said
        refused += said is not None
    required = key in (*SIZE_KEYS, "model_type")
    ignored = key == "max_position_embeddings" or (key == "sliding_window" and family != "mistral")
    least = 0 if ignored else len(VALUES) - (1 if required else 4)  # not read without scaling
    assert refused >= least


def refusal(use):
    """The sentence in which something is refused, None if it is not; any other error is the test's."""
    try:
        use()
    except UserError as error:
        return str(error)


LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "rope_type", "rope_theta", "rope_scaling")
YARN_KEYS = (
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "truncate",
)


@pytest.mark.parametrize(
    ("block", "key"), [(LLAMA3_OLD, key) for key in LLAMA3_KEYS] + [(YARN, key) for key in YARN_KEYS]
)
def test_a_key_of_rope_that_is_absent_or_wrong_is_a_sentence(folder, block, key, tmp_path):
    whole = json.loads((folder("llama untied") / "config.json").read_text())
    shutil.copy(folder("llama untied") / "model.safetensors", tmp_path)
    for value in (ABSENT, *VALUES[1:]):
        rope = {name: each for name, each in block.items() if name != key} | ({} if value is ABSENT else {key: value})
        (tmp_path / "config.json").write_text(json.dumps(whole | {"rope_scaling": rope}))
        assert "config.json" in (refusal(lambda: load_llm(str(tmp_path))) or "config.json")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "model.safetensors.index.json"])
def test_a_flipped_bit_in_a_folder_is_no_traceback(folder, file, tmp_path):
    sharded = file.endswith("index.json")
    source = folder("qwen3", max_shard_size="30KB") if sharded else folder("qwen3")
    for path in source.iterdir():
        shutil.copy(path, tmp_path)
    train_tokenizer(["some words of a text"] * 5, 290).save(tmp_path)
    whole = (tmp_path / file).read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little") if file == "model.safetensors" else len(whole)
    rng = np.random.default_rng(0)
    for _ in range(80):
        damaged = bytearray(whole)
        damaged[rng.integers(end)] ^= 1 << rng.integers(8)
        (tmp_path / file).write_bytes(damaged)

        def use():
            llm = load_llm(str(tmp_path))
            dict(llm.weights(model_config(llm.config)))
            llm.tokenizer().renamed({"<think>": "<thought>"}).encode("some <think> words")

        assert str(tmp_path) in (refusal(use) or str(tmp_path))


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{}", b'{"a": "\xe9"}', b"[]", b"null", b"3", b'"x"', b"", b"{" * 100_000]
)
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_other_content_is_a_sentence(folder, file, content, tmp_path):
    for path in folder("qwen3", max_shard_size="30KB").iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=file):
        load_llm(str(tmp_path)).tokenizer()


@pytest.mark.parametrize(
    "where", [None, [], {}, {"a": None}, {"a": 3}, {"a": ["x"]}, {"a": ""}, {"a": "."}, {"a": "/x"}, {"a": "a\0b"}]
)
def test_a_shard_index_of_a_wrong_shape_is_a_sentence(folder, where, tmp_path):
    shutil.copy(folder("qwen3") / "config.json", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(InteropError, match=str(tmp_path)):
        load_llm(str(tmp_path))
