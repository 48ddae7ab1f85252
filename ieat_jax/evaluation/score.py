"""Score one checkpoint on held-out dialogues: metrics.json, predictions.jsonl and audio samples."""

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.audio.files import write_wav
from ieat_jax.data.labels import EMOTIONS
from ieat_jax.errors import UserError
from ieat_jax.evaluation.items import Answer, Item, read_dialogues, read_items, spread
from ieat_jax.evaluation.measure import Measure, MeasureError, line_of
from ieat_jax.evaluation.measures import all_measures
from ieat_jax.evaluation.predict import Need, Predictions, ScoreOptions, predict
from ieat_jax.inference.generator import Generator, Limits
from ieat_jax.interop.open import open_run
from ieat_jax.storage import check_writable

METRICS, PREDICTIONS, TRAINING, SAMPLES = "metrics.json", "predictions.jsonl", "training.jsonl", "samples"


class ScoreError(UserError):
    """Records or options with which nothing can be scored."""


def score(checkpoint: Path, records: Path, out: Path, options: ScoreOptions) -> dict[str, Any]:
    """Score a run and write the folder `out`; returns the metrics.

    Predictions are written before they are measured. A measure that fails costs itself alone: `failed` of the metrics
    says why.

    Raises:
        UserError: the checkpoint, the records or all of their audio cannot be used, or `out` cannot be written.
    """
    started = time.perf_counter()
    check_writable(out, "--out", folder=True)
    measures = all_measures()
    dialogues = read_dialogues(records, options.audio_root)  # before a model is loaded
    if not any(turn.audio for record in dialogues.records for turn in record.turns):
        _report_skipped(records, [], [*dialogues.bad, ("every turn", "has no split_audio_file")])
    print(f"loading {checkpoint}", file=sys.stderr, flush=True)
    run = open_run(checkpoint, step=options.step)
    limits = Limits(options.max_think, options.max_response, options.max_speech_seconds)
    generator = Generator.from_run(run, limits=limits, batch_size=options.batch_size, seed=options.seed)
    items, skipped = read_items(dialogues, options.audio_root, generator.config.listen.clip_seconds, options.limit)
    _report_skipped(records, items, skipped)

    predictions = predict(run, generator, records, items, options, needed(measures))
    with _writing(out):
        write_scores(out, checkpoint, None, predictions, options.samples)
    failed: dict[str, str] = {}
    metrics = {
        "checkpoint": str(checkpoint),
        "stage": run.stage,
        "step": run.step,
        "records": str(records),
        "n": len(items),
        "skipped": len(skipped),
        "think": options.think,
        "measures": [measure.name for measure in measures],
        "failed": failed,
    }
    figures = measure_all(predictions, measures, failed, taken=(*metrics, "seconds"))
    metrics |= figures | {"seconds": round(time.perf_counter() - started, 1)}
    with _writing(out):
        write_metrics(out, metrics)
    return metrics


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ScoreError(f"{out}: cannot be written ({error.strerror or error}); give another --out") from error


def needed(measures: Sequence[Measure]) -> frozenset[Need]:
    """All that the measures read."""
    return frozenset().union(*(measure.needs | measure.uses for measure in measures))


def measure_all(
    predictions: Predictions,
    measures: Sequence[Measure],
    failed: dict[str, str] | None = None,
    *,
    taken: Collection[str] = (),
) -> dict[str, Any]:
    """The figures of every measure whose needs were predicted, by their keys.

    Args:
        predictions: what is measured.
        measures: by which.
        failed: gets a sentence by the name of each measure that fails; without, it raises.
        taken: keys that no measure may have.

    Raises:
        MeasureError: a measure fails, or its figures cannot be written or have a key of another one.
    """
    figures: dict[str, Any] = {}
    for measure in measures:
        if not measure.needs <= predictions.made:
            continue
        try:
            figures |= _figures(predictions, measure, {*figures, *taken})
        except MeasureError as error:
            if failed is None:
                raise
            failed[measure.name] = str(error)
    return figures


