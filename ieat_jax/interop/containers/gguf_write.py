"""GGUF files, written: what `containers.gguf` reads, by the same tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.interop.containers.gguf import (
    COMPOSED,
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    WORDS,
    gguf_name,
    paired_rows,
    word_splitter,
)
from ieat_jax.interop.containers.source import InteropError

TYPES = ("float16", "q8_0", "float32")
BLOCK = 32  # numbers of Q8_0 that share a scale
REASONING = ("<think>", "</think>")


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, np.ndarray]],
    tokenizer: Mapping[str, Any],
    *,
    dtype: str,
    template: str,
    name: str,
) -> int:
    """Write an LLM for llama.cpp; returns the number of its tensors.

    Vectors stay float32, and so do, in Q8_0, no others than those whose rows are no whole blocks, which are float16.

    Args:
        path: of the file.
        config: a Hugging Face config.json of a Llama, Qwen2 or Qwen3, with eos_token_id and pad_token_id.
        tensors: Hugging Face names and float32 arrays, one at a time.
        tokenizer: the content of a tokenizer.json of which `words_of` knows the words.
        dtype: of TYPES.
        template: the chat template.
        name: of the model.

    Raises:
        InteropError: numbers that float16 cannot hold; the package `gguf` is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise InteropError("writing GGUF needs its package: pip install 'ieat_jax[demo]'") from error
    writer = gguf.GGUFWriter(path, config["model_type"])
    kinds = gguf.LlamaFileType
    files = {"float16": kinds.MOSTLY_F16, "q8_0": kinds.MOSTLY_Q8_0, "float32": kinds.ALL_F32}
    writer.add_name(name)
    writer.add_file_type(files[dtype])
    _write_sizes(writer, config)
    _write_tokenizer(writer, config, tokenizer)
    writer.add_chat_template(template)
    count = 0
    for each, array in tensors:
        count += 1
        projection = re.fullmatch(r".*\.self_attn\.([qk])_proj\.weight", each)
        if projection and config["model_type"] == "llama":
            key = "num_attention_heads" if projection[1] == "q" else "num_key_value_heads"
            array = paired_rows(array, config[key])
        _write_tensor(writer, gguf_name(each), array, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return count


def _write_tensor(writer: Any, name: str, array: np.ndarray, dtype: str) -> None:
    import gguf

    array = np.ascontiguousarray(array, np.float32)
    if array.ndim < 2 or dtype == "float32":
        writer.add_tensor(name, array)
    elif dtype == "q8_0" and array.shape[-1] % BLOCK == 0:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    else:
        if np.abs(array).max() > np.finfo(np.float16).max:
            raise InteropError(f"{name} holds numbers that float16 cannot hold; write it with --dtype float32")
        writer.add_tensor(name, array.astype(np.float16))


def _write_sizes(writer: Any, config: Mapping[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _write_tokenizer(writer: Any, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    tokens = [f"[PAD{number}]" for number in range(config["vocab_size"])]  # a table may have more rows than tokens
    kinds = [UNUSED] * len(tokens)
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = token, NORMAL
    for token in tokenizer["added_tokens"]:
        shown = not token["special"] or token["content"] in REASONING  # in a reply, where parsers split it
        tokens[token["id"]], kinds[token["id"]] = token["content"], USER_DEFINED if shown else CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words_of(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_eot_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)


def words_of(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for how a tokenizer.json cuts text into words; None: it has none, or is no byte-level BPE."""
    model = tokenizer["model"]
    if model["type"] != "BPE" or model.get("byte_fallback") or not model["merges"]:
        return None
    normalizer = (tokenizer["normalizer"] or {}).get("type")
    for words in WORDS:
        splits = _essence(json.loads(word_splitter(words).__getstate__()))
        if splits == _essence(tokenizer["pre_tokenizer"]) and normalizer == ("NFC" if words in COMPOSED else None):
            return words
    return None


def _essence(splitter: Any) -> Any:
    """What decides about ids in a pre-tokenizer's JSON."""
    if isinstance(splitter, list):
        return [_essence(each) for each in splitter]
    if not isinstance(splitter, dict):
        return splitter
    return {key: _essence(value) for key, value in splitter.items() if key != "trim_offsets"}
