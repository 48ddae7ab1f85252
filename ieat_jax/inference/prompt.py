"""Prompts: the user's turns with their audio, tokenised by the same chat pieces as in training."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ieat_jax.audio.files import MIN_SECONDS, SAMPLE_RATE, AudioError, count_samples, read_audio
from ieat_jax.audio.logmel import clip_log_mel
from ieat_jax.data.tree import TokenTree, add_user, open_answer, open_dialogue
from ieat_jax.errors import UserError
from ieat_jax.model.adapters import adapter_length
from ieat_jax.model.config import ListenConfig
from ieat_jax.model.sharding import put
from ieat_jax.text.chat import ChatFormat

MOST_TRIMMED_SECONDS = 3600.0  # of a recording whose beginning is wanted, so that no file fills the memory


@dataclass(frozen=True)
class UserTurn:
    """What the user said as `audio` (a file or a 16 kHz mono waveform), `text` or both (audio first); the answer."""

    audio: Path | np.ndarray | None = None
    text: str = ""
    response: str | None = None

    def answered(self, response: str) -> "UserTurn":
        """The turn as history."""
        return replace(self, response=response)


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Prompt:
    """A batch of prompts on the device. Segment 1 is the dialogue, segment 2 the speech system prompt, 0 padding."""

    tokens: jax.Array  # [B,T]
    positions: jax.Array  # [B,T]
    segment_ids: jax.Array  # [B,T]
    audio_index: jax.Array  # [B,T] -1 = text, else index into `heard`
    heard: jax.Array  # [B,T,D] Listen's positions of all clips of the row, one after the other; [B,0,D] without any
    last: jax.Array  # [B] index of the dialogue's last token
    next_position: jax.Array  # [B] RoPE position of the first generated token
    thinks: jax.Array  # [B] bool: the prompt ends inside an open think block
    active: jax.Array  # [B] bool: False = a filler row
    row_numbers: jax.Array  # [B] number of the dialogue in its request: seeds its draws
    max_response: jax.Array  # [B] the reply is cut there, if not by `TextRules.max_response` before


@dataclass(frozen=True)
class HostPrompt:
    """One prompt before batching. T tokens, the speech system prompt first where speech is asked for."""

    tokens: np.ndarray  # [T]
    positions: np.ndarray  # [T]
    segment_ids: np.ndarray  # [T]
    audio_index: np.ndarray  # [T] -1 = text, else counted over all clips
    clips: tuple[np.ndarray, ...]  # log-mels [F,M], and what Listen reads behind them
    speech_prefix: np.ndarray  # [P] indices whose Think states Speak reads: its system prompt, then the current turn
    thinks: bool


class PromptError(UserError):
    """A dialogue that cannot be made a prompt."""


def load_audio(audio: Path | str | np.ndarray, max_seconds: float, *, trim: bool = False) -> np.ndarray:
    """Read a file of at most `max_seconds`, or take a waveform as it is -> 16 kHz mono waveform [samples].

    Of a longer clip `trim` keeps the beginning.

    Raises:
        AudioError: the file cannot be read, or it is longer than the model hears.
        PromptError: a waveform that is too short or too long, or of another shape or type, or that holds NaN or
            infinity.
    """
    if isinstance(audio, str | os.PathLike):
        with _naming_the_field(max_seconds):
            heard = read_audio(audio, max_seconds=MOST_TRIMMED_SECONDS if trim else max_seconds)
        return heard[: round(max_seconds * SAMPLE_RATE)]
    if not isinstance(audio, np.ndarray) or audio.dtype.kind != "f":
        kind = f"an array of {audio.dtype}" if isinstance(audio, np.ndarray) else type(audio).__name__
        raise PromptError(
            f"{kind} cannot be heard; give a sound file, or a waveform as an array of floats between -1 and 1"
        )
    if audio.ndim != 1 or len(audio) < MIN_SECONDS * SAMPLE_RATE:
        raise PromptError(
            f"a waveform of shape {audio.shape} cannot be heard; it must be [samples] at 16 kHz, "
            f"{MIN_SECONDS:g} s or longer"
        )
    if len(audio) > round(max_seconds * SAMPLE_RATE) and not trim:
        raise PromptError(f"a waveform of {len(audio) / SAMPLE_RATE:.1f} s: {_hears(max_seconds)}")
    if not np.isfinite(audio).all():
        raise PromptError("a waveform with NaN or infinity in it cannot be heard")
    return audio.astype(np.float32)[: round(max_seconds * SAMPLE_RATE)]


def check_length(audio: Path | str, max_seconds: float) -> None:
    """Check by its headers alone that the model hears the whole of a sound file.

    Raises:
        AudioError: it is longer, or its headers show that it cannot be read.
    """
    with _naming_the_field(max_seconds):
        count_samples(audio, max_seconds=max_seconds)


def _hears(max_seconds: float) -> str:
    return f"this model hears at most {max_seconds:g} s of a clip (config.model.listen.clip_seconds of its run)"


@contextmanager
def _naming_the_field(max_seconds: float) -> Iterator[None]:
    """Inside, a clip that is too long for the model is told with the field that says what it hears."""
    try:
        yield
    except AudioError as error:
        if error.code != "too_long":
            raise
        raise AudioError("too_long", error.path, f"{error.message}; {_hears(max_seconds)}") from error


class PromptBuilder:
    """Turns dialogues into prompts for one model and chat format."""

    def __init__(self, chat: ChatFormat, listen: ListenConfig):
        self.chat = chat
        self.listen = listen

    def rules(self) -> dict[str, Any]:
        """The token ids that `text_decode.TextRules` needs."""
        chat = self.chat
        known = {name: chat.tokenizer.token_id(name) for name in ("<think>", "</think>", "<|im_start|>")}
        close, tag = tuple(chat.think_close), known["</think>"]
        return {
            "end": (chat.end_of_turn,),
            "think_tag": -1 if known["<think>"] is None else known["<think>"],
            "close_tag": -1 if tag is None else tag,
            "close": close,
            "close_after_tag": close.index(tag) + 1 if chat.thinks else 0,
            "never": () if known["<|im_start|>"] is None else (known["<|im_start|>"],),
        }

    def build(self, turns: Sequence[UserTurn], *, think: bool, speech: bool = True) -> HostPrompt:
        """The prompt that asks for an answer to the last turn; the turns before it must be answered.

        `speech`: the answer will be spoken, so that Speak's system prompt is needed.

        Raises:
            PromptError: no turns, an empty turn, an unanswered turn in the history, or thinking asked of a base that
                does not think.
            AudioError: a clip cannot be read.
        """
        if not turns:
            raise PromptError("a dialogue without turns cannot be answered")
        if think and not self.chat.thinks:
            raise PromptError(
                "this model's chat format has no think block; ask for a reply without thinking (--no-think)"
            )
        tree, clips = TokenTree(), []
        system = open_dialogue(tree, self.chat, 0, speech=speech)
        heard = 0  # audio positions so far
        for number, turn in enumerate(turns, 1):
            clip = None
            if turn.audio is None and not turn.text:
                raise PromptError(f"turn {number} has neither audio nor text")
            if turn.audio is not None:
                clips.append(self._mel(turn.audio))
                frames = len(clips[-1]) - (self.listen.behind or 0)
                clip = int(adapter_length(self.listen.adapter, frames)), heard
                heard += clip[0]
            current = add_user(
                tree, self.chat, clip=clip, text=self.chat.tokenizer.encode(turn.text) if turn.text else ()
            )
            if number < len(turns):
                if turn.response is None:
                    raise PromptError(f"turn {number} has no answer; every turn before the last needs one")
                tree.add(self.chat.response(turn.response))
        open_answer(tree, self.chat, 1, thinks=think)
        return HostPrompt(
            tokens=np.asarray(tree.tokens, np.int32),
            positions=np.asarray(tree.positions, np.int32),
            segment_ids=np.asarray(tree.segments, np.int32),
            audio_index=np.asarray(tree.audio, np.int32),
            clips=tuple(clips),
            speech_prefix=np.asarray([*system, *range(current.start, len(tree))], np.int32),
            thinks=think,
        )

    def _mel(self, audio: Path | str | np.ndarray) -> np.ndarray:
        """A clip's log-mel [F, M], and what Listen reads behind it."""
        listen = self.listen
        waveform = load_audio(audio, listen.clip_seconds)
        return clip_log_mel(
            waveform, num_mels=listen.encoder.num_mels, window_seconds=listen.clip_seconds, behind=listen.behind
        )


