"""GOAT-SLM, from and to: names and layouts of Listen, Think, Write, Speak in one set of tensors.

Speak is the upper part of a second LLM of the same class, whose embedding, lower layers and head nobody reads: they are
written as copies of the first LLM's, so that its code finds every name, and ignored when they are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.interop.containers.source import InteropError, TensorSource, check_tensors, open_safetensors, read_json
from ieat_jax.interop.families import llm, table, whisper
from ieat_jax.interop.families.goat_config import read_goat_config
from ieat_jax.interop.families.llm import EMBED, HEAD
from ieat_jax.interop.families.llm import GOAT_LANGUAGE as LANGUAGE
from ieat_jax.interop.families.parts import GOAT, kind_of
from ieat_jax.interop.families.table import Entry, Leaf
from ieat_jax.interop.hub import weights_path
from ieat_jax.interop.verify import check_export
from ieat_jax.model.config import ListenConfig, LLMConfig, ModelConfig, SpeakConfig
from ieat_jax.model.landing import Piece, whole

GENERATOR = f"{LANGUAGE}speech_generator."
_CONVOLUTIONS = ("conv1", "conv2", "conv3")


def listen_table(listen: ListenConfig, width: int) -> dict[str, Entry]:
    """Encoder, subsampler, adapter and output norm; the LLM has this width."""
    adapter, channels = listen.adapter, listen.encoder.width
    found = whisper.table(listen.encoder, "whisper_model.")
    for number, name in enumerate(_CONVOLUTIONS):
        out = 2 * (width if name == _CONVOLUTIONS[-1] else channels)  # the gate halves it
        leaves = {
            "kernel": Leaf("weight", (5, channels, out), (out, channels, 5), True),
            "bias": Leaf("bias", (out,), (out,), False),
        }
        found |= table.single(leaves, f"listen.adapter.{name}.", f"subsampler.conv_layers.{number}.")
    if adapter.num_layers:
        sizes = LLMConfig(
            width=width,
            mlp_width=adapter.mlp_width,
            num_heads=adapter.num_heads,
            num_kv_heads=adapter.num_kv_heads,
            head_dim=adapter.head_dim,
            qkv_bias=True,
        )
        layers = llm.layer_leaves(sizes)
        found |= table.stack(layers, "listen.adapter.layers.", "adapter.layers.{}.", range(adapter.num_layers))
    scale, bias = (Leaf(name, (width,), (width,), False) for name in ("weight", "bias"))
    found |= table.single({"scale": scale}, "listen.adapter.norm.", "adapter.norm.")
    return found | table.single({"scale": scale, "bias": bias}, "listen.norm.", "speech_ln.")


def speak_table(config: LLMConfig, speak: SpeakConfig) -> dict[str, Entry]:
    """Unit embedding, the second LLM's upper layers and norm, and the unit heads."""
    units, width = speak.unit_vocab_size, config.width
    embed = Leaf("weight", (units, width), (units, width), False)
    norm = Leaf("weight", (width,), (width,), False)
    head = Leaf("weight", (width, units), (units, width), True)
    upper = range(speak.freeze_layer + 1, config.num_layers)
    return {
        "speak.embed": Entry(embed, (f"{LANGUAGE}emb_unit.weight",), False),
        **table.stack(llm.layer_leaves(config), "speak.layers.", GENERATOR + "model.layers.{}.", upper),
        **table.single({"scale": norm}, "speak.norm.", f"{GENERATOR}model.norm."),
        "speak.heads": Entry(head, tuple(f"{LANGUAGE}head_unit.{n}.weight" for n in range(speak.group_size)), True),
    }


def unread(config: LLMConfig, speak: SpeakConfig) -> dict[str, tuple[int, ...]]:
    """{their name within the second LLM: shape} of what nobody reads in it."""
    used = table.their_shapes(speak_table(config, speak))
    shapes = llm.their_shapes(config) | {HEAD: (config.vocab_size, config.width)}
    return {name: shape for name, shape in shapes.items() if GENERATOR + name not in used}


