"""What a run asks of its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ieat_jax.audio.logmel import FRAMES_PER_SECOND
from ieat_jax.config.sections import InjectionConfig, Shapes
from ieat_jax.data.layout import LayoutOptions
from ieat_jax.text.chat import ChatFormat


@dataclasses.dataclass(frozen=True)
class RowSpec:
    """How rows are made of records."""

    chat: ChatFormat
    clip_seconds: float  # window of a clip
    num_mels: int
    clip_positions: Callable[[int], int]  # frames of a clip -> positions of the LLM that it takes
    clip_slot: Callable[[int], int]  # frames of a clip -> frames that it takes of a window that clips share
    stride: int  # frames of a position of the LLM
    shapes: Shapes
    options: LayoutOptions
    injection: InjectionConfig
    user: str  # what the student gets of the user: 'audio', or 'text' with what the teacher would be told
    pack: int  # most dialogues that share a row
    privileged: bool  # the teacher is told what the user feels and why
    seed: int
    balance: float = 0.0  # of emotions: 0 = as they occur, 1 = about equally often
    window: int = 2048  # dialogues among which rows are planned
    behind: int | None = None  # frames behind a clip that are kept with it (`ListenConfig.behind`)

    @property
    def frames(self) -> int:
        """Frames of a clip's window."""
        return round(self.clip_seconds * FRAMES_PER_SECOND)
