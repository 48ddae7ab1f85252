"""What a format of exports is: how it is written, and why a checkpoint may not fit into it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ieat_jax.runs.folder import Run


@dataclasses.dataclass(frozen=True)
class Format:
    """One entry of the table."""

    what: str  # it is, in a few words
    write: Callable[[Run, Path, str], dict[str, int]]  # (run, its LoRA merged; folder; dtype) -> {file: tensors}
    cannot: Callable[[Run], str | None]  # why a run does not fit into it; None: it does
    dtypes: tuple[str, ...]  # of the tensors; the first is the default
