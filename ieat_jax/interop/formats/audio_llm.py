"""A run that hears and writes as one model that others serve: Ultravox, Qwen2-Audio or AudioFlamingo3.

config.json, model.safetensors   encoder, projector and LLM by the container's public names
tokenizer, chat template         a message's content may be a list of text and audio, audio first
preprocessor_config.json         Whisper's log-mel; processor_config.json for the class that expands placeholders
README.md                        how to load it, and what it cannot do

Speak and the emotion heads are left out. `config.init.whisper` and `config.init.llm` read the folder.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from ieat_jax.interop.containers.source import read_json
from ieat_jax.interop.containers.write import DTYPES, write_json, write_tensors
from ieat_jax.interop.families import llm, whisper
from ieat_jax.interop.families.audio_configs import audio_flamingo3_config, qwen2_audio_config, ultravox_config
from ieat_jax.interop.families.audio_llm import to_container
from ieat_jax.interop.formats.format import Format
from ieat_jax.interop.formats.huggingface import write_llm_files
from ieat_jax.model.names import named_leaves
from ieat_jax.runs.folder import Run
from ieat_jax.text.chat import AUDIO, ChatFormat
from ieat_jax.text.template import chat_template
from ieat_jax.text.tokenizer import TOKENIZER_FILE, Tokenizer

PUBLIC = "fixie-ai/ultravox-v0_6-llama-3_1-8b"  # whose code transformers and vLLM run for any Ultravox


@dataclasses.dataclass(frozen=True)
class Container:
    """What one of the three is."""

    title: str
    adapter: str  # the kind that it has
    config: Callable[..., dict[str, Any]]
    processor: dict[str, Any]  # processor_config.json
    clips: str  # how many a prompt may have
    loads: str  # with what


ULTRAVOX = Container(
    title="Ultravox",
    adapter="stack",
    config=ultravox_config,
    processor={
        "processor_class": "UltravoxProcessor",
        "auto_map": {"AutoProcessor": f"{PUBLIC}--ultravox_processing.UltravoxProcessor"},
        "audio_placeholder": AUDIO,
    },
    clips="Any number of clips: dialogues of several spoken turns.",
    loads="vllm serve FOLDER --trust-remote-code; transformers.AutoModel with trust_remote_code=True",
)
QWEN2_AUDIO = Container(
    title="Qwen2-Audio",
    adapter="linear",
    config=qwen2_audio_config,
    processor={"processor_class": "Qwen2AudioProcessor", "audio_token": AUDIO},
    clips="Any number of clips: dialogues of several spoken turns. vLLM's class wants a Qwen2 or Qwen2.5 as the LLM.",
    loads="transformers.Qwen2AudioForConditionalGeneration and AutoProcessor",
)
AUDIO_FLAMINGO3 = Container(
    title="AudioFlamingo3",
    adapter="mlp",
    config=audio_flamingo3_config,
    processor={"processor_class": "AudioFlamingo3Processor", "audio_token": AUDIO},
    clips="One clip in a prompt: single turns, which its processor and its servers insist on.",
    loads="transformers.AudioFlamingo3ForConditionalGeneration and AutoProcessor",
)


def write(container: Container, run: Run, folder: Path, dtype: str) -> dict[str, int]:
    """Write a run as a container; {folder: tensors in it}.

    Raises:
        InteropError: parameters that the container does not have.
    """
    config = run.config.model
    count = write_tensors(folder, to_container(named_leaves(run.model), config), dtype)
    write_llm_files(run, folder, dtype)
    audio_token = _place_audio_token(run, folder)
    text = read_json(folder / "config.json")
    audio = whisper.huggingface_config(config.listen.encoder)
    if container is ULTRAVOX:  # whose processor asks another model of as many mel bands for its log-mel
        audio["_name_or_path"] = f"openai/whisper-{'large-v3' if config.listen.encoder.num_mels == 128 else 'tiny'}"
    whole = container.config(config, audio=audio, text=text, audio_token=audio_token)
    if container is ULTRAVOX:
        code = {"AutoConfig": "ultravox_config.UltravoxConfig", "AutoModel": "ultravox_model.UltravoxModel"}
        whole["auto_map"] = {name: f"{PUBLIC}--{place}" for name, place in code.items()}
    ends = {name: text[name] for name in ("eos_token_id", "pad_token_id")}
    write_json(folder / "config.json", whole | ends | {"dtype": dtype})
    chat = ChatFormat.from_config(run.tokenizer, run.config.chat)
    (folder / "chat_template.jinja").write_text(chat_template(chat, audio=AUDIO), encoding="utf-8")
    features = whisper.preprocessor_config(config.listen.encoder)
    named = {"processor_class": container.processor["processor_class"], "return_attention_mask": True}
    write_json(folder / "preprocessor_config.json", features | named)
    write_json(folder / "processor_config.json", container.processor)
    (folder / "README.md").write_text(_readme(container, run), encoding="utf-8")
    return {"model.safetensors": count}


def _place_audio_token(run: Run, folder: Path) -> int:
    """The id of `<|audio|>`, which the tokenizer gets where it has none."""
    found = run.tokenizer.token_id(AUDIO)
    if found is not None:
        return found
    file = str(folder / TOKENIZER_FILE)
    grown = tokenizers.Tokenizer.from_file(file)
    grown.add_special_tokens([AUDIO])
    grown.save(file)
    return grown.token_to_id(AUDIO)


def _room_for_audio_token(run: Run) -> bool:
    if run.tokenizer.token_id(AUDIO) is not None:
        return True
    return isinstance(run.tokenizer, Tokenizer) and run.tokenizer.vocab_size < run.config.model.llm.vocab_size


def _readme(container: Container, run: Run) -> str:
    listen = run.config.model.listen
    sentences = [
        f"# {container.title}, exported by ieat_jax\n",
        f"- Loads with: {container.loads}.",
        f"- {container.clips}",
        f"- A clip lasts at most {listen.clip_seconds:g} s; it stands before the text of its turn, as {AUDIO}.",
        "- It hears and writes; the voice (Speak) and the emotion heads are not in it.",
    ]
    if run.config.chat.thinks:
        sentences.append("- It thinks before it answers; `enable_thinking=False` of the chat template asks it not to.")
    return "\n".join(sentences) + "\n"


def cannot(container: Container, run: Run) -> str | None:
    """Why a run does not fit into a container; None: it does."""
    listen, reasons = run.config.model.listen, []
    if listen.adapter.kind != container.adapter:
        reasons.append(f"its adapter is {listen.adapter.kind!r}, {container.title} has {container.adapter!r}")
    if listen.layer_mix != "last":
        reasons.append("it hears a mix of layers, the container's encoder its last alone (listen.layer_mix)")
    if not listen.masked:
        reasons.append("its encoder hears the padding, the container's masks it (listen.padding)")
    if listen.encoder.max_positions % 50:
        reasons.append(
            f"its encoder's window of {listen.encoder.max_positions} positions is no whole number of seconds"
        )
    if reason := llm.no_family(run.config.model.llm):
        reasons.append(reason)
    if not _room_for_audio_token(run):
        reasons.append(
            f"its tokenizer has no {AUDIO} and no id is free: rename a reserved token (config.tokenizer.rename)"
        )
    return ", and ".join(reasons) or None


def _format(container: Container, what: str) -> Format:
    return Format(what, functools.partial(write, container), functools.partial(cannot, container), tuple(DTYPES))


FORMATS = {
    "ultravox": _format(ULTRAVOX, "adapter 'stack': vLLM's Ultravox, any number of clips"),
    "qwen2_audio": _format(QWEN2_AUDIO, "adapter 'linear': transformers' Qwen2-Audio, any number of clips"),
    "audio_flamingo3": _format(AUDIO_FLAMINGO3, "adapter 'mlp': transformers' AudioFlamingo3, one clip in a prompt"),
}
