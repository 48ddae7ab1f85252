"""Predict once: a model's replies to the items, to control audio, aloud, and its units when the true ones are fed.

Every measure reads the `Predictions`; none asks the model.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ieat_jax.audio.files import MIN_SECONDS, SAMPLE_RATE
from ieat_jax.data.jsonl import read_objects
from ieat_jax.errors import UserError
from ieat_jax.evaluation.asr import WhisperASR, check_installed
from ieat_jax.evaluation.controls import control_dialogues
from ieat_jax.evaluation.items import Answer, Item, spread, understand
from ieat_jax.evaluation.teacher_forced import read_units
from ieat_jax.evaluation.words import language_of
from ieat_jax.inference.generator import Generator, Reply
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.progress import Progress
from ieat_jax.runs.folder import Run
from ieat_jax.training.rows import evaluation_batches

# thinking: the model thinks before it answers; controls: answers to silence and to another clip's audio; speech: some
# replies are spoken; transcripts: of those, by Whisper; units: the teacher-forced pass.
Need = Literal["thinking", "controls", "speech", "transcripts", "units"]
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class ScoreOptions:
    """What `evaluate score` predicts and keeps; see its `--help`.

    Raises:
        UserError: a value is out of its range.
    """

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

    def __post_init__(self):
        least = {"limit": 0, "speak": 0, "samples": 0, "batch_size": 1, "max_think": 1, "max_response": 1, "seed": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"score: {flag} is {getattr(self, name)}; it must be at least {smallest}")
        if self.seed > MAX_SEED:
            raise UserError(f"score: --seed is {self.seed}; it must be at most {MAX_SEED}")
        if not 0 < self.max_speech_seconds < math.inf:
            raise UserError(f"score: --max-speech-seconds is {self.max_speech_seconds}; it must be above 0 and finite")


@dataclass(frozen=True)
class Predictions:
    """What a model answered; all that a measure reads."""

    items: Sequence[Item]
    answers: Sequence[Answer]  # one per item
    made: frozenset[Need] = frozenset()  # what was predicted besides the answers; the fields below are empty without
    controls: dict[str, dict[int, Answer]] = field(default_factory=dict)  # 'silence', 'shuffled': by index of the item
    spoken: Sequence[int] = ()  # indices of the items whose reply has units and a waveform
    transcripts: dict[int, str] = field(default_factory=dict)  # of the spoken replies that have text, '' = no sound
    units: tuple[np.ndarray, np.ndarray] = field(default_factory=lambda: (np.zeros(0, int), np.zeros(0, int)))
    seed: int = 0  # of the bootstrap

    def pairs(self) -> Iterator[tuple[Item, Answer]]:
        """Every item with its answer."""
        return zip(self.items, self.answers, strict=True)


def predict(
    run: Run,
    generator: Generator,
    records: Path,
    items: Sequence[Item],
    options: ScoreOptions,
    wanted: frozenset[Need],
) -> Predictions:
    """Answer all items, and make of `wanted` what the options and the model allow.

    Raises:
        CodecError: the records have units of another codec.
        UserError: Whisper is not installed.
    """
    spoken = chosen_to_speak(generator, len(items), options)
    listens = bool(spoken) and "transcripts" in wanted and options.asr
    if listens:
        check_installed()  # before hours of replies
    made: set[Need] = {"thinking"} if options.think else set()
    nothing = np.zeros(0, int)
    units = (nothing, nothing)
    # First, because units of another codec are an error.
    if "units" in wanted and run.codec is not None and run.model.speak is not None:
        units = predict_units(run, generator, records, options)
        made.add("units")
    answers = [understand(reply) for reply in reply_all(generator, items, spoken, options)]
    controls = {}
    if "controls" in wanted and options.controls and options.think:
        controls = answer_controls(generator, items, options)
        made.add("controls")
    transcripts = {}
    if spoken:
        made.add("speech")
        if listens:
            transcripts = transcribe(items, answers, spoken)
            made.add("transcripts")
    return Predictions(items, answers, frozenset(made), controls, spoken, transcripts, units, options.seed)


def predict_units(
    run: Run, generator: Generator, records: Path, options: ScoreOptions
) -> tuple[np.ndarray, np.ndarray]:
    """(best, true) units [n], teacher-forced, over all the records' own units; none where they have none."""
    total = sum(1 for _ in read_objects(records))
    with generator.context(), Progress("units, teacher-forced: dialogues", total) as progress:
        batches = evaluation_batches(run, records, options.audio_root, batch_size=generator.batch_size)
        return read_units(run.model, generator.listener, batches, run.codec.end_id, done=progress.done)


