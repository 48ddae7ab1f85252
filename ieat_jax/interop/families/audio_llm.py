"""Ultravox, Qwen2-Audio and AudioFlamingo3, from and to: encoder, projector and LLM in one set of tensors.

One table of projectors, used both ways; the encoder's and the LLM's names are those of `whisper.py` and `llm.py`.
`load_listen` is the door for Listen of all kinds of folders.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.interop.containers.source import InteropError, TensorSource, check_tensors, open_safetensors, read_json
from ieat_jax.interop.families import goat_slm, llm, table, whisper
from ieat_jax.interop.families.audio_configs import listen_config
from ieat_jax.interop.families.configs import llm_config
from ieat_jax.interop.families.goat_slm import open_goat
from ieat_jax.interop.families.llm import EMBED, HEAD, LANGUAGE
from ieat_jax.interop.families.parts import inner_encoder, inner_llm, kind_of
from ieat_jax.interop.families.table import Entry, Leaf
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


def listen_table(listen: ListenConfig, width: int) -> dict[str, Entry]:
    """Encoder and projector of a container, by our names.

    Raises:
        InteropError: no container has the adapter.
    """
    found = whisper.table(listen.encoder, TOWER)
    found |= table.single(projector_leaves(listen, width), OURS, PROJECTOR)
    if listen.adapter.kind == "stack" and listen.adapter.stack_layers:  # they are the encoder's in kind
        layers, numbers = whisper.layer_leaves(listen.encoder), range(listen.adapter.stack_layers)
        found |= table.stack(layers, f"{OURS}layers.", PROJECTOR + "layers.{}.", numbers)
    return found


def listen_tensors(named: Mapping[str, Any], config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, float32 array) of encoder and projector, one at a time.

    Raises:
        InteropError: parameters are missing, mis-shaped or unexpected, or no container has the adapter.
    """
    found = listen_table(config.listen, config.llm.width)
    table.check_ours(found, named, "listen.")
    return table.write(found, named)


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
    """Encoder and adapter of a model that has more parts: their sizes now, weights when asked for.

    `llm.load_llm` gives the LLM of the same folder.
    """

    spec: str  # where it is
    listen: ListenConfig
    table: table.Table
    check: Callable[[], None]  # names and shapes of all tensors of the folder
    source: TensorSource

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
        return table.our_shapes(self.table)

    def weights(self, listen: ListenConfig) -> Iterator[tuple[str, np.ndarray]]:
        """(our name, float32 array) of encoder and adapter; one array at a time is in memory.

        Raises:
            InteropError: `listen` is of another model, or tensors of the folder are missing, mis-shaped or unexpected:
                all of them are listed before the first is read. Or some are not finite.
        """
        return whole(self.pieces(listen), self.shapes(listen))

    def pieces(self, listen: ListenConfig) -> Iterator[Piece]:
        """What `weights` gives, a layer or a block of rows at a time.

        Raises:
            InteropError: as `weights`.
        """
        self._check(listen)
        return table.pieces(self.table, self.source)

    def _check(self, listen: ListenConfig) -> None:
        if differing := _differences(self.listen, listen):
            raise InteropError(f"{self.spec}: config.model.listen is of another model: {'; '.join(differing)}")
        self.check()


def _differences(theirs: ListenConfig, ours: ListenConfig) -> list[str]:
    """What of Listen is not as the weights have it; how long a clip may be is free."""
    pairs = [("layer_mix", theirs.layer_mix, ours.layer_mix), ("padding", theirs.masked, ours.masked)]
    pairs += [
        (f"encoder.{item.name}", getattr(theirs.encoder, item.name), getattr(ours.encoder, item.name))
        for item in dataclasses.fields(theirs.encoder)
    ]
    fields = ["kind"]
    if theirs.adapter.kind == "goat":
        fields += ["num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_width", "conv_width", "rope_theta"]
    if theirs.adapter.kind == "stack":
        fields += ["stack_factor", "stack_layers"]
        fields += [] if theirs.adapter.stack_layers else ["hidden_width", "activation", "norm_mid"]
    pairs += [(f"adapter.{name}", getattr(theirs.adapter, name), getattr(ours.adapter, name)) for name in fields]
    return [f"{name} = {mine!r}, the weights' is {there!r}" for name, there, mine in pairs if mine != there]


def load_listen(spec: str) -> PretrainedWhisper | PretrainedListen:
    """Encoder and adapter of a folder (or `hf:`) of GOAT-SLM or of a container; else what `load_whisper` gives.

    Raises:
        InteropError: it is not there, cannot be read, or is neither.
        ModelConfigError: sizes that cannot be built.
    """
    folder = weights_path(spec, "Whisper") if spec.startswith(PREFIX) else Path(spec)
    if not (folder / "config.json").is_file():
        return whisper.load_whisper(spec)
    if goat := open_goat(folder, spec):
        return PretrainedListen(
            spec, goat.listen, goat_slm.listen_table(goat.listen, goat.llm.width), goat.check, goat.source
        )
    where = str(folder / "config.json")
    config = read_json(where)
    kind = kind_of(config)
    if kind is None:
        return whisper.load_whisper(spec)
    check_export(folder)
    listen = listen_config(config, kind, where=where)
    text, place, note = inner_llm(config, kind, where=where)
    sizes = llm_config(text, where=place)
    note = inner_encoder(config, kind, where=where)[2] + note
    source, found = open_safetensors(folder), listen_table(listen, sizes.width)
    check = functools.partial(_check_whole, spec + note, source, found, sizes)
    return PretrainedListen(spec, listen, found, check, source)


def _check_whole(where: str, source: TensorSource, listens: table.Table, sizes: LLMConfig) -> None:
    expected = table.their_shapes(listens) | {LANGUAGE + name: shape for name, shape in llm.their_shapes(sizes).items()}
    check_tensors(source, expected, where=where, ignore=rf"{re.escape(LANGUAGE)}({llm.ignored(sizes)})")
