"""A row as lists, which grow, and as arrays, which are padded to the shapes that every row has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ieat_jax.audio.codec import GROUP_SIZE
from ieat_jax.config.sections import Shapes
from ieat_jax.data.batch import ZERO_PADDED, Batch
from ieat_jax.data.tree import TokenTree


@dataclasses.dataclass(frozen=True)
class Clip:
    """A user's voice: `mel` [F, M], `behind` of them behind the clip, and how many positions of the LLM it takes."""

    mel: np.ndarray
    positions: int
    emotion: int  # index into EMOTIONS, -1 = unknown
    slot: int = 0  # frames that it takes of a window that clips share
    behind: int = 0

    @property
    def frames(self) -> int:
        """Frames of the clip itself."""
        return len(self.mel) - self.behind


class Lists:
    """What a row holds; `Batch` says what each part is."""

    def __init__(self) -> None:
        self.tree, self.teacher = TokenTree(), TokenTree()
        self.targets: list[tuple[int, int, int, int, int]] = []  # at, id, kind, teacher at, teacher kind
        self.clips: list[Clip] = []
        self.starts: list[int] = []  # of the clips, in a window that they share
        self.styles: list[int] = []
        self.speak: list[tuple[int, list[int], list[int], int, int, int, int]] = []
        self.groups: list[int] = []  # positions of Speak that predict units

    def lists(self) -> tuple[list[Any], ...]:
        """All of them but the trees."""
        return self.targets, self.clips, self.starts, self.styles, self.speak, self.groups


def empty_row(shapes: Shapes, *, frames: int, mels: int) -> Batch:
    """A row of padding, without a batch dimension: the shapes and types of every row of these `shapes`."""
    return to_arrays(Lists(), shapes, teacher=False, frames=frames, mels=mels)


def to_arrays(row: Lists, shapes: Shapes, *, teacher: bool, frames: int, mels: int) -> Batch:
    """Pad the lists of a row to arrays: a `Batch` without its first dimension.

    `teacher`: with the teacher's stream; `frames` = F of a window of its own, `mels` = M.
    """
    tree, taught = row.tree, row.teacher if teacher else TokenTree()

    def padded(name: str, values: Sequence, size: int, *tail: int) -> np.ndarray:
        array = np.full((size, *tail), 0 if name in ZERO_PADDED else -1, np.int32)
        if len(values):
            array[: len(values)] = values
        return array

    def columns(rows: list[tuple], count: int) -> list[tuple]:
        return list(zip(*rows, strict=True)) if rows else [()] * count

    shared = bool(shapes.frames and shapes.clips)
    mel = np.zeros((1, shapes.frames, mels) if shared else (shapes.clips, frames, mels), np.float32)
    for number, clip in enumerate(row.clips):
        window, start = (0, row.starts[number]) if shared else (number, 0)
        mel[window, start : start + len(clip.mel)] = clip.mel[: mel.shape[1] - start]  # nothing stands behind a window
    at, ids, kind, teacher_at, teacher_kind = columns(row.targets, 5)
    state, fed, wanted, place, spoken, answer, speak_teacher = columns(row.speak, 7)
    sequences = {
        "tokens": (tree.tokens, shapes.tokens),
        "positions": (tree.positions, shapes.tokens),
        "segment_ids": (tree.segments, shapes.tokens),
        "branch_ids": (tree.branches, shapes.tokens),
        "audio_index": (tree.audio, shapes.tokens),
        "answer_ids": (tree.answers, shapes.tokens),
        "clip_frames": ([clip.frames for clip in row.clips], shapes.clips),
        "clip_start": (row.starts if shared else [], shapes.clips if shared else 0),
        "clip_emotion": ([clip.emotion for clip in row.clips], shapes.clips),
        "target_at": (at, shapes.targets),
        "target_ids": (ids, shapes.targets),
        "target_kind": (kind, shapes.targets),
        "teacher_at": (teacher_at, shapes.targets),
        "teacher_kind": (teacher_kind, shapes.targets),
        "answer_style": (row.styles, shapes.answers),
        "teacher_tokens": (taught.tokens, shapes.teacher_tokens),
        "teacher_positions": (taught.positions, shapes.teacher_tokens),
        "teacher_segment_ids": (taught.segments, shapes.teacher_tokens),
        "teacher_branch_ids": (taught.branches, shapes.teacher_tokens),
        "speak_state": (state, shapes.speak),
        "speak_positions": (place, shapes.speak),
        "speak_ids": (spoken, shapes.speak),
        "speak_answer": (answer, shapes.speak),
        "speak_teacher": (speak_teacher, shapes.speak),
        "unit_at": (row.groups, shapes.groups),
    }
    groups = {"speak_units": fed, "speak_targets": wanted}
    return Batch(
        mel=mel,
        **{name: padded(name, values, size) for name, (values, size) in sequences.items()},
        **{name: padded(name, values, shapes.speak, GROUP_SIZE) for name, values in groups.items()},
    )
