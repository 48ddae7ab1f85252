"""Score one checkpoint on held-out dialogues: metrics.json, predictions.jsonl and audio samples."""

import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.audio.files import MIN_SECONDS, SAMPLE_RATE
from ieat_jax.data.injection import parse_thinking
from ieat_jax.data.labels import EMOTIONS
from ieat_jax.errors import UserError
from ieat_jax.evaluation.items import Item, read_items, spread
from ieat_jax.evaluation.measures.controls import balanced_sources
from ieat_jax.evaluation.measures.styles import style_of
from ieat_jax.evaluation.statistics import confusion, content_recall, proportion, uar
from ieat_jax.inference.generator import Generator, Limits, Reply
from ieat_jax.inference.prompt import UserTurn


class ScoreError(UserError):
    """Records or options with which nothing can be scored."""


@dataclass(frozen=True)
class ScoreOptions:
    """What `evaluate score` measures; see its `--help`."""

    step: int | None = None
    audio_root: Path | None = None
    limit: int = 0
    think: bool = True
    controls: bool = True
    speak: int = 32
    asr: bool = True
    samples: int = 8
    batch_size: int = 32
    max_think: int = 160
    max_response: int = 80
    max_speech_seconds: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """A reply and what its thinking says."""

    reply: Reply
    emotion: int  # index into EMOTIONS, -1 = none that counts
    readable: bool  # the thinking was closed by the model and holds nothing but known sentences
    cause: str


def understand(reply: Reply) -> Answer:
    """Read a reply's thinking; one that was not closed by the model counts as no answer."""
    thought = parse_thinking(reply.think_text)
    readable = bool(reply.think_closed and thought["valid"])
    label = thought["emotion"] if reply.think_closed else None
    return Answer(reply, EMOTIONS.index(label) if label in EMOTIONS else -1, readable, thought["cause"] or "")


def score(checkpoint: Path, records: Path, out: Path, options: ScoreOptions) -> dict:
    """Score a run and write the folder; returns the metrics.

    Raises:
        UserError: the checkpoint, the records or all of their audio cannot be used.
    """
    from ieat_jax.runs.folder import load_run

    started = time.perf_counter()
    run = load_run(checkpoint, step=options.step)
    limits = Limits(options.max_think, options.max_response, options.max_speech_seconds)
    generator = Generator.from_run(run, limits=limits, batch_size=options.batch_size, seed=options.seed)
    items, skipped = read_items(records, options.audio_root, generator.config.listen.clip_seconds, options.limit)
    _report_skipped(records, items, skipped)

    # First, because units of another codec are an error.
    units = unit_metrics(run, generator, records, options)
    spoken = chosen_to_speak(generator, len(items), options)
    replies = reply_all(generator, items, spoken, options)
    answers = [understand(reply) for reply in replies]
    metrics = {
        "checkpoint": str(checkpoint),
        "stage": run.stage,
        "step": run.step,
        "records": str(records),
        "n": len(items),
        "skipped": len(skipped),
        "think": options.think,
        **text_metrics(items, answers, options),
    }
    if options.controls and options.think:
        metrics["controls"] = control_metrics(generator, items, options)
    transcripts = {}
    if spoken and options.asr:
        metrics["speech"], transcripts = speech_metrics(answers, spoken)
    if units["n"]:
        metrics["units"] = units
    metrics["seconds"] = round(time.perf_counter() - started, 1)
    write_scores(out, checkpoint, metrics, items, answers, transcripts, options)
    return metrics


def _report_skipped(records: Path, items: Sequence[Item], skipped: Sequence[tuple[str, str]]) -> None:
    for name, reason in skipped[:10]:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    if len(skipped) > 10:
        print(f"... and {len(skipped) - 10} more", file=sys.stderr)
    if not items:
        raise ScoreError(f"{records}: no turn can be scored ({len(skipped)} skipped); check the file and --audio-root")


