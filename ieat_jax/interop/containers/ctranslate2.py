"""CTranslate2's model.bin of a Whisper: the encoder's weights under Hugging Face names, read without CTranslate2.

The file, little-endian: u32 version; name of the model's kind; u32 revision; u32 number of variables; per variable its
name, u8 rank, u32 dimensions, u8 type, u32 bytes, data; u32 number of aliases; per alias two names. A name is a u16
length, that many bytes, the last of them zero.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ieat_jax.interop.containers.source import InteropError

VERSION, KIND = 6, "WhisperSpec"
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16)  # by the file's number
HEAD_DIM = 64  # of every Whisper; for files that do not say the number of heads

# CTranslate2's name, Hugging Face's. q, k and v are the thirds of linear_0; Whisper has no bias on keys.
_OUTER = {
    "conv1/": "conv1.",
    "conv2/": "conv2.",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/": "layer_norm.",
}
_LAYER = {
    "self_attention/layer_norm/": "self_attn_layer_norm.",
    "self_attention/linear_0/": "self_attn.{}_proj.",
    "self_attention/linear_1/": "self_attn.out_proj.",
    "ffn/layer_norm/": "final_layer_norm.",
    "ffn/linear_0/": "fc1.",
    "ffn/linear_1/": "fc2.",
}
_ENDINGS = {"gamma": "weight", "beta": "bias"}


@dataclasses.dataclass(frozen=True)
class _Variable:
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int  # of its data, in the joined file
    size: int  # bytes


class _Bytes:
    """The bytes of files that are read as one, mapped and not loaded."""

    def __init__(self, paths: Sequence[Path]):
        self.name = " + ".join(map(str, paths))
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise InteropError(f"{', '.join(missing)}: there is no such file")
        self.files = [
            np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8) for path in paths
        ]
        self.size = sum(file.size for file in self.files)

    def check(self, end: int, what: str) -> None:
        if end > self.size:
            raise InteropError(
                f"{self.name}: cut off: {what} would end at byte {end}, the file has {self.size}; get it again"
            )

    def read(self, start: int, size: int, what: str) -> bytes:
        self.check(start + size, what)
        found, first = [], 0
        for file in self.files:
            found.append(file[max(start - first, 0) : max(start + size - first, 0)].tobytes())
            first += file.size
        return b"".join(found)


class _Reader:
    """Walks through the file."""

    def __init__(self, data: _Bytes):
        self.data, self.at = data, 0

    def take(self, size: int, what: str) -> bytes:
        self.at += size
        return self.data.read(self.at - size, size, what)

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def name(self, what: str) -> str:
        where = self.at
        text = self.take(self.number(2, what), what)
        if not re.fullmatch(rb"[\x20-\x7e]+\0", text):
            raise InteropError(f"{self.data.name}: damaged: byte {where} should begin {what}; get it again")
        return text[:-1].decode()


class CTranslate2File:
    """The encoder of one Whisper; a `TensorSource` of the names of Hugging Face's `WhisperEncoder`, without prefix."""

    def __init__(self, *paths: str | Path):
        """Reads the headers of `paths`, which hold one file in this order.

        Raises:
            InteropError: no such file, cut off, damaged, not a Whisper, quantised.
        """
        self._data = _Bytes([Path(path) for path in paths])
        self._variables = _variables(self._data)
        integers = [name for name, item in self._variables.items() if item.dtype.kind == "i" and item.shape]
        quantised = [name for name in integers if name.startswith("encoder/")]
        if quantised:
            raise InteropError(
                f"{self._data.name}: {len(quantised)} encoder tensors are quantised, such as {quantised[0]}: "
                "convert the model with --quantization float16 or float32"
            )
        self._where = dict(self._find())
        missing = [name for name in ("conv1.weight", "embed_positions.weight") if name not in self._where]
        if missing:
            raise InteropError(f"{self._data.name}: holds no Whisper encoder: {', '.join(missing)} not found")

    def _find(self) -> Iterator[tuple[str, tuple[str, int | None]]]:
        """(Hugging Face name, (variable, which third or None)) of every encoder tensor, known or not."""
        for variable, item in self._variables.items():
            rest = variable.removeprefix("encoder/")
            if rest == variable or not item.shape:  # the decoder; settings
                continue
            layer = re.fullmatch(r"layer_(\d+)/(.*)", rest)
            prefix, table, rest = (f"layers.{layer[1]}.", _LAYER, layer[2]) if layer else ("", _OUTER, rest)
            start = next((start for start in table if rest.startswith(start)), None)
            if start is None:
                yield variable, (variable, None)
                continue
            ending = rest.removeprefix(start)
            name = prefix + table[start] + _ENDINGS.get(ending, ending)
            if "{}" not in name:
                yield name, (variable, None)
                continue
            for third, letter in enumerate("qkv"):
                if (letter, ending) != ("k", "bias"):
                    yield name.format(letter), (variable, third)

    @property
    def config(self) -> dict[str, Any]:
        """Return the encoder's part of a Hugging Face `WhisperConfig`.

        Raises:
            InteropError: the shapes are not those of a Whisper encoder.
        """
        convolution, positions = self.shape("conv1.weight"), self.shape("embed_positions.weight")
        if (len(convolution), len(positions)) != (3, 2):
            raise InteropError(f"{self._data.name}: conv1 of shape {convolution}, positions of shape {positions}")
        width, mels, _ = convolution
        heads = self._variables.get("encoder/num_heads")
        layers = {name.split(".")[1] for name in self._where if name.startswith("layers.")}
        return dict(
            model_type="whisper",
            encoder_layers=len(layers),
            d_model=width,
            encoder_attention_heads=int(self._read("encoder/num_heads")) if heads else width // HEAD_DIM,
            encoder_ffn_dim=self.shape("layers.0.fc1.weight")[0],
            num_mel_bins=mels,
            max_source_positions=positions[0],
        )

    def names(self) -> list[str]:
        """Hugging Face names of the encoder's tensors."""
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return its shape, without reading it.

        Raises:
            InteropError: there is no such tensor.
        """
        if name not in self._where:
            raise InteropError(f"{self._data.name}: {name} is missing")
        variable, third = self._where[name]
        first, *rest = self._variables[variable].shape
        return (first if third is None else first // 3, *rest)

    def get(self, name: str) -> np.ndarray:
        """The tensor, float32.

        Raises:
            InteropError: it holds numbers that are not finite, or a bias on keys.
        """
        variable, third = self._where[name]
        array = self._read(variable)
        if not np.all(np.isfinite(array)):
            raise InteropError(
                f"{self._data.name}: damaged: {variable} holds numbers that are not finite; get it again"
            )
        if third is None:
            return array
        parts = np.split(array, 3)
        if array.ndim == 1 and np.any(parts[1]):
            raise InteropError(f"{self._data.name}: {variable} holds a bias on keys, which Whisper does not have")
        return parts[third]

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(0, the tensor): all of it at once."""
        yield 0, self.get(name)

    def _read(self, variable: str) -> np.ndarray:
        item = self._variables[variable]
        data = self._data.read(item.start, item.size, variable)
        return np.frombuffer(data, item.dtype).reshape(item.shape).astype(np.float32)


