"""Listen, prefill, decoding step and Speak as StableHLO: programs for CPU, CUDA and TPU that need no code of ours.

listen.bin, prefill.bin, step.bin,
speak.bin                            `jax.export` artefacts for any number of rows; they take the parameters
parameters.safetensors               by our names
shapes.json                          sizes, token ids and the format of prompts
tokenizer/                           the tokenizer
run.py                               a reply to a prompt of token ids, with jax and numpy alone
speak.py                             its speech as units, of a run that speaks, which alone has speak.bin, too

    listen(parameters, mel [B,F,M], frames [B])                                -> heard [B,A,D]
    prefill(parameters, tokens [B,T], lengths [B], heard [B,A,D], place [B,T]) -> logits [B,V], states [B,T,D], memory
    step(parameters, token [B], position [B], memory)                          -> logits [B,V], states [B,D], memory
    speak(parameters, states [B,D], group [B,4], position [B], memory)         -> unit logits [B,4,U], memory

`frames` counts a clip's own; in `mel` so many more follow as `frames_behind` in shapes.json says, up to F.
`place` says which position of `heard` stands at a token, -1 = none. `memory` is a list of arrays, T the context length.
Speak reads Think's `states` one by one, with the units of the group before (-1 = none); its own memory begins as zeros
of the shapes that `voice` in shapes.json names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as exporting

from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.interop.containers.write import write_file, write_json
from ieat_jax.interop.formats.format import Format
from ieat_jax.interop.formats.huggingface import context_length
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.adapters import adapter_length
from ieat_jax.model.cache import KVCache
from ieat_jax.model.config import ModelConfig
from ieat_jax.model.llm import pick_rows
from ieat_jax.model.names import named_leaves
from ieat_jax.model.partition import join
from ieat_jax.model.sight import Sight
from ieat_jax.model.unified import UnifiedModel
from ieat_jax.runs.folder import Run
from ieat_jax.text.chat import ChatFormat

PLATFORMS = ("cpu", "cuda", "tpu")
PARTS = ("listen.", "think.", "write.", "speak.")
PARAMETERS, SHAPES, RUNNER, TOKENIZER = "parameters.safetensors", "shapes.json", "run.py", "tokenizer"
VOICE = "speak.py"
Arrays = dict[str, jax.Array]


def write(run: Run, folder: Path, dtype: str) -> dict[str, int]:
    """Write programs, parameters and runner; {file: tensors in it}."""
    config = dataclasses.replace(run.config.model, attention="xla", remat="none")
    length = context_length(run)
    named = {name: leaf for name, leaf in named_leaves(run.model).items() if name.startswith(PARTS)}
    made = programs(config, length, named, run.config.data.shapes.groups)
    for name, program in made.items():
        (folder / f"{name}.bin").write_bytes(program.serialize())
    chat = ChatFormat.from_config(run.tokenizer, run.config.chat)
    pieces = ("system", "user_open", "user_close", "think_open", "think_close", "empty_think", "end_of_turn")
    sizes = {"context": length, "frames": _frames(config), "heard": _heard(config), "width": config.llm.width}
    sizes["frames_behind"] = config.listen.behind or 0
    told = {name: getattr(chat, name) for name in pieces}
    told |= {"system": chat.system(), "speech_system": chat.speech_system()}
    if "speak" in made:
        sizes |= {"speak": length + run.config.data.shapes.groups, "group": config.speak.group_size}
        sizes["unit_end"] = config.speak.unit_vocab_size if run.codec is None else run.codec.end_id
        memory = made["speak"].in_avals[-len(made["speak"].out_avals) + 1 :]
        one_row = [[size if isinstance(size, int) else 1 for size in leaf.shape] for leaf in memory]
        sizes["voice"] = [(shape, leaf.dtype.name) for shape, leaf in zip(one_row, memory, strict=True)]
        (folder / VOICE).write_text((Path(__file__).parent / "stablehlo_speak.py").read_text(encoding="utf-8"))
    around = {"before": chat.system() + chat.user_open, "behind": chat.user_close + chat.think_open}  # what a user says
    write_json(folder / SHAPES, sizes | {"mels": config.listen.encoder.num_mels, "tokens": told} | around)
    run.tokenizer.save(folder / TOKENIZER)
    (folder / RUNNER).write_text((Path(__file__).parent / "stablehlo_run.py").read_text(encoding="utf-8"))
    return {PARAMETERS: write_file(folder / PARAMETERS, ((n, np.asarray(leaf)) for n, leaf in named.items()), dtype)}


def _frames(config: ModelConfig) -> int:
    return round(config.listen.clip_seconds * FRAMES_PER_SECOND)


def _heard(config: ModelConfig) -> int:
    return int(adapter_length(config.listen.adapter, _frames(config)))


def programs(config: ModelConfig, length: int, named: dict[str, Any], groups: int) -> dict[str, exporting.Exported]:
    """The programs for the parameters `named`, whose shapes count.

    Prompts with their replies have up to `length` tokens, and a reply's speech up to `groups` groups of units.
    """
    model = abstract_model(config, None)
    (rows,) = exporting.symbolic_shape("b")
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in named.items()}

    def whole(parameters: Arrays) -> UnifiedModel:
        rest = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in named_leaves(model).items()}
        return join(model, rest | parameters, {})

    def array(*shape: Any, kind: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), kind)

    def listen(parameters: Arrays, mel: jax.Array, frames: jax.Array) -> jax.Array:
        return whole(parameters).listen(mel[:, None], frames[:, None])[0][:, 0].astype(jnp.float32)

    def prefill(parameters: Arrays, tokens: jax.Array, lengths: jax.Array, heard: jax.Array, place: jax.Array) -> Any:
        made = whole(parameters)
        sight = Sight.plain(jnp.arange(length) < lengths[:, None])
        caches = [part.new_cache(tokens.shape[0], length) for part in (made.think, made.write)]
        states, caches[0] = made.think(tokens, sight, heard[:, None], place, cache=caches[0])
        written, caches[1] = made.write(states, sight, cache=caches[1])
        logits = made.text_logits(pick_rows(written, lengths[:, None] - 1)[:, 0])
        return logits, states.astype(jnp.float32), _flat(caches)

    def step(parameters: Arrays, token: jax.Array, position: jax.Array, memory: list[jax.Array]) -> Any:
        made, (think, write) = whole(parameters), _caches(memory)
        sight = Sight(position[:, None], jnp.ones_like(position)[:, None])
        states, think = made.think(token[:, None], sight, cache=think)
        written, write = made.write(states, sight, cache=write)
        return made.text_logits(written[:, 0]), states[:, 0].astype(jnp.float32), _flat([think, write])

    def speak(
        parameters: Arrays, state: jax.Array, group: jax.Array, position: jax.Array, memory: list[jax.Array]
    ) -> Any:
        part = whole(parameters).speak
        fed = part.feed(state[:, None].astype(config.dtype), jnp.zeros_like(position)[:, None], group[:, None])
        (cache,) = _caches(memory)
        spoken, cache = part(fed, Sight(position[:, None], jnp.ones_like(position)[:, None]), cache=cache)
        return part.unit_logits(spoken[:, 0]), _flat([cache])

    ids = array(length, kind=jnp.int32)
    count = array(kind=jnp.int32)
    heard = array(_heard(config), config.llm.width)
    first = _export(prefill, shapes, ids, count, heard, ids)
    *_, memory = jax.eval_shape(prefill, shapes, ids, count, heard, ids)
    made = {
        "listen": _export(listen, shapes, array(_frames(config), config.listen.encoder.num_mels), count),
        "prefill": first,
        "step": _export(step, shapes, count, count, memory),
    }
    if any(name.startswith("speak.") for name in named):
        voice = jax.eval_shape(lambda: _flat([model.speak.new_cache(rows, length + groups)]))
        group = array(config.speak.group_size, kind=jnp.int32)
        made["speak"] = _export(speak, shapes, array(config.llm.width), group, count, voice)
    return made


def _export(function: Callable[..., Any], *shapes: Any) -> exporting.Exported:
    return exporting.export(jax.jit(function), platforms=PLATFORMS)(*shapes)


def _flat(caches: list[KVCache]) -> list[jax.Array]:
    return [leaf for cache in caches for leaf in jax.tree.leaves(cache)]


def _caches(memory: list[jax.Array]) -> list[KVCache]:
    size = len(jax.tree.leaves(KVCache(0, 0, Sight(0, 0, 0), 0)))
    parts = (memory[at : at + size] for at in range(0, len(memory), size))
    return [KVCache(k, v, Sight(*sight), following) for k, v, *sight, following in parts]


def cannot(run: Run) -> str | None:
    """Why a run does not fit; None: it does, as every run."""
    del run
    return None


FORMAT = Format("programs of Listen, prefill, step and Speak for any XLA runtime", write, cannot, ("float32",))