def text_metrics(items: Sequence[Item], answers: Sequence[Answer], options: ScoreOptions) -> dict:
    """Everything that is read from thinking and reply text."""
    metrics: dict = {"response_ended": proportion([answer.reply.response_ended for answer in answers])}
    styled = [
        style_of(answer.reply.text) == item.style for item, answer in zip(items, answers, strict=True) if item.style
    ]
    if styled:
        metrics["style"] = proportion(styled)
    if not options.think:
        return metrics
    metrics["think_format"] = proportion([answer.readable for answer in answers])
    probed = [answer.readable for item, answer in zip(items, answers, strict=True) if item.scores_emotion]
    if probed and len(probed) < len(items):
        metrics["think_format_scored"] = proportion(probed)
    labelled = [
        (item.emotion, answer.emotion) for item, answer in zip(items, answers, strict=True) if item.scores_emotion
    ]
    if labelled:
        gold, predicted = zip(*labelled, strict=True)
        counts = confusion(gold, predicted, len(EMOTIONS))
        metrics["emotion"] = uar(gold, predicted, len(EMOTIONS), seed=options.seed).as_dict() | {
            "accuracy": float(np.mean(np.equal(gold, predicted))),
            "classes": list(EMOTIONS),
            "confusion": counts.tolist(),
        }
    recalls = [
        content_recall(item.cause, answer.cause or answer.reply.think_text)
        for item, answer in zip(items, answers, strict=True)
        if item.cause
    ]
    recalls = [recall for recall in recalls if recall is not None]
    if recalls:
        metrics["cause"] = {"value": float(np.mean(recalls)), "n": len(recalls)}
    conflicts = [
        answer.emotion == item.words_emotion
        for item, answer in zip(items, answers, strict=True)
        if item.scores_emotion and item.words_emotion not in (-1, item.emotion)
    ]
    if conflicts:
        metrics["text_dominance"] = proportion(conflicts)
    return metrics


def control_metrics(generator: Generator, items: Sequence[Item], options: ScoreOptions) -> dict:
    """UAR when the voice is silent, and when it is another clip's."""
    scored = [item for item in items if item.scores_emotion]
    if len(scored) < 2:
        return {}
    gold = [item.emotion for item in scored]
    voices = [item.turns[-1].audio for item in scored]
    # Equally long for all: the length of a clip tells about the voice, too.
    silence = np.zeros(int(np.median([len(voice) for voice in voices])), np.float32)
    others = {
        "silence": [silence] * len(scored),
        "shuffled": [voices[source] for source in balanced_sources(gold, seed=options.seed)],
    }
    results = {}
    for name, audio in others.items():
        dialogues = [
            [_with_audio(turn, other) for turn in item.turns] for item, other in zip(scored, audio, strict=True)
        ]
        predicted = [understand(reply).emotion for reply in _think(generator, dialogues)]
        results[name] = uar(gold, predicted, len(EMOTIONS), seed=options.seed).as_dict()
    return results


def _think(generator: Generator, dialogues: Sequence[Sequence[UserTurn]]) -> list[Reply]:
    """Replies for their thinking alone; equal dialogues (all those of one silent turn) are answered once."""
    keys = [tuple((id(turn.audio), turn.text, turn.response) for turn in turns) for turns in dialogues]
    distinct = dict(zip(keys, dialogues, strict=True))
    replies = dict(zip(distinct, generator.reply(list(distinct.values()), max_response=1), strict=True))
    return [replies[key] for key in keys]


def _with_audio(turn: UserTurn, audio: np.ndarray) -> UserTurn:
    """A spoken turn with another clip in place of its own."""
    return turn if turn.audio is None else replace(turn, audio=audio)


def chosen_to_speak(generator: Generator, size: int, options: ScoreOptions) -> list[int]:
    """Indices of the turns whose reply is spoken, spread evenly; none where the model cannot speak."""
    can_speak = generator.model.speak is not None and generator.codec is not None
    return spread(size, options.speak) if can_speak else []


def reply_all(generator: Generator, items: Sequence[Item], spoken: Sequence[int], options: ScoreOptions) -> list[Reply]:
    """A reply to every item, those of `spoken` with their waveform."""
    written = sorted(set(range(len(items))) - set(spoken))
    replies = {}
    for indices, speech in ((written, "none"), (spoken, "waveform")):
        if indices:
            dialogues = [items[index].turns for index in indices]
            replies |= dict(zip(indices, generator.reply(dialogues, think=options.think, speech=speech), strict=True))
    return [replies[index] for index in range(len(items))]


