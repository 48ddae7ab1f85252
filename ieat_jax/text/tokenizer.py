"""Text to token ids and back: Hugging Face `tokenizers` and SentencePiece behind the same few methods.

Control tokens (special tokens, and tags such as `<think>` that some files list as ordinary added tokens) are placed by
the chat format through `token_id` only. `encode` never makes one out of text, so a user who writes `<|im_end|>` cannot
end their turn.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ieat_jax.errors import UserError
from ieat_jax.storage import local_path
from ieat_jax.text.checks import check_text

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|audio|>")
TOKENIZER_FILE, SENTENCEPIECE_FILE = "tokenizer.json", "tokenizer.model"
_TAG = re.compile(r"<[^\s<>]+>|\[[A-Z_]+\]")  # an added token of this form is a control token, whatever its file says


class TokenizerError(UserError):
    """A tokenizer that cannot be loaded, or lacks a token."""


class TextTokenizer(Protocol):
    """What the rest of the code needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Highest id + 1."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids that the text has inside a longer one; nothing added, no control token made out of what it says."""
        ...

    def encode_after_control(self, text: str) -> list[int]:
        """The same right behind a control token, where some tokenizers begin anew."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text; control tokens and ids beyond the vocabulary are dropped, half a character is U+FFFD."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of one token, None if there is no such token."""
        ...

    def renamed(self, names: Mapping[str, str]) -> TextTokenizer:
        """The same tokenizer with reserved tokens {old name: new name} renamed; they become control tokens."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's file into a folder."""
        ...


class Tokenizer:
    """A Hugging Face tokenizer (`tokenizer.json`)."""

    def __init__(self, backend: tokenizers.Tokenizer):
        """Takes a copy of `backend`, without the padding and truncation that some files ask for."""
        state = json.loads(backend.to_str())
        state["padding"] = state["truncation"] = None
        for token in state["added_tokens"]:
            token["special"] = _is_control(token)
        self._backend = tokenizers.Tokenizer.from_str(json.dumps(state))
        self._backend.encode_special_tokens = True  # text that spells a control token is text
        # What a file puts before a text ("▁") belongs to its beginning, which a piece of a dialogue is not.
        inner, self._begins_anew = _without_prefix(state)
        self._inner = self._backend if inner is None else tokenizers.Tokenizer.from_str(json.dumps(inner))
        self._inner.encode_special_tokens = True
        self._control = {token["id"]: token["content"] for token in state["added_tokens"] if token["special"]}
        unknown = self._backend.token_to_id(str(state["model"].get("unk_token")))  # a model may answer with it rightly
        self._forbidden = frozenset(self._control) - {unknown}
        self._spelled = _finder(self._control.values())
        self._size = 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def __reduce__(self) -> tuple[Any, ...]:
        """Through JSON: the backend's own pickle forgets `encode_special_tokens`."""
        return _from_json, (self._backend.to_str(),)

    @property
    def vocab_size(self) -> int:
        """Highest id + 1; a model's table may be larger."""
        return self._size

    def encode(self, text: str) -> list[int]:
        """Ids that the text has inside a longer one; nothing added, no control token made out of what it says.

        Raises:
            TextError: not a text, such as half of a character pair.
            TokenizerError: the vocabulary has nothing for a character of it.
        """
        return self._encode(text, self._inner)

    def encode_after_control(self, text: str) -> list[int]:
        """The same right behind a control token, where some tokenizers begin anew."""
        return self._encode(text, self._backend if self._begins_anew else self._inner)

    def _encode(self, text: str, backend: tokenizers.Tokenizer) -> list[int]:
        check_text(text.replace("\0", " ") if isinstance(text, str) else text)  # NUL is a token like another
        try:
            ids = backend.encode(text, add_special_tokens=False).ids
            if self._forbidden.isdisjoint(ids):
                return ids
            # Models whose vocabulary itself holds the control token (Unigram, WordLevel) find it: break its spelling.
            first, *others = _broken(text, self._spelled)
            ids = backend.encode(first, add_special_tokens=False).ids
            ids += [token for piece in others for token in self._inner.encode(piece, add_special_tokens=False).ids]
        except Exception as error:  # a bare one, of a vocabulary without a token for what it does not know
            raise TokenizerError(f"the tokenizer has no tokens for {text[:60]!r} ({error})") from error
        return [token for token in ids if token not in self._forbidden]

    def decode(self, ids: Iterable[int]) -> str:
        """The text; control tokens and ids beyond the vocabulary are dropped, half a character is U+FFFD."""
        return self._inner.decode([token for token in map(int, ids) if 0 <= token < self._size])

    def token_id(self, token: str) -> int | None:
        """The id of one token, None if there is no such token."""
        return self._backend.token_to_id(token)

    def renamed(self, names: Mapping[str, str]) -> Tokenizer:
        """The same tokenizer with reserved tokens {old name: new name} renamed; they become control tokens.

        A rename that was done already (the old name is gone, the new one is there) is left as it is.

        Raises:
            TokenizerError: no token has the old name, or one has the new name already.
        """
        names = _open_renames(names, self.token_id)
        if not names:
            return self
        state = json.loads(self._backend.to_str())
        ids = {old: self.token_id(old) for old in names}
        state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in names]
        state["added_tokens"] += [
            dict(
                id=ids[old], content=new, special=True, normalized=False, single_word=False, lstrip=False, rstrip=False
            )
            for old, new in names.items()
        ]
        state["added_tokens"].sort(key=lambda token: token["id"])
        vocab = state["model"].get("vocab")
        if isinstance(vocab, dict):
            state["model"]["vocab"] = {names.get(token, token): number for token, number in vocab.items()}
        elif isinstance(vocab, list):  # Unigram: [token, score], the id is the place
            state["model"]["vocab"] = [[names.get(token, token), score] for token, score in vocab]
        if state["model"].get("unk_token") in names:
            state["model"]["unk_token"] = names[state["model"]["unk_token"]]
        state["post_processor"] = None  # it adds special tokens, which `encode` never does, and may name a renamed one
        return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)))

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._backend.save(str(Path(folder) / TOKENIZER_FILE))

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """`load_tokenizer` without renames."""
        return load_tokenizer(path)


