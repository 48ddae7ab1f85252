"""`prepare describe`: how clips sound and what else is heard in them, where nobody annotated it, by their signals.

A person's annotation is never changed, and what is known to be unknown (`null`) stays so.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ieat_jax.audio.files import AudioError, read_audio
from ieat_jax.cli import add_output, path_argument
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, Turn, parse_record, read_records, to_json, write_records
from ieat_jax.errors import UserError
from ieat_jax.preparation.describing import words
from ieat_jax.preparation.describing.measures import Voice, measure
from ieat_jax.preparation.files import Journal, work_on
from ieat_jax.progress import counted

MAX_SECONDS = 60.0  # of a clip
SOURCE = "signal:librosa"
MEASURES = 1  # another number where the same sound gives other measures


class Clip(NamedTuple):
    """A turn with sound."""

    record: Record
    place: int  # of the turn, from 0

    @property
    def turn(self) -> Turn:
        """The turn."""
        return self.record.turns[self.place]

    @property
    def lacks(self) -> tuple[str, ...]:
        """Which of tone and events nobody annotated, not even as unknown."""
        raw = self.turn.raw
        if "ieat" in raw and raw["ieat"] is None:
            return ()
        absent = [name for name in ("tone", "events") if name not in raw.get("ieat", {})]
        return tuple(name for name in absent if not (name == "events" and self.turn.events))  # tags in the text count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare describe`."""
    parser.add_argument("--records", required=True, type=path_argument, metavar="FILE", help="JSONL of dialogues")
    parser.add_argument(
        "--audio-root", type=path_argument, help="folder audio paths start from (default: the records')"
    )
    add_output(parser, "JSONL of the same dialogues with tone and events", folder=False)
    parser.add_argument("--workers", type=int, help="processes that measure (default: all cores)")
    parser.add_argument(
        "--max-bad-share", type=float, default=0.001, help="share of bad records that is accepted (default: 0.001)"
    )


def run(arguments: argparse.Namespace) -> int:
    """`prepare describe`.

    Raises:
        UserError: the records cannot be read, or would be overwritten.
        QuarantineError: more dialogues have sound that cannot be read than accepted.
    """
    started, out = time.perf_counter(), arguments.out
    if out.resolve() == arguments.records.resolve():
        raise UserError(f"--out {out} would overwrite the records; choose another file")
    root = (arguments.audio_root or arguments.records.parent).resolve()
    quarantine = Quarantine(arguments.max_bad_share, out.with_name(f"{out.stem}.quarantine.jsonl"))
    records = read_records(arguments.records, quarantine=quarantine)
    quarantine.expect(len(records))
    clips = [Clip(record, i) for record in records for i, turn in enumerate(record.turns) if turn.audio is not None]
    lacking = sum(bool(clip.lacks) for clip in clips)
    turns = sum(len(record.turns) for record in records)
    print(f"{turns} turns: {len(clips)} with a clip, {lacking} of them without tone or events")
    journal = Journal(out.with_name(f"{out.stem}.measured.partial.jsonl"), root, {"measures": MEASURES})
    voices = measured(clips if lacking else [], root, quarantine, arguments.records, arguments.workers, journal)
    quarantine.check()
    values, account = described(records, clips, voices)
    print(f"wrote {out}: {write_records(out, values)} dialogues")
    journal.path.unlink(missing_ok=True)
    for line in account:
        print(line)
    if quarantine:
        counts = ", ".join(f"{count} x {code}" for code, count in quarantine.summary().items())
        print(f"{len(quarantine)} of {quarantine.total} dialogues are bad ({counts}); see {quarantine.path}")
    print(f"{len(voices)} clips measured in {time.perf_counter() - started:.0f} s")
    return 0