def unit_metrics(run: Any, generator: Generator, records: Path, options: ScoreOptions) -> dict:
    """Teacher-forced accuracy over the records' own units; n = 0 where there are none, or no Speak."""
    from ieat_jax.evaluation.measures.units import unit_accuracy
    from ieat_jax.training.rows import evaluation_batches

    if run.codec is None or run.model.speak is None:
        return {"n": 0}
    with generator.context():
        batches = evaluation_batches(run, records, options.audio_root, batch_size=generator.batch_size)
        return unit_accuracy(run.model, generator.listener, batches, run.codec.end_id)


def speech_metrics(answers: Sequence[Answer], spoken: Sequence[int]) -> tuple[dict, dict[int, str]]:
    """Word error rate of the spoken replies against the text the model wrote, and the transcripts."""
    from ieat_jax.evaluation.measures.asr import WhisperASR, normalise_words, word_error_rate

    said = {index: answers[index].reply for index in spoken}
    indices = [index for index, reply in said.items() if reply.text]
    voiced = [index for index in indices if len(said[index].waveform) >= MIN_SECONDS * SAMPLE_RATE]
    heard = WhisperASR().transcribe([said[index].waveform for index in voiced]) if voiced else []
    transcripts = dict.fromkeys(indices, "") | dict(zip(voiced, heard, strict=True))
    rate = float("nan")
    if any(normalise_words(said[index].text) for index in indices):
        rate = word_error_rate([said[index].text for index in indices], [transcripts[index] for index in indices])
    ended = proportion([reply.speech_ended for reply in said.values()])
    return {"wer": rate, "n": len(indices), "silent": len(indices) - len(voiced), "ended": ended}, transcripts


def write_scores(
    out: Path,
    checkpoint: Path,
    metrics: dict,
    items: Sequence[Item],
    answers: Sequence[Answer],
    transcripts: dict[int, str],
    options: ScoreOptions,
) -> None:
    """Write metrics.json, predictions.jsonl, training.jsonl (the run's own metrics) and samples/."""
    from ieat_jax.audio.files import write_wav

    samples = out / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    # Samples come from the spoken turns where there are any, so that the report can play both sides.
    spoken = [index for index, answer in enumerate(answers) if answer.reply.waveform is not None]
    pool = spoken or range(len(items))
    kept = {pool[i] for i in spread(len(pool), options.samples)} if options.samples else set()
    with (out / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for index, (item, answer) in enumerate(zip(items, answers, strict=True)):
            line = _prediction(item, answer)
            if index in transcripts:
                line["spoken_transcript"] = transcripts[index]
            if index in kept:
                line["sample"] = {}
                sounds = {"heard": item.turns[-1].audio, "said": answer.reply.waveform}
                for kind, waveform in sounds.items():
                    if waveform is not None and len(waveform):
                        path = samples / f"{index:05d}_{kind}.wav"
                        write_wav(path, waveform)
                        line["sample"][kind] = f"samples/{path.name}"
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    if (checkpoint / "metrics.jsonl").is_file():
        shutil.copyfile(checkpoint / "metrics.jsonl", out / "training.jsonl")
    (out / "metrics.json").write_text(
        json.dumps(_finite(metrics), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def _prediction(item: Item, answer: Answer) -> dict:
    reply = answer.reply
    return {
        "dialogue_id": item.dialogue_id,
        "turn_id": item.turn_id,
        "gold_emotion": EMOTIONS[item.emotion] if item.emotion >= 0 else None,
        "predicted_emotion": EMOTIONS[answer.emotion] if answer.emotion >= 0 else None,
        "transcript": item.transcript,
        "reference_text": item.response,
        "think": reply.think_text,
        "text": reply.text,
        "think_closed": reply.think_closed,
        "response_ended": reply.response_ended,
        "style": style_of(reply.text) if item.style else None,
        "reference_style": item.style,
        "cause": item.cause or None,
    }


def _finite(value):
    """JSON has no NaN: null stands for not measured."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