class SentencePieceTokenizer:
    """A SentencePiece model (`.model`)."""

    def __init__(self, model: bytes):
        """`model`: the bytes of the file."""
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        self._model = model
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
        for piece in proto.pieces:
            if piece.type == kinds.USER_DEFINED and _TAG.fullmatch(piece.piece):
                piece.type = kinds.CONTROL  # user-defined pieces are found in text, control pieces are not
        proto.normalizer_spec.add_dummy_prefix = False  # it belongs to the beginning of a dialogue, not to its pieces
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self._ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}

    def __reduce__(self) -> tuple[Any, ...]:
        """Through the file's bytes."""
        return SentencePieceTokenizer, (self._model,)

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self._ids)

    def encode(self, text: str) -> list[int]:
        """Ids that the text has inside a longer one; nothing added, no control token made out of what it says.

        Raises:
            TextError: not a text, such as half of a character pair.
        """
        check_text(text.replace("\0", " ") if isinstance(text, str) else text)  # NUL is a token like another
        return self._processor.encode(text, out_type=int, add_bos=False, add_eos=False)

    def encode_after_control(self, text: str) -> list[int]:
        """The same: SentencePiece begins once."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; control tokens and ids beyond the vocabulary are dropped, half a character is U+FFFD."""
        return self._processor.decode([token for token in map(int, ids) if 0 <= token < self.vocab_size])

    def token_id(self, token: str) -> int | None:
        """The id of one piece, None if there is no such piece."""
        return self._ids.get(token)

    def renamed(self, names: Mapping[str, str]) -> SentencePieceTokenizer:
        """The same tokenizer with reserved pieces {old name: new name} renamed; they become control pieces.

        A rename that was done already (the old name is gone, the new one is there) is left as it is.

        Raises:
            TokenizerError: no piece has the old name, or one has the new name already.
        """
        from sentencepiece import sentencepiece_model_pb2

        names = _open_renames(names, self.token_id)
        if not names:
            return self
        proto = sentencepiece_model_pb2.ModelProto.FromString(self._model)
        for old, new in names.items():
            piece = proto.pieces[self._ids[old]]
            piece.piece, piece.type = new, sentencepiece_model_pb2.ModelProto.SentencePiece.CONTROL
        return SentencePieceTokenizer(proto.SerializeToString())

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.model`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / SENTENCEPIECE_FILE).write_bytes(self._model)

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """`load_tokenizer` without renames."""
        return load_tokenizer(path)


def load_tokenizer(path: str | Path, rename: Mapping[str, str] | None = None) -> TextTokenizer:
    """The tokenizer of a file (`tokenizer.json`, a SentencePiece `.model`) or of a folder that holds one.

    Args:
        path: the file or folder.
        rename: reserved tokens to rename {old: new}, for files without the tokens that the chat format needs.

    Raises:
        TokenizerError: no tokenizer there, a damaged file, or a rename that cannot be done.
    """
    file = local_path(path, "tokenizer")
    if file.is_dir():
        there = [file / name for name in (TOKENIZER_FILE, SENTENCEPIECE_FILE) if (file / name).is_file()]
        if not there:
            raise TokenizerError(f"{path}: holds neither {TOKENIZER_FILE} nor {SENTENCEPIECE_FILE}")
        file = there[0]
    if not file.is_file():
        raise TokenizerError(f"{path}: there is no such file or folder")
    try:
        if file.suffix == ".model":
            tokenizer = SentencePieceTokenizer(file.read_bytes())
        else:
            tokenizer = Tokenizer(tokenizers.Tokenizer.from_file(str(file)))
    except Exception as error:  # both libraries raise bare Exception or RuntimeError for a damaged file
        raise TokenizerError(f"{file}: not a tokenizer ({error})") from error
    try:
        return tokenizer.renamed(rename) if rename else tokenizer
    except TokenizerError as error:
        raise TokenizerError(f"{file}: {error}") from error


def tokenizer_digest(tokenizer: TextTokenizer) -> str:
    """Return what tells tokenizers of other content apart."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        content = b"".join(file.read_bytes() for file in sorted(Path(folder).iterdir()))
    return hashlib.sha256(content).hexdigest()[:16]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocab_size` ids: `SPECIAL`, the 256 bytes, then merges.

    The same texts always give the same tokenizer. Digits are single tokens; every text can be encoded.

    Raises:
        TokenizerError: `vocab_size` leaves no room for the special tokens and the bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(SPECIAL) + len(alphabet)
    if vocab_size < least:
        raise TokenizerError(f"vocab_size is {vocab_size}; it must be at least {least}: special tokens and all bytes")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = byte_level(digits=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


def byte_level(*, digits: bool) -> pre_tokenizers.PreTokenizer:
    """GPT-2's words as bytes, with every digit on its own if asked for."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words]) if digits else words


def _from_json(text: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text))


def _without_prefix(state: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """The state of the same tokenizer that puts nothing before a text, and whether this one does so again and again.

    (None, False) of one that puts nothing there; again and again: behind every control token.
    """
    splitter, normalizer = state["pre_tokenizer"] or {}, state["normalizer"] or {}
    parts = splitter.get("pretokenizers", [splitter])
    schemes = {part.get("prepend_scheme") for part in parts if part.get("type") == "Metaspace"}
    prepends = any(part.get("type") == "Prepend" for part in normalizer.get("normalizers", [normalizer]))
    # Behind another splitter, "always" marks every word and not the beginning of the text.
    always = "always" in schemes and len(parts) == 1
    if not (prepends or always or "first" in schemes):
        return None, False
    inner = copy.deepcopy(dict(state))
    for part in _parts_of(inner["pre_tokenizer"], "pretokenizers"):
        if part.get("prepend_scheme") == "first" or (always and part.get("type") == "Metaspace"):
            part["prepend_scheme"] = "never"
    if prepends:
        inner["normalizer"] = {
            "type": "Sequence",
            "normalizers": [part for part in _parts_of(normalizer, "normalizers") if part.get("type") != "Prepend"],
        }
    if inner["decoder"] is not None:  # which would take the mark away again
        decoders_ = _parts_of(inner["decoder"], "decoders")
        for part in decoders_:
            if part.get("type") == "Metaspace":
                part["prepend_scheme"] = "never"
        if "decoders" in inner["decoder"]:
            inner["decoder"]["decoders"] = [
                part for part in decoders_ if not (part.get("type") == "Strip" and part.get("content") == " ")
            ]
    return inner, prepends or always


def _parts_of(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """A step of a tokenizer, or those of a sequence of steps."""
    return [] if not step else step.get(name, [step])


def _is_control(token: Mapping[str, Any]) -> bool:
    return token["special"] or _TAG.fullmatch(token["content"]) is not None


def _finder(spellings: Iterable[str]) -> re.Pattern[str]:
    """Matches (without consuming) wherever one of the spellings begins."""
    longer = [re.escape(text) for text in spellings if len(text) > 1]
    return re.compile(f"(?={'|'.join(longer)})" if longer else r"(?!)")


def _broken(text: str, spelled: re.Pattern[str]) -> Sequence[str]:
    """`text` in pieces, cut after the first character of every control token that it spells."""
    cuts = [0, *(match.start() + 1 for match in spelled.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


def _open_renames(names: Mapping[str, str], token_id: Any) -> dict[str, str]:
    """The renames still to do; raises where one cannot be done."""
    todo = {}
    for old, new in names.items():
        has_old, has_new = token_id(old) is not None, token_id(new) is not None
        if has_old and not has_new:
            todo[old] = new
        elif has_old:
            raise TokenizerError(f"rename {old!r} to {new!r}: there is a token {new!r} already; leave this rename out")
        elif not has_new:
            raise TokenizerError(f"rename {old!r} to {new!r}: there is no token {old!r}")
    if len(set(todo.values())) < len(todo):
        raise TokenizerError(f"rename: two tokens cannot get the same name ({', '.join(todo.values())})")
    return todo
