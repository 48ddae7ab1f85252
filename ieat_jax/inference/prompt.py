"""Prompts: the user's turns with their audio, tokenised by the same chat pieces as in training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from ieat_jax.errors import UserError
from ieat_jax.model.sharding import put


@dataclass(frozen=True)
class UserTurn:
    """What the user said, `audio` (a file, or a 16 kHz mono waveform), `text`, or both (audio first); later the answer."""

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
    audio_index: jax.Array  # [B,T] -1 = text, else c*A + a
    mel: jax.Array  # [B,C,F,M]
    clip_frames: jax.Array  # [B,C]
    last: jax.Array  # [B] index of the dialogue's last token
    next_position: jax.Array  # [B] RoPE position of the first generated token
    thinks: jax.Array  # [B] bool: the prompt ends inside an open think block
    active: jax.Array  # [B] bool: False = a filler row
    row_numbers: jax.Array  # [B] number of the dialogue in its request: seeds its draws


@dataclass(frozen=True)
class HostPrompt:
    """One prompt before batching. T tokens, the speech system prompt first."""

    tokens: np.ndarray  # [T]
    positions: np.ndarray  # [T]
    segment_ids: np.ndarray  # [T]
    clip_of: np.ndarray  # [T] which clip, -1 = text
    place_in_clip: np.ndarray  # [T]
    mels: tuple[np.ndarray, ...]  # per clip [F,M]
    clip_frames: tuple[int, ...]
    speech_prefix: np.ndarray  # [P] indices whose Think states Speak reads: its system prompt, then the current turn
    thinks: bool

    @property
    def clips(self) -> int:
        """Number of clips."""
        return len(self.mels)


def load_audio(audio: Path | np.ndarray, max_seconds: float) -> np.ndarray:
    """A file, or a waveform as it is -> 16 kHz mono waveform."""
    if isinstance(audio, np.ndarray):
        return audio.astype(np.float32)
    return read_audio(audio, max_seconds=max_seconds)


class PromptError(UserError):
    """A dialogue that cannot be made a prompt."""


class PromptBuilder:
    """Turns dialogues into prompts for one model and chat format."""

    def __init__(self, chat: ChatFormat, listen: ListenConfig):
        self.chat = chat
        self.listen = listen
        self.clip_seconds = listen.clip_seconds
        self.frames = round(listen.clip_seconds * FRAMES_PER_SECOND)
        self.mels = listen.encoder.num_mels
        self.positions_per_clip = int(adapter_length(listen.adapter, self.frames))

    def rules(self) -> dict:
        """The token ids that `text_decode.TextRules` needs."""
        chat = self.chat
        known = {name: chat.tokenizer.token_id(name) for name in ("<think>", "</think>", "<|im_start|>", "<|im_end|>")}
        if known["<|im_end|>"] is None:
            raise PromptError(
                "the tokenizer has no <|im_end|> token: replies would never end; use the one of the training run"
            )
        close = tuple(chat.think_close) if chat.thinks else ()
        tag = known["</think>"]
        if chat.thinks and tag not in close:
            raise PromptError(
                "the tokenizer has no </think> token, but the chat format thinks; use the one of the training run"
            )
        return {
            "end": (known["<|im_end|>"],),
            "think_tag": -1 if known["<think>"] is None else known["<think>"],
            "close_tag": -1 if tag is None else tag,
            "close": close,
            "close_after_tag": close.index(tag) + 1 if chat.thinks else 0,
            "never": () if known["<|im_start|>"] is None else (known["<|im_start|>"],),
        }

    def build(self, turns: Sequence[UserTurn], *, think: bool) -> HostPrompt:
        """The prompt that asks for an answer to the last turn; the turns before it must be answered.

        Raises:
            PromptError: no turns, an empty turn, an unanswered turn in the history, or thinking asked of a base that does not think.
            AudioError: a clip cannot be read.
        """
        if not turns:
            raise PromptError("a dialogue without turns cannot be answered")
        if think and not self.chat.thinks:
            raise PromptError(
                "this model's chat format has no think block; ask for a reply without thinking (--no-think)"
            )
        row = _Row(self)
        row.add(self.chat.speech_system(), segment=2)
        system = len(row.tokens)
        row.add(self.chat.system())
        for number, turn in enumerate(turns, 1):
            current = len(row.tokens)
            row.add_user(turn, number)
            if number < len(turns):
                if turn.response is None:
                    raise PromptError(f"turn {number} has no answer; every turn before the last needs one")
                row.add(self.chat.response(turn.response))
        if self.chat.thinks:
            row.add(self.chat.think_open if think else self.chat.empty_think)
        prefix = np.concatenate([np.arange(system), np.arange(current, len(row.tokens))])
        return HostPrompt(
            tokens=np.asarray(row.tokens, np.int32),
            positions=np.concatenate([np.arange(system), np.arange(len(row.tokens) - system)]).astype(np.int32),
            segment_ids=np.asarray(row.segments, np.int32),
            clip_of=np.asarray(row.clip_of, np.int32),
            place_in_clip=np.asarray(row.places, np.int32),
            mels=tuple(row.mels),
            clip_frames=tuple(len(mel) for mel in row.mels),
            speech_prefix=prefix.astype(np.int32),
            thinks=think,
        )


class _Row:
    """A prompt while it grows."""

    def __init__(self, builder: PromptBuilder):
        self.builder = builder
        self.tokens: list[int] = []
        self.segments: list[int] = []
        self.clip_of: list[int] = []
        self.places: list[int] = []
        self.mels: list[np.ndarray] = []

    def add(self, tokens: Sequence[int], *, segment: int = 1) -> None:
        """Append text tokens."""
        self._append(tokens, segment, -1, [0] * len(tokens))

    def add_user(self, turn: UserTurn, number: int) -> None:
        """Append a user turn and the assistant's header."""
        builder = self.builder
        if turn.audio is None and not turn.text:
            raise PromptError(f"turn {number} has neither audio nor text")
        self.add(builder.chat.user_open)
        if turn.audio is not None:
            waveform = load_audio(turn.audio, builder.clip_seconds)[: round(builder.clip_seconds * SAMPLE_RATE)]
            mel = log_mel(waveform, num_mels=builder.mels)[: builder.frames]
            count = int(adapter_length(builder.listen.adapter, len(mel)))
            clip = len(self.mels)
            self.mels.append(mel)
            self._append([builder.chat.audio_id] * count, 1, clip, range(count))
        if turn.text:
            self.add(builder.chat.tokenizer.encode(turn.text))
        self.add(builder.chat.user_close)

    def _append(self, tokens: Sequence[int], segment: int, clip: int, places: Sequence[int]) -> None:
        self.tokens += tokens
        self.segments += [segment] * len(tokens)
        self.clip_of += [clip] * len(tokens)
        self.places += places