def measured(
    clips: Sequence[Clip],
    root: Path,
    quarantine: Quarantine,
    where: Path,
    workers: int | None,
    journal: Journal,
) -> dict[str, Voice]:
    """File -> its voice. Sound that cannot be used is noted in the quarantine; its dialogue is kept as it is."""
    files = list(dict.fromkeys(clip.turn.audio for clip in clips if clip.turn.audio is not None))
    results = work_on(
        files,
        root,
        _measure,
        workers=workers,
        journal=journal,
        plain=dataclasses.asdict,
        again=lambda fields: Voice(**fields),
    )
    found = dict(counted(results, "clips measured", len(files)))
    for clip in clips:
        result = found[clip.turn.audio or ""]
        if isinstance(result, AudioError):
            place = f"{where}:{clip.record.line}: {clip.record.dialogue_id}"
            message = f"{place}: turn {clip.turn.turn_id}: {result}; it is not described"
            quarantine.note(clip.record.dialogue_id, result.code, message)
    return {file: result for file, result in found.items() if isinstance(result, Voice)}


def _measure(job: tuple[str, str]) -> tuple[str, Voice | AudioError]:
    file, root = job
    try:
        return file, measure(read_audio(file, max_seconds=MAX_SECONDS, root=root))
    except AudioError as error:
        return file, error
    except Exception as error:  # of a library, of which one file must not end the work on all
        return file, AudioError("not_measured", file, f"cannot be measured ({type(error).__name__}: {error})")


def described(
    records: Sequence[Record], clips: Sequence[Clip], voices: dict[str, Voice]
) -> tuple[list[dict[str, Any]], list[str]]:
    """(the JSON objects of records with tone and events where they are absent, sentences on what was told)."""
    values = {id(record): to_json(record) for record in records}
    usual = words.medians((clip.record.speaker, voices[clip.turn.audio]) for clip in clips if clip.turn.audio in voices)
    told: Counter[str] = Counter()
    for clip in clips:
        voice = voices.get(clip.turn.audio or "")
        added = {} if voice is None else dict(_added(clip, voice, usual, told))
        if added:
            turn = values[id(clip.record)]["turns"][clip.place]
            turn["ieat"] = {**turn.get("ieat", {}), **added}
    for value in values.values():
        parse_record(value)  # whatever is written can be read
    return [values[id(record)] for record in records], _account(told, usual)


def _added(
    clip: Clip, voice: Voice, usual: dict[str | None, words.Usual], told: Counter[str]
) -> Iterator[tuple[str, Any]]:
    """What is added to a turn's `ieat`."""
    language, lacks = clip.record.language, clip.lacks
    own = clip.record.speaker if clip.record.speaker in usual else None
    if "tone" in lacks and (found := words.differences(voice, usual[own])) is not None:
        told.update(["tone", "of the corpus" if own is None else "own", *(found or ["ordinary"])])
        yield "tone", words.tone(found, language)
        yield "tone_source", SOURCE
    if "events" in lacks and (heard := words.events(voice, language)):
        told["long pause"] += 1
        yield "events", heard
        yield "events_source", SOURCE


def _account(told: Counter[str], usual: dict[str | None, words.Usual]) -> list[str]:
    kinds = ("high", "low", "loud", "quiet", "fast", "slow", "ordinary")
    corpus = ""
    if told["of the corpus"]:
        corpus = (
            f", {told['of the corpus']} by that of all clips, since their speaker is unknown or has fewer than "
            f"{words.OWN_CLIPS} (ieat_meta.speaker)"
        )
    lines = [
        f"tone: {told['tone']} turns: {told['own']} by the median of their own speaker{corpus}",
        f"tone: {', '.join(f'{kind} {told[kind]}' for kind in kinds)}",
        f"events: {told['long pause']} turns with a long pause (from {words.PAUSE_SECONDS:g} s)",
    ]
    if levelled := [speaker for speaker, own in usual.items() if own.levelled and speaker is not None]:
        lines.append(
            f"tone: the recordings of {len(levelled)} of {len(usual) - 1} speakers were brought to one peak or level: "
            "loud and quiet are told by the spectrum, not by the level"
        )
    return lines
