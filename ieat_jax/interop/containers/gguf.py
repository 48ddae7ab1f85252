"""GGUF files (llama.cpp): dequantised weights under Hugging Face names, the configuration, and the tokenizer."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ieat_jax.errors import UserError
from ieat_jax.interop.containers.source import InteropError, finite
from ieat_jax.text.tokenizer import Tokenizer, byte_level

FAMILIES = ("llama", "qwen2", "qwen3")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # tokenizer.ggml.token_type
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# How text is cut into words, by tokenizer.ggml.pre (llama.cpp, llama-vocab.cpp).
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
COMPOSED = ("qwen2",)  # whose text is normalised to composed characters (NFC) before
_PLAIN, _DIGITS = ("gpt-2", "default"), ("smollm",)
_REGEX = {"qwen2": _WORDS % "", "llama-bpe": _WORDS % "{1,3}", "llama3": _WORDS % "{1,3}"}
WORDS = (*_PLAIN, *_DIGITS, *_REGEX)


def open_gguf(path: str | Path) -> GGUFFile:
    """Open a file; the header is read, tensors when asked for.

    Raises:
        InteropError: no such file, not GGUF, cut off, or an architecture that is not Llama, Qwen2 or Qwen3.
    """
    path = Path(path)
    if not path.is_file():
        raise InteropError(f"{path}: there is no such file")
    status = path.stat()
    return GGUFFile(path, _reader(path, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)  # parsing a vocabulary takes seconds; the key changes with the file
def _reader(path: Path, modified: int, size: int) -> Any:
    del modified, size
    try:
        import gguf
    except ImportError as error:
        raise InteropError(f"{path}: reading GGUF needs its package: pip install 'ieat_jax[demo]'") from error
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InteropError(f"{path}: not a GGUF file")
    with _reading(path):
        return gguf.GGUFReader(path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes of the libraries that read it is a sentence."""
    try:
        yield
    except (UserError, NotImplementedError):
        raise
    except Exception as error:  # gguf raises what numpy and struct raise, tokenizers a bare Exception
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise InteropError(f"{path}: cut off or damaged ({text[0]:.200}); download it again") from error


