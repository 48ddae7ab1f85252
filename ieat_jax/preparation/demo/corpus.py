"""The demo corpus: spoken dialogues from templates, in six rule-rendered prosody classes, reproducible from a seed."""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ieat_jax.errors import UserError
from ieat_jax.preparation.demo import text as words
from ieat_jax.preparation.demo.voice import REPLY_PROSODY, REST, USER_PROSODY, Prosody
from ieat_jax.progress import counted

SPLITS = ("train", "validation", "test")
# Single clips with neutral words per emotion, in a corpus of half an hour and more; smaller ones get a share.
PROBE_CLIPS = {"validation": 12, "test": 40}
DIALOGUES = {"validation": 12, "test": 36}
FULL_HOURS = 0.5


@dataclass(frozen=True)
class Job:
    """One file to be spoken."""

    path: str
    text: str
    prosody: Prosody
    seed: int


class Planner:
    """Writes the records of one split and collects what is to be spoken; dialogues of kind 'text' have no audio."""

    def __init__(self, split: str, seed: int):
        self.split = split
        self.source = split if split in SPLITS else "train"
        self.rng = np.random.default_rng([seed, (*SPLITS, "text").index(split)])
        self.jobs: dict[str, Job] = {}
        self.records: list[dict] = []
        self._deck: list[str] = []

    def emotion(self) -> str:
        """The next emotion of a shuffled deck, so that classes stay balanced."""
        if not self._deck:
            self._deck = [str(emotion) for emotion in self.rng.permutation(words.EMOTIONS)]
        return self._deck.pop()

    def pick(self, options):
        """One of `options`, uniformly."""
        return options[int(self.rng.integers(len(options)))]

    def neutral_words(self, turns: int, *, emotion: str | None = None, language: str = "en", kind="neutral_words"):
        """Add a dialogue whose words are the same in every emotion; half of the turns change the emotion."""
        lines = []
        current = emotion or self.emotion()
        for number in range(turns):
            if number and self.rng.random() < 0.5:
                current = self.emotion()
            text, topic = self._carrier(language)
            lines.append((text, current, self._reply(current, topic, language), None))
        self._add(lines, kind, language)

    def congruent(self, turns: int, *, language: str = "en", kind="congruent"):
        """Add a dialogue that states causes: a turn with a cause, then carriers in its mood or a further cause."""
        lines = []
        cause_turn = cause = emotion = None
        for number in range(1, turns + 1):
            if cause is None or self.rng.random() < 0.4:
                emotion = self.emotion()
                cause, cause_turn = self.pick(self._causes(emotion, language)), number
                reply = self.pick(words.OPENERS[language][emotion]) + _gap(language) + cause.closer
                text = cause.text
            else:
                text, topic = self._carrier(language)
                reply = self._reply(emotion, topic, language)
            lines.append((text, emotion, reply, (cause.quote, cause_turn)))
        self._add(lines, kind, language)

    def _causes(self, emotion: str, language: str) -> list[words.Cause]:
        causes = words.CAUSES[language][emotion]
        if language == "zh":
            return causes
        return {"train": causes[:-3], "validation": causes[-3:-2], "test": causes[-2:]}[self.source]

    def _carrier(self, language: str) -> tuple[str, str | None]:
        """A carrier sentence and the thing or place it is about, if any."""
        frame = self.pick(words.CARRIERS_ZH if language == "zh" else words.CARRIERS[self.source])
        places = self.rng.permutation(words.PLACES[language])[:2]
        things = self.rng.permutation(words.THINGS[language])[:2]
        time = self.pick(words.TIMES[language])
        text = frame.format(place=places[0], place2=places[1], thing=things[0], thing2=things[1], time=time)
        topics = [str(slot[0]) for name, slot in (("{thing}", things), ("{place}", places)) if name in frame]
        return text, topics[0] if topics else None

    def _reply(self, emotion: str, topic: str | None, language: str) -> str:
        closers = [c for c in words.CLOSERS[language][emotion] if topic is not None or "{topic}" not in c]
        closer = self.pick(closers).format(topic=topic)
        return self.pick(words.OPENERS[language][emotion]) + _gap(language) + closer

    def _add(self, lines: list[tuple], kind: str, language: str) -> None:
        dialogue_id = f"demo_{self.split}_{len(self.records):05d}"
        spoken = kind != "text"
        turns = []
        for turn_id, (text, emotion, reply, cause) in enumerate(lines, 1):
            turn = {"turn_id": turn_id, "text": text, "emotion": emotion, "response_text": reply}
            label = {"label": emotion, "source": "gold"}
            if spoken:
                path = f"audio/{dialogue_id}_{turn_id}.flac"
                turn["split_audio_file"], intensity = path, self._user_job(path, text, emotion)
                turn["response_audio"] = self._reply_job(reply, words.RESPONSE_STYLE[emotion])
                if emotion != "neutral":
                    label["intensity"] = intensity_word(intensity)
            ieat = {"emotion": label, "tone": self.pick(words.TONES[language][emotion])}
            if cause is None:
                ieat["cause"] = None
            else:
                quote, where = cause
                ieat["cause"] = {"text": quote, "evidence": [{"turn_id": where, "quote": quote}], "source": "gold"}
            ieat["response"] = {"emotion": words.RESPONSE_STYLE[emotion]}
            turns.append(turn | {"ieat": ieat})
        meta = {"language": language, "kind": kind} | ({"speaker": "hibari"} if spoken else {})
        self.records.append({"dialogue_id": dialogue_id, "turns": turns, "ieat_meta": meta})

    def _user_job(self, path: str, text: str, emotion: str) -> float:
        intensity = float(self.rng.uniform(0.6, 1.0))
        prosody = USER_PROSODY[emotion].scaled(intensity, REST).jittered(self.rng)
        self.jobs[path] = Job(path, text, prosody, int(self.rng.integers(2**31)))
        return intensity

    def _reply_job(self, text: str, style: str) -> str:
        """Replies are spoken without jitter, once per text and style: the assistant is one calm actor."""
        key = hashlib.sha256(f"{style}|{text}".encode()).hexdigest()[:12]
        path = f"audio/reply_{key}.flac"
        self.jobs[path] = Job(path, text, REPLY_PROSODY[style], int(key[:8], 16))
        return path


