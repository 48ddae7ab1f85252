"""How well the quotes of causes agree with those of people: F1 of their words, as RECCON counts it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ieat_jax.data.records import Record

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_]+(?:['’][^\W_]+)*")
Quotes = Sequence[tuple[int, str]]  # (turn_id, quote)


def words_of(quotes: Quotes) -> Counter[tuple[int, str]]:
    """(turn_id, word) of quotes: small letters, no punctuation; a Chinese character is a word."""
    found: Counter[tuple[int, str]] = Counter()
    for turn_id, quote in dict.fromkeys(quotes):
        found.update((turn_id, word) for word in _WORD.findall(quote.lower()))
    return found


def span_f1(gold: Quotes, said: Quotes) -> float:
    """F1 of the words of two sets of quotes, 0 to 1; the same word in another turn is another one."""
    one, other = words_of(gold), words_of(said)
    both = sum((one & other).values())
    return 2 * both / (sum(one.values()) + sum(other.values())) if both else 0.0


def compared(pairs: Sequence[tuple[Record, int, Quotes | None]]) -> dict[str, float]:
    """Figures of turns whose cause people quoted: (record, turn from 0, quotes that the LLM gave or None).

    `f1` is the mean over turns (nothing said = 0) with its interval of 95 % over drawn dialogues, `exact` the share
    with the same words, `said` that with any quote. `f1_whole_turn` is what the user's whole turn as the quote gets.
    """
    gold = [_gold(record, index) for record, index, _ in pairs]
    scores = [span_f1(one, said or ()) for one, (_, _, said) in zip(gold, pairs, strict=True)]
    exact = [words_of(one) == words_of(said or ()) for one, (_, _, said) in zip(gold, pairs, strict=True)]
    whole = [
        span_f1(one, [(record.turns[index].turn_id, record.turns[index].text)])
        for one, (record, index, _) in zip(gold, pairs, strict=True)
    ]
    low, high = _interval([record.dialogue_id for record, _, _ in pairs], scores)
    return {
        "turns": len(pairs),
        "f1": float(np.mean(scores)),
        "f1_low": low,
        "f1_high": high,
        "exact": float(np.mean(exact)),
        "said": float(np.mean([bool(said) for _, _, said in pairs])),
        "f1_whole_turn": float(np.mean(whole)),
    }


def _gold(record: Record, index: int) -> Quotes:
    cause = record.turns[index].cause
    return () if cause is None else cause.evidence


def _interval(dialogues: Sequence[str], scores: Sequence[float], draws: int = 1000) -> tuple[float, float]:
    """Of the mean, over drawn dialogues: turns of a dialogue are alike."""
    _, owner = np.unique(np.asarray(dialogues), return_inverse=True)
    sums, counts = np.bincount(owner, weights=scores), np.bincount(owner)
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(counts), size=(draws, len(counts)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
