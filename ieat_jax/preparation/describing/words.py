"""Measures of voices as words: what is told of a clip is how it differs from its speaker's other clips.

Many corpora are brought to one peak or one level, Emo-DB to a peak of full scale: their levels say nothing of how loud
somebody spoke, an angry voice even has the lower one. There loudness is read from the spectrum, which shows the effort,
unless a clip stands out in its peak and its level alike and its spectrum does not show the opposite.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ieat_jax.preparation.describing.measures import Voice

# How far from the median a clip lies that is told apart.
SEMITONES, DECIBELS, FASTER = 2.0, 4.0, 1.2
PAUSE_SECONDS = 1.0
LEVELLED = 0.5  # dB between the quartiles of peaks or levels that nobody's voice keeps to by itself
OWN_CLIPS = 5  # a speaker of fewer has no median to be trusted: the corpus's stands in
WORDS = {
    "en": {"high": "high", "low": "low", "loud": "loud", "quiet": "quiet", "fast": "fast", "slow": "slow"},
    "zh": {"high": "高", "low": "低", "loud": "响", "quiet": "轻", "fast": "快", "slow": "慢"},
}
PAUSE = {"en": "long pause", "zh": "较长的停顿"}


@dataclasses.dataclass(frozen=True)
class Usual:
    """What clips are compared with."""

    voice: Voice  # medians
    clips: int
    levelled: bool  # the clips were brought to one peak or level


def medians(voices: Iterable[tuple[str | None, Voice]]) -> dict[str | None, Usual]:
    """What is usual for each speaker with OWN_CLIPS clips, and for all clips under None.

    `voices`: speaker, where known, and voice of every clip.
    """
    groups: dict[str | None, list[Voice]] = defaultdict(list)
    for speaker, voice in voices:
        groups[None].append(voice)
        if speaker is not None:
            groups[speaker].append(voice)
    return {speaker: _usual(own) for speaker, own in groups.items() if speaker is None or len(own) >= OWN_CLIPS}


def _usual(voices: Sequence[Voice]) -> Usual:
    known = {
        name: [value for value in (getattr(voice, name) for voice in voices) if value is not None]
        for name in ("pitch", "level", "peak", "effort", "rate")
    }
    spread = [np.subtract(*np.percentile(known[name], [75, 25])) for name in ("level", "peak") if known[name]]
    middle = {name: float(np.median(values)) if values else None for name, values in known.items()}
    levelled = len(voices) >= OWN_CLIPS and any(by < LEVELLED for by in spread)
    return Usual(Voice(**middle, pause=0.0), len(voices), levelled)


def differences(voice: Voice, usual: Usual) -> tuple[str, ...] | None:
    """Return what a clip is beside what is usual: of high or low, loud or quiet, fast or slow.

    None where nothing of it could be measured.
    """
    middle = usual.voice
    scales = (
        (_octaves(voice.pitch, middle.pitch, 12), SEMITONES, "high", "low"),
        (_louder(voice, usual), DECIBELS, "loud", "quiet"),
        (_octaves(voice.rate, middle.rate, 1), float(np.log2(FASTER)), "fast", "slow"),
    )
    if all(by is None for by, *_ in scales):
        return None
    return tuple(more if by > 0 else less for by, least, more, less in scales if by is not None and abs(by) >= least)


def _louder(voice: Voice, usual: Usual) -> float | None:
    """How many dB louder a clip is; of a corpus without levels of its own, how much more effort it shows."""
    middle = usual.voice
    level, peak, effort = (
        None if one is None or other is None else one - other
        for one, other in ((voice.level, middle.level), (voice.peak, middle.peak), (voice.effort, middle.effort))
    )
    if not usual.levelled or level is None or peak is None or effort is None:
        return effort if usual.levelled else level
    stands_out = min(level * np.sign(peak), abs(peak)) >= DECIBELS
    gain_alone = effort * np.sign(level) < -DECIBELS / 2  # a shout that was recorded at a lower gain, say
    return level if stands_out and not gain_alone else effort


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