def _figures(predictions: Predictions, measure: Measure, taken: Collection[str]) -> dict[str, Any]:
    """One measure's figures, which metrics.json can hold.

    Raises:
        MeasureError: whatever goes wrong with it.
    """
    file = getattr(getattr(measure.measure, "__code__", None), "co_filename", None)
    where = f"measure {measure.name!r}"
    try:
        found = measure.measure(predictions)
    except (Exception, SystemExit) as error:
        place = f" ({file}{line_of(file, error)})" if file else ""
        raise MeasureError(f"{where}{place}: {type(error).__name__}: {error}") from error
    place = f" ({file})" if file else ""
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise MeasureError(f"{where}{place}: returned {found!r:.60}; it has to return figures by their keys, or {{}}")
    if twice := set(taken) & found.keys():
        raise MeasureError(f"{where}: another one has figures {sorted(twice)}, too; give them another key")
    try:
        json.dumps(_finite(found))
    except (TypeError, ValueError, RecursionError) as error:
        raise MeasureError(f"{where}{place}: its figures cannot be written as JSON ({error})") from error
    return found


def _report_skipped(records: Path, items: Sequence[Item], skipped: Sequence[tuple[str, str]]) -> None:
    for name, reason in skipped[:10]:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    if len(skipped) > 10:
        print(f"... and {len(skipped) - 10} more", file=sys.stderr)
    if not items:
        raise ScoreError(f"{records}: no turn can be scored ({len(skipped)} skipped); check the file and --audio-root")


def write_scores(
    out: Path, checkpoint: Path, metrics: dict[str, Any] | None, predictions: Predictions, keep: int
) -> None:
    """Write predictions.jsonl, `keep` samples/, training.jsonl (the run's own metrics), and `metrics` if known already.

    Raises:
        OSError: the folder cannot be written.
    """
    (out / SAMPLES).mkdir(parents=True, exist_ok=True)
    for name in (METRICS, TRAINING):  # of an earlier score: not beside other predictions
        (out / name).unlink(missing_ok=True)
    # Samples come from the spoken turns where there are any, so that the report can play both sides.
    pool = predictions.spoken or range(len(predictions.items))
    kept = {pool[i] for i in spread(len(pool), keep)}
    with (out / PREDICTIONS).open("w", encoding="utf-8") as file:
        for index, (item, answer) in enumerate(predictions.pairs()):
            line = _prediction(item, answer)
            if index in predictions.transcripts:
                line["spoken_transcript"] = predictions.transcripts[index]
            if index in kept:
                line["sample"] = _write_samples(out, index, item, answer)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    if (checkpoint / "metrics.jsonl").is_file():
        shutil.copyfile(checkpoint / "metrics.jsonl", out / TRAINING)
    if metrics is not None:
        write_metrics(out, metrics)


def write_metrics(out: Path, metrics: dict[str, Any]) -> None:
    """Write metrics.json, which makes the folder a scored one.

    Raises:
        OSError: the folder cannot be written.
    """
    text = json.dumps(_finite(metrics), ensure_ascii=False, indent=1) + "\n"
    (out / METRICS).write_text(text, encoding="utf-8")


def _write_samples(out: Path, index: int, item: Item, answer: Answer) -> dict[str, str]:
    """Write what was heard and said; their paths in the folder."""
    paths = {}
    for kind, waveform in (("heard", item.turns[-1].audio), ("said", answer.reply.waveform)):
        if waveform is not None and len(waveform):
            paths[kind] = f"{SAMPLES}/{index:05d}_{kind}.wav"
            write_wav(out / paths[kind], waveform)
    return paths


def _prediction(item: Item, answer: Answer) -> dict[str, Any]:
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
        "style": answer.style if item.style else None,
        "reference_style": item.style,
        "cause": item.cause or None,
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for not measured. And no numbers of NumPy."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
