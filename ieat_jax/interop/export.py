"""A trained run as folders that Hugging Face's libraries read.

llm/                  Think and Write: config.json, safetensors, tokenizer; `AutoModelForCausalLM` loads it
whisper/              Listen's encoder: config.json, safetensors with the names of WhisperModel
speech.safetensors    everything else by our names: layer mix, adapter, emotion heads, Speak
ieat.json             the model's and the chat's configuration, and where the weights are from

`config.init.llm` and `config.init.whisper` read the two folders, too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from ieat_jax.config.recipes import as_plain
from ieat_jax.interop.containers.source import InteropError
from ieat_jax.interop.families import llm, whisper
from ieat_jax.model.lora import merge_lora
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import Run
from ieat_jax.text.chat import ChatFormat

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SPEECH, ABOUT = "speech.safetensors", "ieat.json"
SHARD_BYTES = 5 * 10**9
ELSEWHERE = ("think.", "write.", "listen.encoder.")  # what llm/ and whisper/ hold


def export(run: Run, folder: str | Path, *, dtype: str = "float32", shard_bytes: int = SHARD_BYTES) -> dict[str, int]:
    """Write a run's model into a new folder, its LoRA merged into the kernels; {file or folder: tensors in it}.

    Args:
        run: loaded; it is left as it is.
        folder: appears when it is complete.
        dtype: of the tensors, a name of DTYPES. Merging is done in float32.
        shard_bytes: most bytes of one safetensors file of llm/ and whisper/.

    Raises:
        InteropError: the folder exists, an unknown dtype, or an LLM that no Hugging Face family is like.
    """
    folder = Path(folder)
    if dtype not in DTYPES:
        raise InteropError(f"dtype {dtype!r} is unknown; known: {', '.join(DTYPES)}")
    if folder.exists():
        raise InteropError(f"{folder}: exists already; name a new folder, or delete that one")
    config = run.config.model
    model = jax.jit(merge_lora)(run.model) if config.lora.rank else run.model
    named = named_leaves(model)
    llm_config = llm.huggingface_config(config.llm, max_positions=run.config.data.shapes.tokens)
    llm_config |= {
        "torch_dtype": dtype,
        "eos_token_id": ChatFormat.from_config(run.tokenizer, run.config.chat).end_of_turn,
    }
    rest = ((name, np.asarray(leaf)) for name, leaf in named.items() if not name.startswith(ELSEWHERE))

    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    counts = {
        "llm": _write_folder(part / "llm", llm_config, llm.to_huggingface(named, config), dtype, shard_bytes),
        "whisper": _write_folder(
            part / "whisper",
            whisper.huggingface_config(config.listen.encoder) | {"torch_dtype": dtype},
            whisper.to_huggingface(named, config.listen.encoder),
            dtype,
            shard_bytes,
        ),
        SPEECH: _write_file(part / SPEECH, _cast(rest, dtype)),
    }
    run.tokenizer.save(part / "llm")
    if (part / "llm" / "tokenizer.json").is_file():
        _write_json(part / "llm" / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    settings = as_plain(run.config)
    settings["model"]["lora"]["rank"] = 0
    about = {"run": str(run.path), "step": run.step, "stage": run.stage, "dtype": dtype}
    about |= {"lora_merged": bool(config.lora.rank), "model": settings["model"], "chat": settings["chat"]}
    _write_json(part / ABOUT, about)
    os.replace(part, folder)
    return counts


def _cast(tensors: Iterable[tuple[str, np.ndarray]], dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in tensors:
        yield name, np.ascontiguousarray(array, DTYPES[dtype])


def _write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Iterable[tuple[str, np.ndarray]], dtype: str, shard_bytes: int
) -> int:
    """config.json and the tensors in files of at most `shard_bytes` (or one tensor) each, with an index of several."""
    folder.mkdir(parents=True)
    _write_json(folder / "config.json", config)
    shards: list[dict[str, int]] = []  # names and sizes of each file
    waiting: dict[str, np.ndarray] = {}

    def flush() -> None:
        _write_file(folder / f"{len(shards)}.part", waiting.items())
        shards.append({name: array.nbytes for name, array in waiting.items()})
        waiting.clear()

    for name, array in _cast(tensors, dtype):
        if waiting and sum(one.nbytes for one in waiting.values()) + array.nbytes > shard_bytes:
            flush()
        waiting[name] = array
    flush()
    if len(shards) == 1:
        os.replace(folder / "0.part", folder / "model.safetensors")
        return len(shards[0])
    index: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        os.replace(folder / f"{number}.part", folder / file)
        index |= dict.fromkeys(names, file)
    size = sum(sum(names.values()) for names in shards)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index})
    return len(index)


def _write_file(path: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> int:
    arrays = dict(tensors)
    save_file(arrays, path, metadata={"format": "pt"})  # transformers asks for it
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors leaves it to its owner alone
    return len(arrays)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
