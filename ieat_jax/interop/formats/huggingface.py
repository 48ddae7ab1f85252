"""A run as folders that Hugging Face's libraries, and every server of their models, read.

llm/                  Think and Write: `AutoModelForCausalLM`, tokenizer, chat template, generation_config.json
whisper/              Listen's encoder: `WhisperEncoder`, preprocessor_config.json
speech.safetensors    everything else by our names: layer mix, adapter, emotion heads, Speak
codec/                the unit codec of a run that speaks
handover.json         where the run's first parameters came from

The whole is a run for us: `config.init.checkpoint` begins from it, bit for bit; `config.init.llm` and
`config.init.whisper` read the two folders alone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.interop.containers.write import DTYPES, write_file, write_json, write_tensors
from ieat_jax.interop.families import llm, whisper
from ieat_jax.interop.formats.format import Format
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import CODEC, HANDOVER, Run, save_codec
from ieat_jax.text.chat import END, END_THINK, START, THINK, ChatFormat
from ieat_jax.text.template import chat_template
from ieat_jax.text.tokenizer import TOKENIZER_FILE

LLM, WHISPER, SPEECH = "llm", "whisper", "speech.safetensors"
ELSEWHERE = ("think.", "write.", "listen.encoder.")  # what llm/ and whisper/ hold
# How transformers splits a reply (`parse_response`).
REPLY = {
    "version": 1,
    "defaults": {"role": "assistant"},
    "start_anchor": f"{START}assistant\n",
    "fields": {"thinking": {"open": f"{THINK}\n", "close": END_THINK}, "content": {"close": END}},
}
PADS = ("<|endoftext|>", END)  # the first that a tokenizer has


def write(run: Run, folder: Path, dtype: str) -> dict[str, int]:
    """Write a run's folders; {file or folder: tensors in it}."""
    config, named = run.config.model, named_leaves(run.model)
    rest = ((name, np.asarray(leaf)) for name, leaf in named.items() if not name.startswith(ELSEWHERE))
    counts = {
        LLM: write_tensors(folder / LLM, llm.to_huggingface(named, config), dtype),
        WHISPER: write_tensors(
            folder / WHISPER, whisper.to_huggingface(named, config.listen.encoder, prefix=""), dtype
        ),
        SPEECH: write_file(folder / SPEECH, rest, dtype),
    }
    write_llm_files(run, folder / LLM, dtype)
    encoder = whisper.huggingface_config(config.listen.encoder)
    write_json(folder / WHISPER / "config.json", encoder | {"architectures": ["WhisperEncoder"], "dtype": dtype})
    write_json(folder / WHISPER / "preprocessor_config.json", whisper.preprocessor_config(config.listen.encoder))
    if run.codec is not None:
        save_codec(folder / CODEC, run.codec)
    if (Path(run.path) / HANDOVER).is_file():
        shutil.copyfile(Path(run.path) / HANDOVER, folder / HANDOVER)
    return counts


def write_llm_files(run: Run, folder: Path, dtype: str) -> None:
    """What an LLM's folder holds beside its tensors: config, generation, tokenizer, chat template."""
    chat = ChatFormat.from_config(run.tokenizer, run.config.chat)
    pad = pad_token(run)
    ends = {"eos_token_id": chat.end_of_turn, "pad_token_id": run.tokenizer.token_id(pad)}
    context = context_length(run)
    config = llm.huggingface_config(run.config.model.llm, max_positions=context)
    write_json(folder / "config.json", config | ends | {"torch_dtype": dtype})
    # As in our decoder: no turn header, and no think block but the one that the prompt opens.
    never = [run.tokenizer.token_id(token) for token in (START, *((THINK,) if chat.thinks else ()))]
    write_json(folder / "generation_config.json", ends | {"do_sample": False, "suppress_tokens": never})
    run.tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(chat_template(chat), encoding="utf-8")
    told: dict[str, Any] = {"eos_token": END, "pad_token": pad, "model_max_length": context}
    told["clean_up_tokenization_spaces"] = False
    if chat.thinks:
        told["response_template"] = REPLY
    if (folder / TOKENIZER_FILE).is_file():
        told["tokenizer_class"] = "PreTrainedTokenizerFast"
        _show_thinking(folder / TOKENIZER_FILE)
    write_json(folder / "tokenizer_config.json", told)


def pad_token(run: Run) -> str:
    """What stock software pads with; it is never seen."""
    return next(token for token in PADS if run.tokenizer.token_id(token) is not None)


def context_length(run: Run) -> int:
    """Positions that may be used: those that the LLM was made for, else those of the rows that it was trained on."""
    return run.config.model.llm.context_length or run.config.data.shapes.tokens


def _show_thinking(file: Path) -> None:
    """Let a decoder that leaves special tokens out keep the tags, at which parsers of replies split."""
    state = json.loads(file.read_text(encoding="utf-8"))
    for token in state["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in (THINK, END_THINK)
    file.write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")


def cannot(run: Run) -> str | None:
    """Why a run does not fit; None: it does."""
    return llm.no_family(run.config.model.llm)


FORMAT = Format("folders that transformers and servers of LLMs read; a run for us", write, cannot, tuple(DTYPES))
