"""Ultravox, Qwen2-Audio and AudioFlamingo3, from and to: encoder, projector and LLM in one set of tensors.

One table of projectors, used both ways; the encoder's and the LLM's names are those of `whisper.py` and `llm.py`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.interop.containers.source import (
    ArraySource,
    InteropError,
    Part,
    TensorSource,
    check_tensors,
    open_safetensors,
    read_json,
)
from ieat_jax.interop.families import llm, whisper
from ieat_jax.interop.families.audio_configs import MODEL_TYPES, listen_config
from ieat_jax.interop.families.configs import llm_config
from ieat_jax.interop.families.llm import EMBED, HEAD, LANGUAGE, Leaf
from ieat_jax.interop.families.whisper import PretrainedWhisper
from ieat_jax.interop.hub import PREFIX, weights_path
from ieat_jax.interop.verify import check_export
from ieat_jax.model.config import EncoderConfig, ListenConfig, LLMConfig, ModelConfig
from ieat_jax.model.landing import Piece, whole

TOWER, PROJECTOR = "audio_tower.", "multi_modal_projector."
OURS = "listen.adapter."
# {layout: ((ours, theirs), ...)}: norms and linear layers
_PROJECTORS = {
    "linear": (("linear1", "linear"),),
    "mlp": (("linear1", "linear_1"), ("linear2", "linear_2")),
    "mid": (("norm1", "ln_pre"), ("linear1", "linear_1"), ("norm2", "ln_mid"), ("linear2", "linear_2")),
    "post": (("norm1", "ln_pre"), ("linear1", "linear_1"), ("norm2", "ln_post"), ("linear2", "linear_2")),
    "layers": (("norm1", "ln_pre"), ("linear1", "linear_in"), ("norm2", "ln_post"), ("linear2", "linear_out")),
}


def layout_of(listen: ListenConfig) -> str:
    """The projector's layout in the table, of an adapter that a container has.

    Raises:
        InteropError: no container has the adapter.
    """
    adapter = listen.adapter
    if adapter.kind == "stack":
        return "layers" if adapter.stack_layers else "mid" if adapter.norm_mid else "post"
    if adapter.kind not in _PROJECTORS:
        raise InteropError(f"config.model.listen.adapter.kind={adapter.kind!r}: no container has this adapter")
    return adapter.kind


def projector_leaves(listen: ListenConfig, width: int) -> dict[str, Leaf]:
    """{our name within the adapter: leaf} of a projector to an LLM of this width; without its layers."""
    adapter, encoder, layout = listen.adapter, listen.encoder, layout_of(listen)
    if adapter.kind == "stack":
        hidden = encoder.width if adapter.stack_layers else adapter.hidden_width
        inner = hidden // 2 if adapter.activation == "swiglu" and not adapter.stack_layers else hidden
        stacked = adapter.stack_factor * encoder.width
        norms = {"norm1": stacked, "norm2": width if layout == "post" else inner}
        sizes = {"linear1": (stacked, hidden), "linear2": (inner, width)}
    else:
        norms, sizes = {}, {"linear1": (encoder.width, width), "linear2": (width, width)}
    biases = adapter.kind != "stack" or adapter.stack_layers > 0
    leaves = {}
    for ours, theirs in _PROJECTORS[layout]:
        if ours in norms:
            leaves[f"{ours}.scale"] = Leaf(f"{theirs}.weight", (norms[ours],), (norms[ours],), False)
            continue
        into, out = sizes[ours]
        leaves[f"{ours}.kernel"] = Leaf(f"{theirs}.weight", (into, out), (out, into), True)
        if biases:
            leaves[f"{ours}.bias"] = Leaf(f"{theirs}.bias", (out,), (out,), False)
    if layout == "layers":
        shape = (encoder.max_positions, encoder.width)
        leaves["positions"] = Leaf("embed_positions.weight", shape, shape, False)
    return leaves


def _layers(listen: ListenConfig) -> dict[str, Leaf]:
    """{our name within a layer: leaf} of a projector's layers, which are the encoder's in kind."""
    return (
        whisper.layer_leaves(listen.encoder) if listen.adapter.kind == "stack" and listen.adapter.stack_layers else {}
    )


def listen_tensors(named: Mapping[str, Any], config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, float32 array) of encoder and projector, one at a time.

    Raises:
        InteropError: parameters are missing, mis-shaped or unexpected, or no container has the adapter.
    """
    listen = config.listen
    mine = {name.removeprefix(OURS): value for name, value in named.items() if name.startswith(OURS)}
    outer, layers = projector_leaves(listen, config.llm.width), _layers(listen)
    expected = {name: leaf.shape for name, leaf in outer.items()}
    expected |= {f"layers.{name}": (listen.adapter.stack_layers, *leaf.shape) for name, leaf in layers.items()}
    check_tensors(ArraySource(mine), expected, where="listen.adapter")
    yield from whisper.to_huggingface(named, listen.encoder, prefix=TOWER)
    for name, leaf in outer.items():
        yield PROJECTOR + leaf.theirs, leaf.to_theirs(np.asarray(mine[name], np.float32))
    for name, leaf in layers.items():
        for index, row in enumerate(np.asarray(mine[f"layers.{name}"], np.float32)):
            yield f"{PROJECTOR}layers.{index}.{leaf.theirs}", leaf.to_theirs(row)


