"""What one training step reads: a batch of dialogues as arrays of fixed shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

# What a supervised token is. The loss weights of the kinds are small tables on the device (`objectives`).
NOT_SUPERVISED = 0
SEGMENT_KINDS = {"perceive": 1, "state": 2, "trajectory": 3, "cause": 4, "plan": 5}
FORMAT, RESPONSE, END_OF_TURN = 6, 7, 8
NUM_KINDS = 9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """B rows, each of one or several dialogues. int32 where nothing else is said; -1 = none.

    A size of 0 = that part is absent.

    Rows are trees: the trunk is what later turns see (user turns and replies, branch id 0); each supervised answer,
    with its thinking, is a branch that sees the trunk before it. All supervised positions are listed in `target_*`.
    """

    tokens: Any  # [B, T]
    positions: Any  # [B, T] RoPE position
    segment_ids: Any  # [B, T] 0 = padding, 2n + 1 = dialogue n of the row, 2n + 2 = its speech system prompt
    branch_ids: Any  # [B, T] 0 = trunk
    audio_index: Any  # [B, T] -1 = text, else c * A + a, or a where the clips share a window
    answer_ids: Any  # [B, T] response tokens: number of the answer
    mel: Any  # [B, C, F, M] float32, or [B, 1, F, M] where the clips of a row share a window
    clip_frames: Any  # [B, C] 0 = no clip
    clip_start: Any  # [B, C] frame of the row's window that a clip begins at; [B, 0]: each clip has a window of its own
    clip_emotion: Any  # [B, C] index into EMOTIONS
    target_at: Any  # [B, R] position in T whose state predicts the target
    target_ids: Any  # [B, R] token to predict
    target_kind: Any  # [B, R] for cross-entropy; 0 = no cross-entropy here
    teacher_at: Any  # [B, R] position of the teacher's state: in the teacher stream if there is one, else in T
    teacher_kind: Any  # [B, R] for distillation; 0 = none here
    answer_style: Any  # [B, K] index into STYLES
    teacher_tokens: Any  # [B, L] the teacher's stream: what the user said, as text
    teacher_positions: Any  # [B, L]
    teacher_segment_ids: Any  # [B, L]
    teacher_branch_ids: Any  # [B, L]
    speak_state: Any  # [B, S] which Think state is fed
    speak_units: Any  # [B, S, 4] which units are fed
    speak_targets: Any  # [B, S, 4] units to predict
    speak_positions: Any  # [B, S]
    speak_ids: Any  # [B, S] one segment per answer, 0 = padding
    speak_answer: Any  # [B, S] number of the answer where units are predicted
    speak_teacher: Any  # [B, S] position in S of the teacher's state
    unit_at: Any  # [B, Q] the positions in S that predict units


# Fields whose second dimension is a sequence that may be divided over the mesh's `context` axis.
SEQUENCE_FIELDS = frozenset(
    """
    tokens positions segment_ids branch_ids audio_index answer_ids teacher_tokens teacher_positions teacher_segment_ids
    teacher_branch_ids speak_state speak_units speak_targets speak_positions speak_ids speak_answer speak_teacher
    """.split()  # noqa: SIM905
)


# Padding is -1 except where that would be a value of its own.
ZERO_PADDED = frozenset(
    """
    tokens positions segment_ids branch_ids mel clip_frames target_kind teacher_kind teacher_tokens teacher_positions
    teacher_segment_ids teacher_branch_ids speak_positions speak_ids
    """.split()  # noqa: SIM905
)


def padding_like(row: Batch) -> Batch:
    """A row of padding in the shapes of `row`."""
    names = Batch.__dataclass_fields__
    return Batch(**{name: np.full_like(getattr(row, name), 0 if name in ZERO_PADDED else -1) for name in names})


def stack(rows: Sequence[Batch]) -> Batch:
    """Rows without a batch dimension -> one batch."""
    return Batch(**{name: np.stack([getattr(row, name) for row in rows]) for name in Batch.__dataclass_fields__})
