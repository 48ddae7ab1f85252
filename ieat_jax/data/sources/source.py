"""What a source of records is to those who train on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ieat_jax.data.records import Record
from ieat_jax.data.sources.index import Index


class Source(Protocol):
    """Records that lie on disk, read one at a time from any thread. Small when it is pickled: paths, no open files."""

    key: str  # its name in config.data.sources
    name: str  # its file or folder, for messages
    weight: float  # share of the mixture
    index: Index  # what is known of all records without reading them

    def __len__(self) -> int:
        """How many records."""
        ...

    def record(self, number: int) -> Record:
        """Read a record.

        Raises:
            DataError: what lies there is not the record that the index tells of.
        """
        ...

    def place(self, number: int) -> str:
        """Where a record stands, for messages: file, line, id."""
        ...

    def samples(self, number: int, turn: int, max_seconds: float) -> int:
        """How many samples `waveform` of turn `turn`, from 0, returns at most, by what can be known without decoding.

        Raises:
            AudioError: what is wrong with it, with the codes of `ieat_jax.audio.files.read_audio`.
        """
        ...

    def waveform(self, number: int, turn: int, max_seconds: float) -> np.ndarray:
        """Read the recording of a turn: float32 [samples], mono at 16 kHz.

        Raises:
            AudioError: with the codes of `ieat_jax.audio.files.read_audio`.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """What it is made of: number of records, hashes over all that they say and refer to, and the weight.

        `hash` is over what stands beside the turns, and units; `content` over every word, label and path; `audio` over
        every recording. A run goes on over sources of the same identity alone.
        """
        ...

    def bad(self) -> Iterator[tuple[str, str, str]]:
        """(place, code, message) of what the index left out."""
        ...