def to_goat(named: Mapping[str, Any], config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, float32 array) of the whole model, one at a time.

    Raises:
        InteropError: parameters are missing, mis-shaped or unexpected, such as LoRA's that were not merged.
    """
    listens, speaks = listen_table(config.listen, config.llm.width), speak_table(config.llm, config.speak)
    table.check_ours(listens, named, "listen.")
    table.check_ours(speaks, named, "speak.")
    yield from table.write(listens, named)
    copied = unread(config.llm, config.speak)
    for name, array in llm.to_huggingface(named, config):
        # Stock classes have a head of their own, also where it is tied.
        for each in (name, HEAD) if name == EMBED and config.llm.tie_embeddings else (name,):
            yield LANGUAGE + each, array
            if each in copied:
                yield GENERATOR + each, array
    yield from table.write(speaks, named)


@dataclasses.dataclass(frozen=True)
class Goat:
    """What a GOAT-SLM folder is: its sizes, and its tensors by their names."""

    spec: str  # where it is
    listen: ListenConfig
    llm: LLMConfig
    speak: SpeakConfig
    source: TensorSource
    note: str  # what config.json leaves to defaults

    def check(self) -> None:
        """Check the names and shapes of all tensors.

        Raises:
            InteropError: some are missing, mis-shaped or unexpected; lists them.
        """
        expected = table.their_shapes(listen_table(self.listen, self.llm.width))
        expected |= {LANGUAGE + name: shape for name, shape in llm.their_shapes(self.llm).items()}
        expected |= table.their_shapes(speak_table(self.llm, self.speak))
        unused = "|".join(name.replace(".", r"\.") for name in unread(self.llm, self.speak))
        rest = llm.ignored(self.llm)
        ignore = rf"llm_model\.(speech_generator\.)?({rest})|llm_model\.speech_generator\.({unused})"
        check_tensors(self.source, expected, where=self.spec + self.note, ignore=ignore)


@dataclasses.dataclass(frozen=True)
class PretrainedSpeak:
    """Speak of a GOAT-SLM: its sizes now, weights when asked for."""

    goat: Goat

    def shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """{our name: shape} of what `weights` gives, and what it checks is checked.

        Raises:
            InteropError: as `weights`.
        """
        self._check(config)
        return table.our_shapes(speak_table(self.goat.llm, self.goat.speak))

    def weights(self, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
        """(our name, float32 array) of Speak; one array at a time is in memory.

        Raises:
            InteropError: `config` is of another model, or tensors of the folder are missing, mis-shaped or unexpected:
                all of them are listed before the first is read. Or some are not finite.
        """
        return whole(self.pieces(config), self.shapes(config))

    def pieces(self, config: ModelConfig) -> Iterator[Piece]:
        """What `weights` gives, a layer or a block of rows at a time.

        Raises:
            InteropError: as `weights`.
        """
        self._check(config)
        return table.pieces(speak_table(self.goat.llm, self.goat.speak), self.goat.source)

    def _check(self, config: ModelConfig) -> None:
        pairs = [
            (f"{part}.{field.name}", getattr(theirs, field.name), getattr(getattr(config, part), field.name))
            for part, theirs in (("llm", self.goat.llm), ("speak", self.goat.speak))
            for field in dataclasses.fields(theirs)
            if field.name not in ("context_length", "enabled", "tie_embeddings", "vocab_size")
        ]
        differing = [f"{name} = {ours!r}, the weights' is {there!r}" for name, there, ours in pairs if ours != there]
        if differing:
            raise InteropError(f"{self.goat.spec}: config.model is of another Speak: {'; '.join(differing)}")
        self.goat.check()


def open_goat(folder: Path, spec: str = "") -> Goat | None:
    """A GOAT-SLM's folder, whose files are verified where `export` wrote them; None: it is another model's.

    Raises:
        InteropError: it cannot be read.
    """
    where = folder / "config.json"
    config = read_json(where)
    if kind_of(config) != GOAT:
        return None
    check_export(folder)
    listen, sizes, speak, note = read_goat_config(config, where=str(where))
    return Goat(spec or str(folder), listen, sizes, speak, open_safetensors(folder), note)


def load_speak(spec: str) -> PretrainedSpeak:
    """Speak of a GOAT-SLM, by its folder or `hf:ORG/NAME@REVISION`.

    Raises:
        InteropError: it is not there, cannot be read, or is another model's.
        StorageError: it is in an object store.
        ModelConfigError: sizes that cannot be built.
    """
    folder = weights_path(spec, "Speak")
    if not folder.is_dir():
        raise InteropError(
            f"{spec}: there is no such folder; Speak is given by the folder of a GOAT-SLM, or hf:ORG/NAME@REVISION"
        )
    goat = open_goat(folder, spec)
    if goat is None:
        raise InteropError(f"{spec}: not a GOAT-SLM (no llm_config in its config.json), the one family with a Speak")
    return PretrainedSpeak(goat)
