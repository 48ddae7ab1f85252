"""Think and Write as one file for llama.cpp and what is built on it: weights, tokenizer and chat template.

model.gguf    float16, q8_0 (8 bits) or float32; `config.init.llm = "gguf:FILE"` reads it
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ieat_jax.interop.containers import gguf_write
from ieat_jax.interop.families import llm
from ieat_jax.interop.formats.format import Format
from ieat_jax.interop.formats.huggingface import context_length, pad_token
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import Run
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.template import chat_template
from ieat_jax.text.tokenizer import TOKENIZER_FILE

FILE = "model.gguf"


def write(run: Run, folder: Path, dtype: str) -> dict[str, int]:
    """Write the file; {its name: tensors in it}."""
    chat = ChatFormat.from_config(run.tokenizer, run.config.chat)
    config = llm.huggingface_config(run.config.model.llm, max_positions=context_length(run))
    config |= {"eos_token_id": chat.end_of_turn, "pad_token_id": run.tokenizer.token_id(pad_token(run))}
    count = gguf_write.write_gguf(
        folder / FILE,
        config,
        llm.to_huggingface(named_leaves(run.model), run.config.model),
        _tokenizer_json(run),
        dtype=dtype,
        template=chat_template(chat),
        name=Path(run.path).name,
    )
    return {FILE: count}


def cannot(run: Run) -> str | None:
    """Why a run does not fit; None: it does."""
    sizes = run.config.model.llm
    if reason := llm.no_family(sizes):
        return reason
    if sizes.post_norm:
        return "its norms stand behind attention and MLP (OLMo 2), which is not written here"
    if sizes.rope_scaling is not None:
        return "it has no RoPE scaling here (config.model.llm.rope_scaling)"
    if gguf_write.words_of(_tokenizer_json(run)) is None:
        return f"its tokenizer is no byte-level BPE whose words are cut as in {', '.join(gguf_write.WORDS)}"
    return None


def _tokenizer_json(run: Run) -> dict[str, Any]:
    """The content of tokenizer.json; of SentencePiece, a model without a type that is known."""
    with tempfile.TemporaryDirectory() as folder:
        run.tokenizer.save(folder)
        file = Path(folder) / TOKENIZER_FILE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"model": {"type": "SentencePiece"}}


FORMAT = Format("the LLM for llama.cpp", write, cannot, gguf_write.TYPES)
