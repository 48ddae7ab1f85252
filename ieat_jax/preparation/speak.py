"""`prepare speak`: dialogues that are text alone, spoken by a program for speech synthesis or by the packaged voice.

What is spoken is a file named after everything that it depends on, so that a run that was stopped goes on, the same
words are spoken once, and the same command gives the same records.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.audio.files import AudioError, read_audio, write_wav
from ieat_jax.cli import add_output, path_argument
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, read_records, to_json, without_events, write_records
from ieat_jax.errors import UserError
from ieat_jax.progress import counted

MAX_SECONDS = 600.0
TIMEOUT = 120.0  # seconds of a command for one utterance
PACKAGED = "package:hibari"
FIELDS = ("text", "out", "emotion", "role", "language", "speaker")  # of a command
_ROLES = {"user": ("split_audio_file", "audio"), "reply": ("response_audio", "response_audio")}
_SPARE = 8  # failures beyond the accepted share before nothing more is tried


class SpeakError(UserError):
    """Words that could not be spoken, or a command that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Line:
    """What is said, and how; equal lines are spoken once."""

    text: str
    role: str
    emotion: str
    language: str
    speaker: str

    def name(self, voice: str) -> str:
        """A name for its file, which depends on all of it and on who speaks."""
        digest = hashlib.sha256("\0".join((voice, *dataclasses.astuple(self))).encode()).hexdigest()
        return f"{digest[:2]}/{digest[2:20]}.wav"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare speak`."""
    parser.add_argument("records", nargs="+", type=path_argument, metavar="RECORDS", help="JSONL of dialogues")
    add_output(parser, "folder for audio/ and files of the same names")
    parser.add_argument(
        "--command",
        dest="template",
        metavar="TEMPLATE",
        help="a program that speaks, such as 'say-it --to {out} {text}'; its words may hold "
        + ", ".join(f"{{{name}}}" for name in FIELDS)
        + ". No shell reads it. Without: the packaged voice (English)",
    )
    parser.add_argument("--what", choices=("user", "reply", "both"), default="both", help="who speaks (default: both)")
    parser.add_argument("--audio-root", type=path_argument, help="where their audio paths start from; --out is inside")
    parser.add_argument("--timeout", type=float, help=f"seconds of --command for one utterance (default: {TIMEOUT:g})")
    parser.add_argument("--workers", type=int, help="utterances at a time (default: all cores)")
    parser.add_argument(
        "--max-bad-share", type=float, default=0.001, help="share of bad records that is accepted (default: 0.001)"
    )


def run(arguments: argparse.Namespace, targets: dict[Path, Path], quarantine: Quarantine) -> int:
    """`prepare speak`; `targets`: where each file's records go.

    Raises:
        SpeakError: the command or a folder cannot be used.
        QuarantineError: more dialogues cannot be spoken than accepted.
    """
    started = time.perf_counter()
    voice = arguments.template or PACKAGED
    if arguments.template is None and arguments.timeout is not None:
        raise SpeakError(f"--timeout {arguments.timeout:g}: belongs to --command; the packaged voice has none")
    seconds = TIMEOUT if arguments.timeout is None else arguments.timeout
    say = packaged_voice() if arguments.template is None else command_voice(arguments.template, seconds)
    read = {path: read_records(path, quarantine=quarantine) for path in arguments.records}
    everything = [record for records in read.values() for record in records]
    quarantine.expect(len(everything))
    roles = ("user", "reply") if arguments.what == "both" else (arguments.what,)
    root = _root(arguments, everything)
    lines = dict.fromkeys(line for record in everything for _, line in lines_of(record, roles))
    audio = arguments.out / "audio"
    failed = speak_lines(lines, say, voice, audio, quarantine.max_share, workers=arguments.workers)
    prefix = Path(os.path.relpath(audio.resolve(), root.resolve())).as_posix()
    spoken = {
        path: [_spoken(record, roles, voice, prefix, failed, quarantine) for record in records]
        for path, records in read.items()
    }
    quarantine.check()
    for path, values in spoken.items():
        count = write_records(targets[path], [value for value in values if value is not None])
        print(f"wrote {targets[path]}: {count} dialogues")
    print(f"{len(lines) - len(failed)} of {len(lines)} utterances spoken in {time.perf_counter() - started:.0f} s")
    print(f"audio paths start from {root}")
    return 0


def _root(arguments: argparse.Namespace, records: Iterable[Record]) -> Path:
    """The folder audio paths start from."""
    root, out = arguments.audio_root or arguments.out, arguments.out
    if not out.resolve().is_relative_to(root.resolve()):
        raise SpeakError(f"--out {out}: has to lie inside of --audio-root {root}, so that one folder holds all sound")
    for record in () if arguments.audio_root else records:
        if any(turn.audio or turn.response_audio for turn in record.turns):
            raise SpeakError(
                f"{record.dialogue_id}: has recordings already. Give the folder that their paths start from as "
                "--audio-root, and an --out inside of it"
            )
    return root


def lines_of(record: Record, roles: Iterable[str]) -> list[tuple[tuple[int, str], Line]]:
    """((turn from 0, role), line) of everything in a dialogue that has words and no sound."""
    found = []
    for index, turn in enumerate(record.turns):
        for role in roles:
            text = without_events(turn.text if role == "user" else turn.response_text)
            if text and getattr(turn, _ROLES[role][1]) is None:
                emotion = (turn.emotion if role == "user" else turn.response_emotion) or "neutral"
                speaker = (record.speaker or "user") if role == "user" else "assistant"
                found.append(((index, role), Line(text, role, emotion, record.language, speaker)))
    return found


def speak_lines(
    lines: Iterable[Line],
    say: Callable[[Line, Path], None],
    voice: str,
    folder: Path,
    max_share: float,
    *,
    workers: int | None = None,
) -> dict[Line, UserError]:
    """Speak lines into a folder; what went wrong with which. Files that are there are not spoken again.

    After more failures than `max_share` of the lines (and a few) nothing more is tried.

    Args:
        lines: what to speak.
        say: writes the sound of a line to a path.
        voice: who speaks; part of the names of files.
        folder: for the files.
        max_share: the share of lines that may fail.
        workers: how many are spoken at a time; None = as many as there are cores.
    """
    open_lines = [line for line in lines if not (folder / line.name(voice)).is_file()]
    most = max_share * len(open_lines) + _SPARE
    failed: dict[Line, UserError] = {}

    def one(line: Line) -> UserError | None:
        if len(failed) > most:
            return SpeakError("not tried after so many failures")
        target = folder / line.name(voice)
        partial = target.with_name(f"{target.stem}.partial.wav")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            say(line, partial)
            read_audio(partial, max_seconds=MAX_SECONDS)
            os.replace(partial, target)
        except UserError as error:
            return error
        except OSError as error:
            return SpeakError(f"{target}: cannot be written ({error.strerror or error})")
        finally:
            partial.unlink(missing_ok=True)
        return None

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        spoken = counted(pool.map(one, open_lines), "utterances spoken", len(open_lines))
        for line, error in zip(open_lines, spoken, strict=True):
            if error is not None:
                failed[line] = error
    return failed


def _spoken(
    record: Record, roles: Iterable[str], voice: str, prefix: str, failed: dict[Line, UserError], quarantine: Quarantine
) -> dict[str, Any] | None:
    """The JSON object of a dialogue with the paths of its sound; None, and a note, where some could not be spoken."""
    value = to_json(record)
    for (index, role), line in lines_of(record, roles):
        if line in failed:
            where = f"{record.dialogue_id}: turn {index + 1} ({role}, {line.text[:40]!r})"
            quarantine.note(record.dialogue_id, "not_spoken", f"{where}: {failed[line]}")
            return None
        value["turns"][index][_ROLES[role][0]] = f"{prefix}/{line.name(voice)}"
    return {**value, "ieat_meta": {**(value.get("ieat_meta") or {}), "spoken_by": voice}}


def packaged_voice() -> Callable[[Line, Path], None]:
    """Speaks with the voice of the demo corpus, its tone by rules for the emotion. English alone."""
    from ieat_jax.preparation.demo.voice import REPLY_PROSODY, REST, USER_PROSODY, speak

    def say(line: Line, path: Path) -> None:
        if line.language != "en":
            raise SpeakError(f"the packaged voice speaks English, this is {line.language!r}; give a --command")
        table = USER_PROSODY if line.role == "user" else REPLY_PROSODY
        seed = int(hashlib.sha256(line.text.encode()).hexdigest()[:8], 16)
        prosody = table.get(line.emotion, REST).jittered(np.random.default_rng(seed))
        try:
            sound = speak(line.text, prosody, seed)
        except UserError:
            raise
        except Exception as error:  # words that the voice has no sounds for
            raise SpeakError(f"the packaged voice cannot say it ({type(error).__name__}: {error})") from error
        write_wav(path, sound)

    return say


def command_voice(template: str, timeout: float) -> Callable[[Line, Path], None]:
    """Speaks by a program of the user's. Its words are filled one by one; no shell reads them.

    Raises:
        SpeakError: the template has no {text} and {out}, or names no program that is there.
    """
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise SpeakError(f"--command {template}: cannot be read ({error})") from error
    missing = [name for name in ("text", "out") if not any(f"{{{name}}}" in word for word in words)]
    if missing:
        raise SpeakError(f"--command {template}: needs {' and '.join(f'{{{name}}}' for name in missing)} in its words")
    if shutil.which(words[0]) is None:
        raise SpeakError(f"--command {template}: there is no program {words[0]}")
    return functools.partial(_say_by_command, words, timeout)


def _say_by_command(words: list[str], timeout: float, line: Line, path: Path) -> None:
    values = {name: str(path.resolve()) if name == "out" else getattr(line, name) for name in FIELDS}
    if values["text"].startswith("-"):  # no words of a dialogue are an option
        values["text"] = f" {values['text']}"
    filled = [_fill(word, values) for word in words]
    try:
        done = subprocess.run(filled, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise SpeakError(f"{words[0]} did not end within {timeout:g} s") from error
    except OSError as error:
        raise SpeakError(f"{words[0]} cannot be run ({error.strerror})") from error
    said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [""]
    if done.returncode:
        raise SpeakError(f"{words[0]} ended with exit code {done.returncode}: {said[-1][:200]}")
    if not path.is_file():
        raise AudioError("missing", path.name, f"{words[0]} ended well, but wrote no file to {{out}}")


def _fill(word: str, values: dict[str, str]) -> str:
    """A word with its fields filled in one pass: braces in the words of a dialogue stay what they are."""
    parts = word.split("{")
    filled = parts[0]
    for part in parts[1:]:
        name, closed, rest = part.partition("}")
        filled += values[name] + rest if closed and name in values else "{" + part
    return filled