def to_container(named: Mapping[str, Any], config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, float32 array) of encoder, projector and LLM, one at a time.

    A tied head is written, too: stock classes have one of its own.

    Raises:
        InteropError: as `listen_tensors`.
    """
    yield from listen_tensors(named, config)
    for name, array in llm.to_huggingface(named, config):
        yield LANGUAGE + name, array
        if name == EMBED and config.llm.tie_embeddings:
            yield LANGUAGE + HEAD, array


@dataclasses.dataclass(frozen=True)
class PretrainedListen:
    """Listen of a container: its sizes now, weights when asked for. `llm.load_llm` gives the LLM of the same folder."""

    spec: str  # where it is
    listen: ListenConfig
    llm: LLMConfig
    source: TensorSource  # their names

    @property
    def config(self) -> EncoderConfig:
        """Sizes of the encoder."""
        return self.listen.encoder

    def shapes(self, listen: ListenConfig) -> dict[str, tuple[int, ...]]:
        """{our name: shape} of what `weights` gives, and what it checks is checked.

        Raises:
            InteropError: as `weights`.
        """
        self._check(listen)
        outer, layers = projector_leaves(self.listen, self.llm.width), _layers(self.listen)
        found = self._encoder().shapes() | {OURS + name: leaf.shape for name, leaf in outer.items()}
        count = self.listen.adapter.stack_layers
        return found | {f"{OURS}layers.{name}": (count, *leaf.shape) for name, leaf in layers.items()}

    def weights(self, listen: ListenConfig) -> Iterator[tuple[str, np.ndarray]]:
        """(our name, float32 array) of encoder and adapter; one array at a time is in memory.

        Raises:
            InteropError: `listen` is of another model, or tensors of the container are missing, mis-shaped or
                unexpected: all of them are listed before the first is read. Or one is not finite.
        """
        return whole(self.pieces(listen), self.shapes(listen))

    def pieces(self, listen: ListenConfig) -> Iterator[Piece]:
        """What `weights` gives, a layer at a time.

        Raises:
            InteropError: as `weights`.
        """
        self._check(listen)
        return self._pieces()

    def _encoder(self) -> PretrainedWhisper:
        return PretrainedWhisper(self.spec, self.listen.encoder, Part(self.source, TOWER), "")

    def _check(self, listen: ListenConfig) -> None:
        if differing := _differences(self.listen, listen):
            raise InteropError(f"{self.spec}: config.model.listen is of another model: {'; '.join(differing)}")
        expected = {f"{TOWER}{name}": shape for name, shape in whisper.their_shapes(self.listen.encoder).items()}
        for leaf in projector_leaves(self.listen, self.llm.width).values():
            expected[PROJECTOR + leaf.theirs] = leaf.their_shape
        for index in range(self.listen.adapter.stack_layers):
            for leaf in _layers(self.listen).values():
                expected[f"{PROJECTOR}layers.{index}.{leaf.theirs}"] = leaf.their_shape
        expected |= {f"{LANGUAGE}{name}": shape for name, shape in llm.their_shapes(self.llm).items()}
        ignore = rf"{re.escape(LANGUAGE)}({llm.ignored(self.llm)})"
        check_tensors(self.source, expected, where=self.spec, ignore=ignore)

    def _pieces(self) -> Iterator[Piece]:
        yield from self._encoder().pieces()
        for name, leaf in projector_leaves(self.listen, self.llm.width).items():
            array = leaf.to_ours(self.source.get(PROJECTOR + leaf.theirs))
            yield Piece(OURS + name, (0,) * array.ndim, array)
        count = self.listen.adapter.stack_layers
        yield from whisper.layer_pieces(f"{OURS}layers.", _layers(self.listen), count, self._layer)

    def _layer(self, index: int, name: str) -> np.ndarray:
        return self.source.get(f"{PROJECTOR}layers.{index}.{name}")


def _differences(theirs: ListenConfig, ours: ListenConfig) -> list[str]:
    """What of Listen is not as the container has it; how long a clip may be is free."""
    pairs = [("layer_mix", theirs.layer_mix, ours.layer_mix), ("padding", theirs.masked, ours.masked)]
    pairs += [
        (f"encoder.{item.name}", getattr(theirs.encoder, item.name), getattr(ours.encoder, item.name))
        for item in dataclasses.fields(theirs.encoder)
    ]
    fields = ["kind"]
    if theirs.adapter.kind == "stack":
        fields += ["stack_factor", "stack_layers"]
        fields += [] if theirs.adapter.stack_layers else ["hidden_width", "activation", "norm_mid"]
    pairs += [(f"adapter.{name}", getattr(theirs.adapter, name), getattr(ours.adapter, name)) for name in fields]
    return [f"{name} = {mine!r}, the weights' is {there!r}" for name, there, mine in pairs if mine != there]


def load_listen(spec: str) -> PretrainedWhisper | PretrainedListen:
    """Encoder and adapter of a folder of Ultravox, Qwen2-Audio or AudioFlamingo3; else what `load_whisper` gives.

    Raises:
        InteropError: it is not there, cannot be read, or is neither.
        ModelConfigError: sizes that cannot be built.
    """
    folder = weights_path(spec, "Whisper") if spec.startswith(PREFIX) else Path(spec)
    if not (folder / "config.json").is_file():
        return whisper.load_whisper(spec)
    where = str(folder / "config.json")
    config = read_json(where)
    if str(config.get("model_type")) not in MODEL_TYPES:
        return whisper.load_whisper(spec)
    check_export(folder)
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise InteropError(f"{where}: no text_config in it; download the file again")
    sizes = llm_config(text, where=f"{where}: text_config")
    return PretrainedListen(spec, listen_config(config, where=where), sizes, open_safetensors(folder))
