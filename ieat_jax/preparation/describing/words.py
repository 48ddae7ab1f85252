"""Measures of voices as words: what is told of a clip is how it differs from its speaker's other clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ieat_jax.preparation.describing.measures import Voice

# How far from the median a clip lies that is told apart.
SEMITONES, DECIBELS, FASTER = 2.0, 4.0, 1.2
PAUSE_SECONDS = 1.0
OWN_CLIPS = 5  # a speaker of fewer has no median to be trusted: the corpus's stands in
WORDS = {
    "en": {"high": "high", "low": "low", "loud": "loud", "quiet": "quiet", "fast": "fast", "slow": "slow"},
    "zh": {"high": "高", "low": "低", "loud": "响", "quiet": "轻", "fast": "快", "slow": "慢"},
}
PAUSE = {"en": "long pause", "zh": "较长的停顿"}


def medians(voices: Iterable[tuple[str | None, Voice]]) -> dict[str | None, tuple[Voice, int]]:
    """(median, number of clips) of each speaker with OWN_CLIPS clips, and of all clips under None.

    `voices`: speaker, where known, and voice of every clip.
    """
    groups: dict[str | None, list[Voice]] = defaultdict(list)
    for speaker, voice in voices:
        groups[None].append(voice)
        if speaker is not None:
            groups[speaker].append(voice)
    return {
        speaker: (Voice(*(_median([getattr(voice, name) for voice in own]) for name in ("pitch", "level", "rate")), 0.0),
                  len(own))
        for speaker, own in groups.items()
        if speaker is None or len(own) >= OWN_CLIPS
    }  # fmt: skip


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def differences(voice: Voice, usual: Voice) -> tuple[str, ...] | None:
    """Return what a clip is beside the median `usual`: of high or low, loud or quiet, fast or slow.

    None where nothing of it could be measured.
    """
    scales = (
        (_octaves(voice.pitch, usual.pitch, 12), SEMITONES, "high", "low"),
        (None if None in (voice.level, usual.level) else voice.level - usual.level, DECIBELS, "loud", "quiet"),  # type: ignore[operator]
        (_octaves(voice.rate, usual.rate, 1), float(np.log2(FASTER)), "fast", "slow"),
    )
    if all(by is None for by, *_ in scales):
        return None
    return tuple(more if by > 0 else less for by, least, more, less in scales if by is not None and abs(by) >= least)


def _octaves(value: float | None, usual: float | None, times: float) -> float | None:
    return None if value is None or usual is None else float(times * np.log2(value / usual))


def tone(found: Sequence[str], language: str) -> str:
    """'a high, fast voice' of ('high', 'fast'), 'an ordinary voice' of none; in English or Chinese."""
    words = [_words(language)[name] for name in found]
    if language == "zh":
        listed = "".join(f"又{word}" for word in words) if len(words) > 1 else f"较{words[0]}" if words else "平常"
        return f"{listed}的声音"
    return f"a {', '.join(words)} voice" if words else "an ordinary voice"


def events(voice: Voice, language: str) -> list[str]:
    """['long pause'] of a clip with one; in English or Chinese."""
    return [PAUSE["zh" if language == "zh" else "en"]] if voice.pause >= PAUSE_SECONDS else []


def _words(language: str) -> Mapping[str, str]:
    return WORDS["zh" if language == "zh" else "en"]
