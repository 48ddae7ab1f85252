"""GGUF files: tiny ones that llama.cpp's own package writes, and the real SmolLM2."""

import functools
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gguf
import numpy as np
import pytest
import torch
import transformers

from ieat_jax.errors import UserError
from ieat_jax.interop.containers.gguf import huggingface_name, open_gguf
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.model.config import ModelConfig, SpeakConfig
from ieat_jax.text.tokenizer import train_tokenizer

SIZES = dict(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
)
MODELS = {
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, rope_theta=1e5, tie_word_embeddings=True)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)
    ),
}
TEXTS = ["I am happy, don't you see? In 2024 it's 12:30.", "今天我很难过。", "🎉 two  spaces\n\nlines\t", "<think>"]


@functools.cache
def state(family):
    torch.manual_seed(0)
    model = MODELS[family]()
    tensors = {name: (torch.randn_like(value) * 0.1).numpy() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return tensors


def stored_name(name):
    """What llama.cpp calls it."""
    (found,) = (candidate for candidate in candidates() if huggingface_name(candidate) == name)
    return found


@functools.cache
def candidates():
    stems = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm"]
    stems += ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
    blocks = [f"blk.{layer}.{stem}.{kind}" for layer in (0, 1) for stem in stems for kind in ("weight", "bias")]
    return ["token_embd.weight", "output_norm.weight", "output.weight", *blocks]


def permuted(rows, heads):
    """llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write(path, family, kind=gguf.GGMLQuantizationType.F32, **fields):
    """A file of `state(family)`; `fields` are added to, or with None left out of, its metadata."""
    writer = gguf.GGUFWriter(path, family)
    tokenizer = train_tokenizer(TEXTS, 300)
    numbers = {
        "block_count": 2,
        "context_length": 256,
        "embedding_length": 32,
        "feed_forward_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    } | ({"attention.key_length": 16} if family == "qwen3" else {})
    for name, value in numbers.items():
        writer.add_uint32(f"{family}.{name}", value)
    writer.add_float32(f"{family}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{family}.rope.freq_base", 1e5 if family == "llama" else 1e4)
    words = {"llama": "smollm", "qwen2": "qwen2", "qwen3": "qwen2"}[family]
    fields = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": words} | fields
    for name, value in fields.items():
        writer.add_string(name, value)
    vocab = tokenizer._backend.get_vocab()
    tokens = [*sorted(vocab, key=vocab.get), *(f"[pad{n}]" for n in range(len(vocab), 300))]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 6 + [1] * 294)
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer._backend.to_str())["model"]["merges"]])
    for name, value in state(family).items():
        heads = {"q_proj.weight": 4, "k_proj.weight": 2}.get(name.split("self_attn.")[-1])
        value = permuted(value, heads) if family == "llama" and heads else value
        if value.ndim == 2 and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(stored_name(name), gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored_name(name), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("family", MODELS)
def test_config_and_tensors_are_those_of_the_hugging_face_model(family, tmp_path):
    file = open_gguf(write(tmp_path / "m.gguf", family))
    theirs = MODELS[family]().config.to_dict()
    for name, value in file.config.items():
        if name == "rope_theta":
            assert value == theirs["rope_parameters"]["rope_theta"]
        elif name != "head_dim" or family != "qwen2":  # transformers' Qwen2 has no such field
            assert value == theirs[name], name
    assert sorted(file.names()) == sorted(state(family))
    for name, value in state(family).items():
        assert file.shape(name) == value.shape
        np.testing.assert_array_equal(file.get(name), value, err_msg=name)
    llm = load_llm(f"gguf:{tmp_path / 'm.gguf'}")
    config = ModelConfig(llm=llm.config, speak=SpeakConfig(enabled=False, freeze_layer=0))
    assert ("write.head" in dict(llm.weights(config))) == (family == "qwen2")


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_quantised_tensors_come_back_within_their_step(kind, tmp_path):
    file = open_gguf(write(tmp_path / "m.gguf", "llama", gguf.GGMLQuantizationType[kind]))
    step = {"F16": 2e-4, "BF16": 2e-3, "Q8_0": 4e-3, "Q5_1": 0.03, "Q4_1": 0.06, "Q4_0": 0.09}[kind]
    for name, value in state("llama").items():
        read = file.get(name)
        assert read.dtype == np.float32
        assert np.abs(read - value).max() <= step, name


@pytest.mark.parametrize("family", MODELS)
def test_tokenizer_gives_the_texts_back(family, tmp_path):
    tokenizer = open_gguf(write(tmp_path / "m.gguf", family)).tokenizer()
    assert tokenizer.vocab_size == 300
    assert [tokenizer.token_id(token) for token in ("<|endoftext|>", "<|im_end|>", "<think>")] == [0, 2, 3]
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert min(ids) > 5


def test_what_can_not_be_read_is_named(tmp_path):
    path = tmp_path / "m.gguf"
    with pytest.raises(InteropError, match="no such file"):
        open_gguf(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(InteropError, match="not a GGUF file"):
        open_gguf(path)
    whole = write(path, "llama").read_bytes()
    for kept in (4, 20, 2000, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:kept])
        with pytest.raises(InteropError, match="cut off or damaged"):
            open_gguf(path)
    with pytest.raises(InteropError, match=r"tokenizer \(llama, default\) cannot be rebuilt; .*config.tokenizer.path"):
        open_gguf(
            write(path, "llama", **{"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"})
        ).tokenizer()
    with pytest.raises(InteropError, match="scaled RoPE"):
        open_gguf(write(path, "llama", **{"llama.rope.scaling.type": "yarn"}))
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InteropError, match="architecture 'gemma3' is not supported"):
        open_gguf(path)


@pytest.mark.parametrize("family", MODELS)
def test_a_flipped_bit_is_no_traceback(family, tmp_path):
    path = tmp_path / "m.gguf"
    whole = write(path, family).read_bytes()
    header = gguf.GGUFReader(path).data_offset
    rng = np.random.default_rng(0)
    ends = {"loaded": 0, "refused": 0}
    for number in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(header if number % 5 else len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            llm = load_llm(f"gguf:{path}")
            dict(llm.weights(ModelConfig(llm=llm.config, speak=SpeakConfig(enabled=False, freeze_layer=0))))
            llm.tokenizer().encode(TEXTS[0])
            ends["loaded"] += 1
        except UserError:
            ends["refused"] += 1
    assert min(ends.values()) > 20


def test_numbers_that_are_none_are_named(tmp_path, monkeypatch):
    bad = dict(state("qwen2"))
    bad["model.layers.1.mlp.up_proj.weight"] = bad["model.layers.1.mlp.up_proj.weight"].copy()
    bad["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    monkeypatch.setitem(globals(), "state", lambda family: bad)
    with pytest.raises(InteropError, match=r"blk\.1\.ffn_up\.weight: 1 of 2048 numbers are NaN or infinite"):
        open_gguf(write(tmp_path / "m.gguf", "qwen2")).get("model.layers.1.mlp.up_proj.weight")


def test_smollm2_is_what_its_card_says():
    llm = load_llm("package:smollm2-135m-instruct")
    assert (llm.config.num_layers, llm.config.width, llm.config.num_heads, llm.config.num_kv_heads) == (30, 576, 9, 3)
    assert (llm.config.rope_theta, llm.config.norm_eps, llm.config.tie_embeddings) == (1e5, 1e-5, True)
    assert sum(np.prod(llm.source.shape(name)) for name in llm.source.names()) == 134_515_008
    tokenizer = llm.tokenizer()
    assert [tokenizer.token_id(token) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [0, 1, 2]
    assert tokenizer.vocab_size == 49152
    assert tokenizer.encode("Hello world 2024") == [19556, 905, 216, 34, 32, 34, 36]
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    named = tokenizer.renamed({"<issue_start>": "<think>", "<issue_closed>": "</think>", "<empty_output>": "<|audio|>"})
    assert [named.token_id(token) for token in ("<think>", "</think>", "<|audio|>")] == [8, 10, 16]
    assert not {2, 8, 10} & set(named.encode("<think></think><|im_end|>"))
