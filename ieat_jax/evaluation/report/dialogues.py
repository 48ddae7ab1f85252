"""Dialogue by dialogue: what was heard, thought and said, with players and spectrograms."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ieat_jax.evaluation.report.folder import ScoredRun
from ieat_jax.pages.sound import player

MAX_SECONDS = 300  # of sound inside the page
RATES = (8000, 192_000)


def _player(path: Path, label: str) -> str:
    """An audio player with the file inside the page, and its spectrogram."""
    if not path.is_file():
        return _missing(label, path, "is missing")
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            if not RATES[0] <= rate <= RATES[1] or file.frames > MAX_SECONDS * rate:
                return _missing(label, path, f"is no sound of at most {MAX_SECONDS} s")
            waveform = np.nan_to_num(file.read(dtype="float32", always_2d=True).mean(axis=1))
    except (soundfile.SoundFileError, OSError, ValueError):
        return _missing(label, path, "cannot be read")
    return player(waveform, label, sample_rate=rate)


def _missing(label: str, path: Path, what: str) -> str:
    return f'<p class="quiet">{html.escape(label)}: {html.escape(path.name)} {what}</p>'


def _reply(run: ScoredRun, number: int, item: dict[str, Any]) -> str:
    gold, heard = item.get("gold_emotion"), item.get("predicted_emotion")
    tags = ""
    if gold:
        verdict = "right" if gold == heard else "wrong"
        tags = f'<span class="tag {verdict}">{html.escape(heard or "no answer")} ({verdict})</span>'
    if not item.get("think_closed", True):
        tags += '<span class="tag wrong">thinking cut at the limit</span>'
    said = item.get("sample", {}).get("said")
    player = _player(run.folder / said, f"what {run.name} said") if said else ""
    spoken = item.get("spoken_transcript")
    written = f'<p class="quiet">Whisper hears: {html.escape(spoken)}</p>' if spoken is not None else ""
    return (
        f'<div class="reply s{number % 8}"><h3>{html.escape(run.name)} {tags}</h3><div class="what">thought</div>'
        f'<p class="thought">{html.escape(item.get("think") or "(nothing)")}</p><div class="what">said</div>'
        f'<p class="said">{html.escape(item.get("text") or "(nothing)")}</p>{player}{written}</div>'
    )


def dialogues(runs: Sequence[ScoredRun]) -> str:
    """Turns for which any run kept a sample, in the order of the first run that has them."""
    by_turn: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for run in runs:
        for item in run.predictions:
            if item.get("sample"):
                by_turn.setdefault((item["dialogue_id"], item["turn_id"]), {})[run.name] = item
    return "".join(_card(runs, dialogue, turn, items) for (dialogue, turn), items in by_turn.items())


def _card(runs: Sequence[ScoredRun], dialogue: str, turn: int, items: dict[str, dict[str, Any]]) -> str:
    """One turn; `items`: the prediction of each run that has it."""
    owner = next(run for run in runs if run.name in items)
    item = items[owner.name]
    heard = item["sample"].get("heard")
    player = _player(owner.folder / heard, "what was heard") if heard else ""
    gold = item.get("gold_emotion")
    truth = f"<p>true emotion: <strong>{html.escape(gold)}</strong></p>" if gold else ""
    words = html.escape(item.get("transcript") or "")
    replies = "".join(_reply(run, number, items[run.name]) for number, run in enumerate(runs) if run.name in items)
    reference = html.escape(item.get("reference_text") or "")
    return (
        f'<article class="card dialogue"><div><h3>{html.escape(f"{dialogue}, turn {turn}")}</h3>'
        f'<div class="what">heard</div><p class="said">{words}</p>{player}{truth}'
        f'<p class="quiet">reference reply: {reference}</p></div><div>{replies}</div></article>'
    )