class GGUFFile:
    """A `TensorSource` with Hugging Face names, and what else the file tells."""

    def __init__(self, path: Path, reader: Any):
        self._path, self._reader = path, reader
        with _reading(path):
            self._tensors = {huggingface_name(tensor.name): tensor for tensor in reader.tensors}
        self.family = self._field("general.architecture")
        if self.family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise InteropError(f"{path}: architecture {self.family!r} is not supported, only {known}")
        if "rope_freqs.weight" in self._tensors or self._hyper("rope.scaling.type", "none") != "none":
            raise InteropError(f"{path}: scaled RoPE cannot be read from GGUF; use the model's Hugging Face folder")

    def names(self) -> list[str]:
        """Every tensor's Hugging Face name."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, in Hugging Face's order: GGUF stores it reversed.

        Raises:
            InteropError: there is no such tensor.
        """
        if name not in self._tensors:
            raise InteropError(f"{self._path}: {name} is missing")
        return tuple(int(size) for size in self._tensors[name].shape[::-1])

    def get(self, name: str) -> np.ndarray:
        """Return the tensor as float32; q and k of Llamas with their rows in Hugging Face's order.

        Raises:
            InteropError: its quantisation is not known.
        """
        import gguf

        tensor, shape = self._tensors[name], self.shape(name)
        try:
            with _reading(self._path):
                array = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(shape)
        except NotImplementedError as error:
            raise InteropError(f"{self._path}: {tensor.name}: {error}") from error
        finite(array, self._path, tensor.name)
        heads = {"q": "num_attention_heads", "k": "num_key_value_heads"}
        projection = re.fullmatch(r".*\.self_attn\.([qk])_proj\.weight", name)
        if self.family == "llama" and projection:  # llama.cpp rotates neighbours, Hugging Face halves
            count = self.config[heads[projection.group(1)]]
            array = paired_rows(array, count, back=True)
        return array

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(0, the tensor): all of it at once."""
        yield 0, self.get(name)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """A Hugging Face config.json."""
        with _reading(self._path):
            return self._config()

    def _config(self) -> dict[str, Any]:
        heads, width = self._hyper("attention.head_count"), self._hyper("embedding_length")
        return dict(
            model_type=self.family,
            vocab_size=self.shape("model.embed_tokens.weight")[0],
            hidden_size=width,
            intermediate_size=self._hyper("feed_forward_length"),
            num_hidden_layers=self._hyper("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=self._hyper("attention.head_count_kv", heads),
            head_dim=self._hyper("attention.key_length", width // heads),
            max_position_embeddings=self._hyper("context_length"),
            # The shortest decimal of the stored float32: 1e-05, not 9.999999747378752e-06.
            rms_norm_eps=float(str(np.float32(self._hyper("attention.layer_norm_rms_epsilon")))),
            rope_theta=float(self._hyper("rope.freq_base", 1e4)),
            tie_word_embeddings="lm_head.weight" not in self._tensors,
        )

    def tokenizer(self) -> Tokenizer:
        """The byte-level BPE tokenizer in the file.

        Raises:
            InteropError: another kind of tokenizer, words are cut in a way that is not known here, or it is damaged.
        """
        with _reading(self._path):
            return self._tokenizer()

    def _tokenizer(self) -> Tokenizer:
        kind, words = self._field("tokenizer.ggml.model"), self._field("tokenizer.ggml.pre", "default")
        if kind != "gpt2" or words not in WORDS:
            raise InteropError(
                f"{self._path}: its tokenizer ({kind}, {words}) cannot be rebuilt; give one by config.tokenizer.path"
            )
        tokens = self._field("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in self._field("tokenizer.ggml.merges")]
        kinds = self._field("tokenizer.ggml.token_type")
        unused = {number for number, kind in enumerate(kinds) if kind == UNUSED}  # they fill a table of more rows
        vocab = {token: number for number, token in enumerate(tokens) if number not in unused}
        llama3 = words in ("llama-bpe", "llama3")
        backend = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=llama3))
        backend.decoder = decoders.ByteLevel()
        backend.pre_tokenizer = word_splitter(words)
        if words in COMPOSED:
            backend.normalizer = normalizers.NFC()
        added = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)]
        backend.add_tokens(
            [tokenizers.AddedToken(token, special=kind == CONTROL, normalized=False) for token, kind in added]
        )
        return Tokenizer(backend)

    def _hyper(self, name: str, default: Any = None) -> Any:
        """A hyperparameter: a field under the architecture's name."""
        return self._field(f"{self.family}.{name}", default)

    def _field(self, name: str, default: Any = None) -> Any:
        with _reading(self._path):
            field = self._reader.get_field(name)
            value = default if field is None else field.contents()
        if value is None:
            raise InteropError(f"{self._path}: the file does not say {name}")
        return value


def word_splitter(words: str) -> pre_tokenizers.PreTokenizer:
    """How text is cut into words, by a name of WORDS."""
    if words not in _REGEX:
        return byte_level(digits=words in _DIGITS)
    split = pre_tokenizers.Split(tokenizers.Regex(_REGEX[words]), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def huggingface_name(name: str) -> str:
    """Of a GGUF tensor; a name that is not known stays as it is."""
    block, layer = re.fullmatch(r"(blk\.(\d+)\.)?.*", name).groups()
    stem, _, kind = name.removeprefix(block or "").rpartition(".")
    if stem not in NAMES:
        return name
    return f"model.layers.{layer}.{NAMES[stem]}.{kind}" if block else f"{NAMES[stem]}.{kind}"


def gguf_name(name: str) -> str:
    """Of a Hugging Face tensor: the inverse of `huggingface_name`."""
    block, layer = re.fullmatch(r"(model\.layers\.(\d+)\.)?.*", name).groups()
    stem, _, kind = name.removeprefix(block or "").rpartition(".")
    theirs = {ours: theirs for theirs, ours in NAMES.items()}[stem]
    return f"blk.{layer}.{theirs}.{kind}" if block else f"{theirs}.{kind}"


def paired_rows(array: np.ndarray, heads: int, *, back: bool = False) -> np.ndarray:
    """Rows of q or k [heads * D, width] from Hugging Face's order, which rotates halves, to neighbours; or back."""
    halves = (heads, -1, 2) if back else (heads, 2, -1)
    return array.reshape(*halves, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
