"""Parts of recordings as files of their own, for lists that name them by seconds."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import soundfile

from ieat_jax.importers.corpus import CorpusError, Place, Refusal
from ieat_jax.storage import local_path

TOLERANCE = 0.01  # seconds by which a part that is meant to be the whole may differ from it
OPTION = ("", "a folder inside of FOLDER that parts of recordings are written to, as FLAC")


def part_of(
    place: Place,
    name: str,
    recording: str | Path,
    base: str,
    start: float,
    end: float | None,
    channel: int | None = None,
) -> str:
    """The path of a part of a recording, as records have it: the recording where that is all of it, else a new file.

    The file is written once; the same part of the same recording has the same name and bytes.

    Args:
        place: whose option `parts` names the folder for files.
        name: of the part.
        recording: its path, as a list names it.
        base: folder below that of the corpus that it starts from.
        start: seconds.
        end: seconds; None = to the end.
        channel: from 0; None = all of them.

    Raises:
        Refusal: it is only a part, and no folder is named; or the recording cannot be read there.
        CorpusError: the folder lies outside of the corpus, or cannot be written.
        StorageError: it is an address.
    """
    whole = place.audio(recording, base)
    file = place.audio_root / whole
    try:
        info = soundfile.info(file)
    except soundfile.LibsndfileError as error:
        raise Refusal("not_audio", f"{whole}: cannot be read as sound ({error.error_string})") from error
    seconds = info.frames / info.samplerate
    until = seconds if end is None else end
    if start <= TOLERANCE and until >= seconds - TOLERANCE and (channel is None or info.channels == 1):
        return whole
    what = f"is {start:g} to {until:g} s of {whole}" + (
        "" if channel is None or info.channels == 1 else f", channel {channel}"
    )
    if not 0 <= start < until <= seconds + TOLERANCE:
        raise Refusal("outside_recording", f"{what}, which lasts {seconds:g} s")
    if channel is not None and channel >= info.channels:
        raise Refusal("no_channel", f"{what}, which has {info.channels}")
    if not place.options["parts"]:
        raise Refusal("part", f"{what}: give a folder for such parts as --option parts=parts")
    first, last = round(start * info.samplerate), min(round(until * info.samplerate), info.frames)
    # Of utterances that are named alike in two lists each has its own: the name holds what it was cut from.
    cut = hashlib.sha256(f"{whole}\0{first}\0{last}\0{channel}".encode()).hexdigest()[:12]
    folder = place.folder / local_path(place.options["parts"], "--option parts")
    target = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:80]}-{cut}.flac"
    if not target.resolve().is_relative_to(place.folder.resolve()):
        raise CorpusError(f"--option parts={place.options['parts']}: has to lie inside of {place.folder}")
    _write(file, target, first, last, channel)
    return place.audio(target)


def _write(file: Path, target: Path, first: int, last: int, channel: int | None) -> None:
    try:
        if target.exists() and soundfile.info(target).frames == last - first:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        sound, rate = soundfile.read(file, start=first, stop=last, dtype="int16", always_2d=True)
        partial = target.with_name(target.name + ".partial")
        soundfile.write(partial, sound if channel is None else sound[:, channel], rate, format="FLAC", subtype="PCM_16")
        partial.replace(target)
    except soundfile.LibsndfileError as error:
        raise Refusal(
            "not_audio", f"{file}: cannot be read from frame {first} to {last} ({error.error_string})"
        ) from error
    except OSError as error:
        raise CorpusError(
            f"{target}: cannot be written ({error.strerror}); copy or link the corpus to where it can"
        ) from error
