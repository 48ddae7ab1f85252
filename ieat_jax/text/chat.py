"""The chat format (ChatML with a think block) as token ids.

Every piece is tokenised on its own, so that training, which joins the pieces of a whole dialogue, and inference, which
adds them as they come, give identical ids.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ieat_jax.ranges import Section, flag, text
from ieat_jax.text.tokenizer import TextTokenizer, TokenizerError

START, END = "<|im_start|>", "<|im_end|>"
THINK, END_THINK = "<think>", "</think>"
AUDIO = "<|audio|>"


@dataclass(frozen=True)
class ChatConfig(Section):
    """How dialogues are written for the LLM."""

    AT: ClassVar[str] = "config.chat"
    thinks: bool = flag(True)  # answers begin with a think block
    system_text: str = text("You are a helpful assistant.")  # of Think and Write
    speech_system_text: str = text("You are a helpful assistant.")  # of Speak


@dataclass(frozen=True)
class ChatFormat:
    """Pieces of a dialogue, each a list of ids.

    Raises a TokenizerError when the tokenizer lacks a control token that the format needs.
    """

    tokenizer: TextTokenizer
    thinks: bool  # answers begin with a think block, perhaps an empty one
    system_text: str  # what Think and Write are told
    speech_system_text: str = "You are a helpful assistant."  # what Speak is told, as in GOAT-SLM

    def __post_init__(self) -> None:
        needed = (START, END, THINK, END_THINK) if self.thinks else (START, END)
        missing = [token for token in needed if self.tokenizer.token_id(token) is None]
        if missing:
            unless = "" if START in missing or END in missing else ", or set config.chat.thinks = False"
            raise TokenizerError(
                f"the tokenizer has no {', '.join(missing)}: rename reserved tokens by config.tokenizer.rename{unless}"
            )

    @classmethod
    def from_config(cls, tokenizer: TextTokenizer, chat: ChatConfig) -> ChatFormat:
        """Return the format that a run's section `config.chat` asks for."""
        return cls(tokenizer, chat.thinks, chat.system_text, chat.speech_system_text)

    def system(self) -> list[int]:
        r"""`<|im_start|>system\n{system_text}<|im_end|>\n`."""
        return list(self._pieces["system"])

    def speech_system(self) -> list[int]:
        """The same with `speech_system_text`."""
        return list(self._pieces["speech_system"])

    @property
    def user_open(self) -> list[int]:
        r"""`<|im_start|>user\n`; the user's audio and text follow."""
        return list(self._pieces["user_open"])

    @property
    def user_close(self) -> list[int]:
        r"""`<|im_end|>\n<|im_start|>assistant\n`; the answer follows."""
        return list(self._pieces["user_close"])

    @property
    def think_open(self) -> list[int]:
        r"""`<think>\n`; empty where the format does not think."""
        return list(self._pieces["think_open"])

    @property
    def think_close(self) -> list[int]:
        r"""`\n</think>\n\n`; empty where the format does not think."""
        return list(self._pieces["think_close"])

    @property
    def empty_think(self) -> list[int]:
        r"""`<think>\n\n</think>\n\n`: thinking off; empty where the format does not think."""
        return list(self._pieces["empty_think"])

    def response(self, text: str) -> list[int]:
        r"""`{text}<|im_end|>\n`: an answer, as history."""
        return [*self.tokenizer.encode(text), *self.response_close]

    @property
    def response_close(self) -> list[int]:
        r"""`<|im_end|>\n`: what follows an answer that is history."""
        return list(self._pieces["response_close"])

    @functools.cached_property
    def end_of_turn(self) -> int:
        """The id of `<|im_end|>`."""
        return self.tokenizer.token_id(END)

    @functools.cached_property
    def audio_id(self) -> int:
        """What stands at audio positions: `<|audio|>`, else `<|im_start|>`; its embedding is never read."""
        audio = self.tokenizer.token_id(AUDIO)
        return self.tokenizer.token_id(START) if audio is None else audio

    @functools.cached_property
    def _pieces(self) -> dict[str, tuple[int, ...]]:
        newline = "\n"
        pieces = {
            "system": (START, f"system\n{self.system_text}", END, newline),
            "speech_system": (START, f"system\n{self.speech_system_text}", END, newline),
            "user_open": (START, "user\n"),
            "user_close": (END, newline, START, "assistant\n"),
            "response_close": (END, newline),
            "think_open": (THINK, newline) if self.thinks else (),
            "think_close": (newline, END_THINK, "\n\n") if self.thinks else (),
            "empty_think": (THINK, "\n\n", END_THINK, "\n\n") if self.thinks else (),
        }
        return {name: tuple(self._encode(parts)) for name, parts in pieces.items()}

    def _encode(self, parts: Sequence[str]) -> list[int]:
        """Ids of control tokens (given by exactly their name) and texts."""
        control = (START, END, THINK, END_THINK)
        ids = []
        for before, part in itertools.pairwise((None, *parts)):
            if part in control:
                ids.append(self.tokenizer.token_id(part))
            elif before in control:
                ids += self.tokenizer.encode_after_control(part)
            else:
                ids += self.tokenizer.encode(part)
        return ids