def _gap(language: str) -> str:
    return "" if language == "zh" else " "


def intensity_word(intensity: float) -> str:
    """The word for a rendering intensity in 0.6..1."""
    return "strong" if intensity > 0.87 else "moderate" if intensity > 0.73 else "slight"


def estimated_seconds(job: Job) -> float:
    """Duration by the number of letters, to plan a corpus before it is spoken (within some per cent on the whole)."""
    return 0.12 + 0.05 * len(job.text) / job.prosody.speed


def plan(seed: int, hours: float) -> dict[str, Planner]:
    """Records and jobs of the three spoken splits, sized to about `hours` of distinct audio."""
    share = min(1.0, hours / FULL_HOURS)
    planners = {}
    for split in ("test", "validation"):
        planner = planners[split] = Planner(split, seed)
        for _ in range(max(1, round(PROBE_CLIPS[split] * share))):
            for emotion in words.EMOTIONS:
                planner.neutral_words(1, emotion=emotion)
        for number in range(max(2, round(DIALOGUES[split] * share))):
            (planner.congruent if number % 2 else planner.neutral_words)(2 + number // 2 % 3)
    train = planners["train"] = Planner("train", seed)
    jobs = {path: job for planner in planners.values() for path, job in planner.jobs.items()}
    seconds = sum(map(estimated_seconds, jobs.values()))
    while seconds < hours * 3600 or not train.records:
        turns = int(train.rng.choice([1, 2, 3, 4], p=[0.45, 0.3, 0.2, 0.05]))
        (train.congruent if train.rng.random() < 0.3 else train.neutral_words)(turns)
        new = {path: job for path, job in train.jobs.items() if path not in jobs}
        seconds += sum(map(estimated_seconds, new.values()))
        jobs |= new
    return planners


def plan_text(seed: int, count: int) -> list[dict]:
    """`count` text-only dialogues, English and Chinese in turn, from the words of the train split."""
    planner = Planner("text", seed)
    for number in range(count):
        language = ("en", "zh")[number % 2]
        make = planner.congruent if number % 4 < 2 else planner.neutral_words
        make(int(planner.rng.integers(1, 4)), language=language, kind="text")
    return planner.records


def build_demo(
    out_dir: str | os.PathLike,
    *,
    seed: int = 0,
    hours: float = 1.0,
    text_dialogues: int = 4000,
    workers: int | None = None,
) -> dict:
    """Write the corpus to `out_dir` (new or empty) and return its figures.

    `hours` of distinct audio over all splits; `workers` processes speak (default: all cores). Files: train.jsonl,
    validation.jsonl, test.jsonl, text.jsonl, audio/*.flac (16 kHz), README.md. The same seed gives the same bytes.
    Built next to `out_dir` and moved there when complete, so that an interrupted run leaves no half corpus.

    Raises:
        UserError: a size out of its range, or `out_dir` is in use.
    """
    out = Path(out_dir)
    if not 0.01 <= hours <= 100:
        raise UserError(f"hours={hours}: the demo corpus can be 0.01 to 100 hours long")
    if text_dialogues < 1:
        raise UserError(f"text_dialogues={text_dialogues}: at least one is needed")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; remove it, or choose another folder for the demo corpus")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "audio").mkdir(parents=True)
    planners = plan(seed, hours)
    jobs = {path: job for planner in planners.values() for path, job in planner.jobs.items()}
    seconds = dict(counted(_speak_all(partial, list(jobs.values()), workers), "sentences spoken", len(jobs)))
    for split, planner in planners.items():
        _write_records(partial / f"{split}.jsonl", planner.records)
    texts = plan_text(seed, text_dialogues)
    _write_records(partial / "text.jsonl", texts)
    summary = _summary(planners, texts, seconds, seed)
    (partial / "README.md").write_text(_readme(summary), encoding="utf-8")
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return summary


def _speak_all(folder: Path, jobs: list[Job], workers: int | None) -> Iterator[tuple[str, float]]:
    """Speak all jobs; (path, seconds) in the order of the jobs, whatever the number of workers."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    arguments = [(str(folder), job) for job in jobs]
    if workers == 1:
        yield from map(_speak_one, arguments)
        return
    # Spawned, not forked: the caller may run threads (JAX, onnxruntime) that a fork would leave in a broken state.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_speak_one, arguments, chunksize=16)


def _speak_one(argument: tuple[str, Job]) -> tuple[str, float]:
    import soundfile

    from ieat_jax.audio.files import SAMPLE_RATE
    from ieat_jax.preparation.demo.voice import speak

    folder, job = argument
    try:
        waveform = speak(job.text, job.prosody, job.seed)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{job.path}: {job.text!r} cannot be spoken ({type(error).__name__}: {error})") from error
    soundfile.write(Path(folder) / job.path, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return job.path, len(waveform) / SAMPLE_RATE


def _write_records(path: Path, records: Iterable[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _summary(planners: dict[str, Planner], texts: list[dict], seconds: dict[str, float], seed: int) -> dict:
    """Figures of the corpus, for the README and the console."""
    splits = {}
    for split in SPLITS:
        records, jobs = planners[split].records, planners[split].jobs
        turns = [turn for record in records for turn in record["turns"]]
        splits[split] = {
            "dialogues": len(records),
            "turns": len(turns),
            "emotions": dict(Counter(turn["emotion"] for turn in turns)),
            "user_minutes": sum(seconds[turn["split_audio_file"]] for turn in turns) / 60,
            "reply_minutes": sum(seconds[turn["response_audio"]] for turn in turns) / 60,
            "files": len(jobs),
            "probe_clips": sum(len(r["turns"]) == 1 and r["ieat_meta"]["kind"] == "neutral_words" for r in records),
        }
    return {
        "seed": seed,
        "hours": sum(seconds.values()) / 3600,
        "longest_clip": max(seconds.values()),
        "splits": splits,
        "text_dialogues": len(texts),
    }


def _readme(summary: dict) -> str:
    rows = "\n".join(
        f"| {split} | {s['dialogues']} | {s['turns']} | {s['user_minutes']:.1f} | {s['reply_minutes']:.1f} "
        f"| {s['probe_clips']} |"
        for split, s in summary["splits"].items()
    )
    return f"""# ieat_jax demo corpus (seed {summary["seed"]})

Spoken dialogues made by a program, to try and test a training run without any download.

- The words are ieat_jax's own templates; the voice is hibari-tts (Apache-2.0), **one synthetic voice** for user and
  assistant. Figures on this corpus say nothing about other speakers.
- "Emotions" are **prosody classes rendered by rules** (F0, rate, level, spectral tilt, breath, tremor) and named after
  emotions. Nobody felt them and nobody checked them by ear. **No claim about human emotion follows from them.**
- `neutral_words`: the same carrier sentences in every class, so that words do not give the class away. `congruent`: a
  sentence states the cause. No sentence frame and no English cause of validation or test occurs in train.
- Replies depend on the class that was heard; equal replies share one file.
- `text.jsonl` holds {summary["text_dialogues"]} dialogues without audio, English and Chinese, for the text warm-up.

{summary["hours"]:.2f} hours of distinct audio, 16 kHz mono FLAC, longest clip {summary["longest_clip"]:.1f} s.

| split | dialogues | turns | user minutes | reply minutes (repeats counted) | single neutral-word clips |
|---|---|---|---|---|---|
{rows}
"""
