"""A whole run in GOAT-SLM's layout, which its public code (WEST) loads: it hears, thinks, writes and speaks.

config.json, model.safetensors   Listen, Think, Write and Speak by the public names
tokenizer, chat template         of the LLM, as in `huggingface`
whisper-small/                   preprocessor_config.json: Whisper's log-mel, where that code looks for it
codec/                           the unit codec
README.md                        how to load it, and what that code does otherwise

The emotion heads are left out. `config.init.whisper`, `config.init.llm` and `config.init.speak` read the folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.interop.containers.source import read_json
from ieat_jax.interop.containers.write import DTYPES, write_json, write_tensors
from ieat_jax.interop.families import whisper
from ieat_jax.interop.families.goat_config import FAMILIES, goat_config
from ieat_jax.interop.families.goat_slm import to_goat
from ieat_jax.interop.formats.format import Format
from ieat_jax.interop.formats.huggingface import write_llm_files
from ieat_jax.model.config import ModelConfig
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import CODEC, Run, save_codec
from ieat_jax.text.chat import END_THINK

EXTRACTOR = "whisper-small"  # the folder's name is fixed in that code, whatever the size of the encoder
POSITIONS = "listen.encoder.positions"
# What that code has as constants: ids of CosyVoice that end speech, and of Qwen3's tokens around a response.
UNITS, END_THINK_ID, BLANK_LINE_ID = 4098, 151668, 271
SPEECH_SYSTEM = "You are a helpful assistant."


def write(run: Run, folder: Path, dtype: str) -> dict[str, int]:
    """Write a run; {file: tensors in it}.

    Raises:
        InteropError: parameters that the layout does not have.
    """
    config = _in_its_window(run.config.model)
    count = write_tensors(folder, to_goat(_cut(run, config), config), dtype)
    write_llm_files(run, folder, dtype)
    text = read_json(folder / "config.json")
    audio = whisper.huggingface_config(config.listen.encoder)
    ends = {name: text[name] for name in ("eos_token_id", "pad_token_id")}
    write_json(folder / "config.json", goat_config(config, audio=audio, text=text) | ends | {"torch_dtype": dtype})
    (folder / EXTRACTOR).mkdir()
    features = whisper.preprocessor_config(config.listen.encoder)
    write_json(folder / EXTRACTOR / "preprocessor_config.json", features | {"return_attention_mask": True})
    if run.codec is not None:
        save_codec(folder / CODEC, run.codec)
    (folder / "README.md").write_text(_readme(run), encoding="utf-8")
    return {"model.safetensors": count}


def _positions(config: ModelConfig) -> int:
    """Of the encoder, in the window that the run hears: that code fills all that there are with silence."""
    return round(config.listen.clip_seconds * 50)


def _in_its_window(config: ModelConfig) -> ModelConfig:
    encoder = dataclasses.replace(config.listen.encoder, max_positions=_positions(config))
    return dataclasses.replace(config, listen=dataclasses.replace(config.listen, encoder=encoder))


def _cut(run: Run, config: ModelConfig) -> dict[str, Any]:
    """The run's arrays, of the table of positions those that are heard."""
    named = named_leaves(run.model)
    return named | {POSITIONS: np.asarray(named[POSITIONS])[: config.listen.encoder.max_positions]}


def _readme(run: Run) -> str:
    return "\n".join(["# GOAT-SLM, exported by ieat_jax\n", *(f"- {line}" for line in _notes(run))]) + "\n"


def _notes(run: Run) -> Iterator[str]:
    config, chat = run.config.model, run.config.chat
    yield "Loads with: west.models.goat_slm.GOATSLMModel of https://github.com/wenet-e2e/west; every name is there."
    yield f"A clip lasts at most {config.listen.clip_seconds:g} s; any number of clips, dialogues of several turns."
    yield f"Trained with the system prompt {chat.system_text!r}, Speak's is {chat.speech_system_text!r}."
    if chat.speech_system_text != SPEECH_SYSTEM:
        yield f"The demos give Speak {SPEECH_SYSTEM!r}: change that line there."
    codec = None if run.codec is None else run.codec.identity()
    if codec is not None:
        yield f"Its units are those of the codec {codec['name']} ({codec['hash']}) in codec/; to others they are noise."
    if config.speak.unit_vocab_size != UNITS:
        yield (
            f"Speech ends with an id from {UNITS - 2} on in that code; these units are {config.speak.unit_vocab_size}: "
            "change the ids in its generation_utils.py."
        )
    if not chat.thinks:
        yield "It does not think: run the demos with --enable_thinking, with which they open no think block."
        return
    yield "It thinks before it answers where the demos run with --enable_thinking."
    blank = run.tokenizer.encode("\n\n")
    if config.llm.qkv_bias:
        yield "On a Qwen2 that code begins to speak before the thinking ends: run the demos without --enable_thinking."
    elif run.tokenizer.token_id(END_THINK) != END_THINK_ID or blank != [BLANK_LINE_ID]:
        yield (
            f"That code waits for {END_THINK} as id {END_THINK_ID}, one token for a blank line; here they are "
            f"{run.tokenizer.token_id(END_THINK)} and {blank}: change them in its generation_utils.py."
        )


def cannot(run: Run) -> str | None:
    """Why a run does not fit; None: it does."""
    config, reasons = run.config.model, []
    listen, encoder = config.listen, config.listen.encoder
    if listen.adapter.kind != "goat":
        reasons.append(f"its adapter is {listen.adapter.kind!r}, GOAT-SLM has 'goat'")
    elif listen.adapter.conv_width != encoder.width:
        reasons.append(
            f"its convolutions have {listen.adapter.conv_width} channels, GOAT-SLM's as many as the encoder, "
            f"{encoder.width} (listen.adapter.conv_width)"
        )
    if listen.layer_mix != "last":
        reasons.append("it hears a mix of layers, GOAT-SLM its encoder's last alone (listen.layer_mix)")
    if listen.masked:
        reasons.append("its encoder masks the padding, GOAT-SLM's hears it (listen.padding)")
    if listen.clip_seconds % 1:
        reasons.append(f"its window of {listen.clip_seconds:g} s is no whole number of seconds (listen.clip_seconds)")
    if config.llm.post_norm:
        reasons.append(f"its LLM is an OLMo 2, GOAT-SLM's code has {' and '.join(FAMILIES)} (llm.post_norm)")
    elif not (config.llm.qkv_bias or config.llm.qk_norm):
        reasons.append(f"its LLM is a Llama, GOAT-SLM's code has {' and '.join(FAMILIES)}")
    elif config.llm.qkv_bias and config.llm.qk_norm:
        reasons.append("its LLM is no Qwen2 and no Qwen3, but both (llm.qkv_bias, llm.qk_norm)")
    if not config.speak.enabled:
        reasons.append("it does not speak, and GOAT-SLM does (speak.enabled)")
    return ", and ".join(reasons) or None


FORMAT = Format("the whole model for GOAT-SLM's own code", write, cannot, tuple(DTYPES))