def _variables(data: _Bytes) -> dict[str, _Variable]:
    """Every variable, aliases included."""
    reader = _Reader(data)
    version = reader.number(4, "the version")
    if version != VERSION:
        raise InteropError(f"{data.name}: not a CTranslate2 model of format {VERSION} (its first number is {version})")
    kind = reader.name("the model's kind")
    if kind != KIND:
        raise InteropError(f"{data.name}: a CTranslate2 {kind}, not a {KIND}")
    reader.number(4, "the revision")
    variables = {}
    for index in range(reader.number(4, "the number of variables")):
        name = reader.name(f"the name of variable {index}")
        rank = reader.number(1, name)
        shape = tuple(reader.number(4, name) for _ in range(rank))
        number, size = reader.number(1, name), reader.number(4, name)
        dtype = np.dtype(DTYPES[number]) if number < len(DTYPES) else None
        if dtype is None or size != math.prod(shape) * dtype.itemsize:
            raise InteropError(f"{data.name}: damaged: {name} of shape {shape}, type {number}, in {size} bytes")
        variables[name] = _Variable(shape, dtype, reader.at, size)
        reader.at += size
        data.check(reader.at, name)
    for index in range(reader.number(4, "the number of aliases")):
        alias, target = reader.name(f"alias {index}"), reader.name(f"the target of alias {index}")
        if target not in variables:
            raise InteropError(f"{data.name}: damaged: {alias} stands for {target}, which is not there")
        variables[alias] = variables[target]
    if reader.at != data.size:
        raise InteropError(f"{data.name}: damaged: {data.size - reader.at} bytes after its end; get it again")
    return variables