def chosen_to_speak(generator: Generator, size: int, options: ScoreOptions) -> list[int]:
    """Indices of the turns whose reply is spoken, spread evenly; none where the model cannot speak."""
    can_speak = generator.model.speak is not None and generator.codec is not None
    return spread(size, options.speak) if can_speak else []


def reply_all(generator: Generator, items: Sequence[Item], spoken: Sequence[int], options: ScoreOptions) -> list[Reply]:
    """A reply to every item, those of `spoken` with their waveform."""
    written = sorted(set(range(len(items))) - set(spoken))
    replies = {}
    for what, indices, speech in (("replies", written, "none"), ("spoken replies", spoken, "waveform")):
        if indices:
            dialogues = [items[index].turns for index in indices]
            with Progress(what, len(indices)) as progress:
                made = generator.reply(dialogues, think=options.think, speech=speech, done=progress.done)
            replies |= dict(zip(indices, made, strict=True))
    return [replies[index] for index in range(len(items))]


def answer_controls(generator: Generator, items: Sequence[Item], options: ScoreOptions) -> dict[str, dict[int, Answer]]:
    """Answers of the items that score emotion when the voice is silent, and when it is another clip's."""
    scored = [index for index, item in enumerate(items) if item.scores_emotion]
    if len(scored) < 2:
        return {}
    controls = control_dialogues([items[index] for index in scored], seed=options.seed)
    answers = {}
    for name, dialogues in controls.items():
        replies = _think(generator, dialogues, f"thinking under the control {name!r}")
        answers[name] = {index: understand(reply) for index, reply in zip(scored, replies, strict=True)}
    return answers


def _think(generator: Generator, dialogues: Sequence[Sequence[UserTurn]], what: str) -> list[Reply]:
    """Replies for their thinking alone; equal dialogues (all those of one silent turn) are answered once."""
    keys = [tuple((id(turn.audio), turn.text, turn.response) for turn in turns) for turns in dialogues]
    distinct = dict(zip(keys, dialogues, strict=True))
    with Progress(what, len(distinct)) as progress:
        made = generator.reply(list(distinct.values()), max_response=1, done=progress.done)
    replies = dict(zip(distinct, made, strict=True))
    return [replies[key] for key in keys]


def transcribe(items: Sequence[Item], answers: Sequence[Answer], spoken: Sequence[int]) -> dict[int, str]:
    """What Whisper hears of the spoken replies that have text, by index of the item; '' where there is no sound.

    Raises:
        UserError: Whisper is not installed.
    """
    said = {index: answers[index].reply for index in spoken if answers[index].reply.text}
    voiced = [index for index, reply in said.items() if len(reply.waveform) >= MIN_SECONDS * SAMPLE_RATE]
    transcripts = dict.fromkeys(said, "")
    if voiced:
        languages = [language_of(said[index].text, items[index].language) for index in voiced]
        with Progress("transcripts", len(voiced)) as progress:
            waveforms = [said[index].waveform for index in voiced]
            heard = WhisperASR().transcribe(waveforms, languages, done=progress.done)
        transcripts |= dict(zip(voiced, heard, strict=True))
    return transcripts