def stack_prompts(
    prompts: Sequence[HostPrompt],
    row_numbers: Sequence[int],
    shape: tuple[int, int],
    batch: int,
    builder: "PromptBuilder",
) -> Prompt:
    """Pad prompts to [batch, T] tokens and C clips, `shape` = (T, C), and put them on the devices."""
    length, clips = shape
    tokens, positions, segments = (np.zeros((batch, length), np.int32) for _ in range(3))
    audio_index = np.full((batch, length), -1, np.int32)
    mel = np.zeros((batch, clips, builder.frames, builder.mels), np.float32)
    clip_frames = np.zeros((batch, clips), np.int32)
    last, following = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
    thinks, active = np.zeros(batch, bool), np.zeros(batch, bool)
    numbers = np.zeros(batch, np.int32)
    for row, prompt in enumerate(prompts):
        size = len(prompt.tokens)
        tokens[row, :size], positions[row, :size] = prompt.tokens, prompt.positions
        segments[row, :size] = prompt.segment_ids
        spoken = prompt.clip_of * builder.positions_per_clip + prompt.place_in_clip
        audio_index[row, :size] = np.where(prompt.clip_of >= 0, spoken, -1)
        for clip, (frames, count) in enumerate(zip(prompt.mels, prompt.clip_frames, strict=True)):
            mel[row, clip, : len(frames)], clip_frames[row, clip] = frames, count
        last[row], following[row] = size - 1, prompt.positions[-1] + 1
        thinks[row], active[row], numbers[row] = prompt.thinks, True, row_numbers[row]
    return put(
        Prompt(tokens, positions, segments, audio_index, mel, clip_frames, last, following, thinks, active, numbers),
        "batch",
    )
