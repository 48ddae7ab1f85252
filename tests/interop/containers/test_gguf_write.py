"""GGUF files that we write, read by the `gguf` package and by our own reader, for every family."""

import dataclasses
import json

import gguf
import numpy as np
import pytest
import tokenizers
from helpers import tiny_run
from tokenizers import normalizers, pre_tokenizers

from ieat_jax.interop.containers.gguf import WORDS, gguf_name, huggingface_name, word_splitter
from ieat_jax.interop.containers.gguf_write import words_of
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.export import export, formats_of
from ieat_jax.interop.families.llm import load_llm, to_huggingface
from ieat_jax.model.names import map_named, named_leaves
from ieat_jax.text.tokenizer import Tokenizer

FAMILIES = {
    "llama": {},
    "llama tied": {"tie_embeddings": True},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 16},
}
TEXTS = ("I lost my keys.", "12 times, I'm sure.", "  Ünïcode 你好 🙂\n\nand lines", "<|im_end|> <think>")


def made(family, **changes):
    llm = dataclasses.replace(tiny_run.CONFIG.llm, **FAMILIES[family], **changes)
    sizes = dataclasses.replace(tiny_run.CONFIG, llm=llm)
    return tiny_run.make_run(sizes=sizes, model=tiny_run.random_model(sizes))


def paired(array, heads):
    """Rows of q and k as llama.cpp has them, by its own words: (first half, second half) become neighbours."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


@pytest.mark.parametrize("dtype", ["float32", "float16", "q8_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_readers_find_the_values(tmp_path, family, dtype):
    run = made(family)
    export(run, tmp_path / "out", to="gguf", dtype=dtype)
    file = tmp_path / "out" / "model.gguf"
    sizes, theirs = run.config.model, {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    expected = dict(to_huggingface(named_leaves(run.model), sizes))
    assert theirs.keys() == {gguf_name(name) for name in expected}
    for name, array in expected.items():
        tensor = theirs[gguf_name(name)]
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(array.shape)
        if family.startswith("llama") and name.endswith(("q_proj.weight", "k_proj.weight")):
            array = paired(array, sizes.llm.num_heads if "q_proj" in name else sizes.llm.num_kv_heads)
        check(value, array, tensor.tensor_type.name, dtype)
    ours = load_llm(f"gguf:{file}")
    assert ours.config == dataclasses.replace(sizes.llm, context_length=320)
    kinds = {huggingface_name(name): tensor.tensor_type.name for name, tensor in theirs.items()}
    for name, array in expected.items():
        check(ours.source.get(name), array, kinds[name], dtype)


def check(value, array, kind, dtype):
    """float32 bit for bit, float16 rounded once, Q8_0 within half a step of its block, plus its scale's rounding."""
    allowed = {"float32": {"F32"}, "float16": {"F16"}, "q8_0": {"Q8_0", "F16"}}[dtype]
    assert kind in (allowed if array.ndim > 1 else {"F32"})
    if kind == "Q8_0":
        assert array.shape[-1] % 32 == 0
        blocks = np.abs(array).reshape(-1, 32).max(1, keepdims=True) / 127
        assert np.all(np.abs(value - array).reshape(-1, 32) <= blocks * (0.5 + 127 / 2048) + 1e-7)
    else:
        assert np.array_equal(value, array.astype({"F32": np.float32, "F16": np.float16}[kind]).astype(np.float32))


def test_the_tokenizer_comes_back(tmp_path):
    run = made("qwen3")
    export(run, tmp_path / "out", to="gguf")
    tokenizer = load_llm(f"gguf:{tmp_path / 'out' / 'model.gguf'}").tokenizer()
    assert tokenizer.vocab_size == run.tokenizer.vocab_size < run.config.model.llm.vocab_size
    for text in TEXTS:
        assert tokenizer.encode(text) == run.tokenizer.encode(text)
    for token in ("<|im_start|>", "<|im_end|>", "<think>", "</think>"):
        assert tokenizer.token_id(token) == run.tokenizer.token_id(token)


@pytest.mark.parametrize("words", WORDS)
def test_words_are_known_by_how_they_are_cut(words):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    backend.pre_tokenizer = word_splitter(words)
    if words == "qwen2":
        backend.normalizer = normalizers.NFC()
    found = words_of(json.loads(backend.to_str()))
    assert word_splitter(found).__getstate__() == word_splitter(words).__getstate__()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert words_of(json.loads(backend.to_str())) is None


def test_what_does_not_fit_is_told_with_what_does(tmp_path):
    scaled = made("llama", rope_scaling=(8.0, 1.0, 4.0, 128.0))
    assert formats_of(scaled)["huggingface"] is None
    with pytest.raises(
        InteropError, match=r"as gguf: it has no RoPE scaling.*; it can be .* as huggingface, stablehlo"
    ):
        export(scaled, tmp_path / "out", to="gguf")
    backend = json.loads(tiny_run.tokenizer()._backend.to_str())
    backend["pre_tokenizer"] = {"type": "Whitespace"}
    other = dataclasses.replace(made("llama"), tokenizer=Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(backend))))
    with pytest.raises(InteropError, match=r"no byte-level BPE.*; it can be written as huggingface"):
        export(other, tmp_path / "out", to="gguf")
    large = dataclasses.replace(made("llama"), model=map_named(lambda _, leaf: leaf * 1e6, made("llama").model))
    with pytest.raises(InteropError, match="numbers that float16 cannot hold; write it with --dtype float32"):
        export(large, tmp_path / "out", to="gguf")
    assert not list(tmp_path.iterdir())
