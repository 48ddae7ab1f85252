"""What is scored: one item per user turn with audio, earlier turns answered by the reference; and what a reply says."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.data.injection import parse_thinking
from ieat_jax.data.labels import EMOTIONS, canonical_emotion
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, Turn, read_records
from ieat_jax.data.understood import told_of
from ieat_jax.errors import UserError
from ieat_jax.evaluation.openers import style_of, styles_are_known
from ieat_jax.inference.generator import Reply
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.progress import Progress
from ieat_jax.storage import local_path

NEUTRAL_WORDS = "neutral_words"


@dataclass(frozen=True)
class Item:
    """One user turn to be answered, and what is known of it."""

    dialogue_id: str
    turn_id: int
    turns: tuple[UserTurn, ...]  # waveforms loaded; all but the last answered
    emotion: int  # of the voice: index into EMOTIONS, -1 = not annotated
    words_emotion: int  # of the words alone, where that is annotated: index into EMOTIONS, -1 = unknown
    scores_emotion: bool  # counts for emotion scores
    cause: str  # '' = not annotated
    style: str | None  # of the reference reply, where styles can be read from words
    transcript: str
    response: str  # the reference reply
    language: str  # of the dialogue


@dataclass(frozen=True)
class Answer:
    """A reply and what can be read from its words."""

    reply: Reply
    emotion: int  # that its thinking names: index into EMOTIONS, -1 = none that counts
    readable: bool  # the thinking was closed by the model and holds nothing but known sentences
    cause: str  # that its thinking names, '' = none
    style: str | None  # None where the words do not tell


def understand(reply: Reply) -> Answer:
    """Read a reply; thinking that was not closed by the model counts as no answer."""
    thought = parse_thinking(reply.think_text)
    label = thought["emotion"] if reply.think_closed else None
    return Answer(
        reply,
        emotion=_label(label),
        readable=bool(reply.think_closed and thought["valid"]),
        cause=thought["cause"] or "",
        style=style_of(reply.text),
    )


@dataclass(frozen=True)
class Dialogues:
    """A file of records, read."""

    path: Path
    root: Path  # that their audio paths start from
    records: tuple[Record, ...]
    bad: tuple[tuple[str, str], ...]  # (line, what is wrong with it)


def read_dialogues(records: str | Path, audio_root: str | Path | None) -> Dialogues:
    """Read a file of records without their audio; labels and keys that mean nothing are told on stderr.

    `audio_root`: folder that the audio paths start from, None = that of the records.

    Raises:
        UserError: the file is missing, empty, or names paths out of its folder.
    """
    records = local_path(records, "records")
    root = records.parent if audio_root is None else Path(audio_root)
    if not records.is_file():
        raise UserError(f"{records}: there is no such file of records; give the JSONL of held-out dialogues")
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; --audio-root is where the records' audio paths start from")
    bad_lines = Quarantine(1.0)  # however many: what is left is scored
    read = tuple(read_records(records, quarantine=bad_lines))
    for sentence in told_of(read, 1.0, records):
        print(f"{records}: {sentence}", file=sys.stderr, flush=True)
    return Dialogues(records, root, read, tuple((line, message) for line, (_, message) in bad_lines.notes.items()))


def read_items(
    records: str | Path | Dialogues, audio_root: str | Path | None, max_seconds: float, limit: int = 0
) -> tuple[list[Item], list[tuple[str, str]]]:
    """Items of a file of records, or of what `read_dialogues` read of it; what was left out as (turn or line, reason).

    Where the file has single clips with neutral words (the demo corpus), emotions are scored on those alone: in its
    dialogues words and earlier replies give the class away. Else every labelled turn counts. `limit`: this many items,
    spread over the file, 0 = all.

    Raises:
        UserError: as `read_dialogues`.
    """
    dialogues = records if isinstance(records, Dialogues) else read_dialogues(records, audio_root)
    # Placed first and loaded afterwards, so that a limit also limits what is read.
    places = [(record, index) for record in dialogues.records for index, turn in enumerate(record.turns) if turn.audio]
    probes = any(_is_probe(record) for record, _ in places)
    with_style = styles_are_known(dialogues.records)
    load = _Loader(dialogues.root, max_seconds)
    items, skipped = [], list(dialogues.bad)
    chosen = spread(len(places), limit or len(places))
    with Progress("reading turns", len(chosen)) as progress:
        for record, index in (places[place] for place in chosen):
            try:
                items.append(_item(record, index, load, probes=probes, with_style=with_style))
            except (AudioError, _UnansweredError) as error:
                name = f"{record.dialogue_id} turn {record.turns[index].turn_id}"
                skipped.append((name, f"{dialogues.path}:{record.line}: {error}"))
            progress.done(1)
    return items, skipped


def spread(size: int, count: int) -> list[int]:
    """`count` indices spread evenly over range(size)."""
    count = min(size, count)
    return [i * size // count for i in range(count)]


class _UnansweredError(UserError):
    """History without a reference reply."""


class _Loader:
    """Reads every file once; a file that cannot be read fails every turn that needs it."""

    def __init__(self, root: Path, max_seconds: float):
        self.root, self.max_seconds = root, max_seconds
        self._known: dict[str, np.ndarray | AudioError] = {}

    def __call__(self, path: str) -> np.ndarray:
        if path not in self._known:
            try:
                self._known[path] = read_audio(path, max_seconds=self.max_seconds, root=self.root)
            except AudioError as error:
                self._known[path] = error
        known = self._known[path]
        if isinstance(known, AudioError):
            raise known
        return known


def _is_probe(record: Record) -> bool:
    return record.kind == NEUTRAL_WORDS and len(record.turns) == 1 and record.turns[0].emotion is not None


def _item(record: Record, index: int, load: _Loader, *, probes: bool, with_style: bool) -> Item:
    turn = record.turns[index]
    return Item(
        dialogue_id=record.dialogue_id,
        turn_id=turn.turn_id,
        turns=(*(_history(earlier, load) for earlier in record.turns[:index]), UserTurn(audio=load(turn.audio))),
        emotion=_label(turn.emotion),
        words_emotion=_words_emotion(turn),
        scores_emotion=_is_probe(record) if probes else turn.emotion is not None,
        cause=turn.cause.text if turn.cause else "",
        style=turn.response_emotion if with_style else None,
        transcript=turn.text,
        response=turn.response_text,
        language=record.language,
    )


def _history(turn: Turn, load: _Loader) -> UserTurn:
    """An earlier turn, heard where it has audio, with its reference reply."""
    if not turn.response_text:
        raise _UnansweredError(f"turn {turn.turn_id} before it has no response_text")
    if turn.audio is None:
        return UserTurn(text=turn.text, response=turn.response_text)
    return UserTurn(audio=load(turn.audio), response=turn.response_text)


def _words_emotion(turn: Turn) -> int:
    """What the words say where they may say something else than the voice: `ieat.words_emotion`, a label."""
    label = (turn.raw.get("ieat") or {}).get("words_emotion")
    return _label(canonical_emotion(label) if isinstance(label, str) else None)


def _label(label: str | None) -> int:
    return EMOTIONS.index(label) if label in EMOTIONS else -1