def stack_prompts(
    prompts: Sequence[HostPrompt],
    heard: Sequence[Sequence[np.ndarray]],
    row_numbers: Sequence[int],
    *,
    length: int,
    batch: int,
    max_response: int,
) -> Prompt:
    """Pad prompts to [batch, length] tokens and put them on the devices; `heard`: their clips' positions [A,D]."""
    tokens, positions, segments = (np.zeros((batch, length), np.int32) for _ in range(3))
    audio_index = np.full((batch, length), -1, np.int32)
    last, following, numbers = (np.zeros(batch, np.int32) for _ in range(3))
    thinks, active = np.zeros(batch, bool), np.zeros(batch, bool)
    clips = [clip for row in heard for clip in row]
    audio = np.zeros((batch, length, *clips[0].shape[1:]), clips[0].dtype) if clips else np.zeros((batch, 0, 1))
    for row, prompt in enumerate(prompts):
        size = len(prompt.tokens)
        tokens[row, :size], positions[row, :size] = prompt.tokens, prompt.positions
        segments[row, :size], audio_index[row, :size] = prompt.segment_ids, prompt.audio_index
        if heard[row]:
            joined = np.concatenate(heard[row])
            audio[row, : len(joined)] = joined
        last[row], following[row] = size - 1, prompt.positions[-1] + 1
        thinks[row], active[row], numbers[row] = prompt.thinks, True, row_numbers[row]
    limits = np.full(batch, max_response, np.int32)
    return put(
        Prompt(tokens, positions, segments, audio_index, audio, last, following, thinks, active, numbers, limits),
        "batch",
    )
