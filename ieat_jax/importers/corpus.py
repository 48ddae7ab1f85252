"""What a corpus is to its importer: where its inputs lie, what becomes of each, and how its records are made."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ieat_jax.errors import UserError

SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".m4a", ".mp4", ".avi", ".flv", ".mkv", ".sph")
SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"dev": "validation", "valid": "validation", "val": "validation", "evaluation": "validation"}


class CorpusError(UserError):
    """A folder that is not the corpus that was named, or an option that the corpus does not have."""


class Refusal(Exception):
    """Why an input becomes no record; `code` is a stable short word for counting."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


@dataclasses.dataclass(frozen=True)
class Found:
    """A record, and the inputs that it accounts for."""

    record: dict[str, Any]
    inputs: tuple[str, ...]
    split: str = "train"


@dataclasses.dataclass(frozen=True)
class Refused:
    """Inputs that become no record, and why. `meant`: it is the corpus that says so, and no fault of the copy."""

    inputs: tuple[str, ...]
    code: str
    message: str
    meant: bool = False


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus that can be imported.

    Attributes:
        name: of the command line.
        title: its name for people.
        licence: under which terms its owners give it.
        source: where to get it.
        find: yields what becomes of every input.
        options: name -> (default, help) of `--option NAME=VALUE`.
    """

    name: str
    title: str
    licence: str
    source: str
    find: Callable[[Place], Iterator[Found | Refused]]
    options: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)


class Place:
    """The folder (or list file) of a corpus: its files, the inputs that have to be accounted for, and its options."""

    def __init__(self, path: Path, options: Mapping[str, str], audio_root: Path | None = None):
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.audio_root = self.folder if audio_root is None else audio_root
        self.options = options
        self.inputs: dict[str, str] = {}  # input -> its kind
        self.notes: list[str] = []  # sentences for people
        self._files: list[str] | None = None

    @property
    def files(self) -> list[str]:
        """Paths of all files below the folder, relative, with forward slashes, sorted; no hidden ones.

        The doubles that a Mac leaves (._NAME, __MACOSX) are hidden ones.
        """
        if self._files is None:
            found = []
            for folder, folders, names in os.walk(self.folder):
                folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
                below = Path(folder).relative_to(self.folder)
                found += [(below / name).as_posix() for name in names if name[0] != "."]
            self._files = sorted(found)
        return self._files

    def sounds(self) -> list[str]:
        """The sound files and videos among them."""
        return [path for path in self.files if path.lower().endswith(SOUNDS)]

    def recordings(self, wanted: str = r".*\.wav", *, example: str) -> list[str]:
        """The recordings of the corpus: files whose whole path fits the pattern `wanted`. They become inputs.

        Raises:
            CorpusError: there are none.
        """
        pattern = re.compile(wanted, re.IGNORECASE)
        found = [path for path in self.files if pattern.fullmatch(path)]
        if not found:
            raise CorpusError(f"{self.folder}: holds no recordings of this corpus; they are files such as {example}")
        self.expect("recordings", found)
        return found

    def expect(self, kind: str, inputs: list[str]) -> None:
        """Add inputs of a kind ("recordings", "rows") that have to be accounted for."""
        self.inputs.update(dict.fromkeys(inputs, kind))

    def named(self, pattern: str, *, what: str, required: bool = True) -> list[str]:
        """The files whose whole path fits a pattern, such as label files.

        Raises:
            CorpusError: there are none, and the corpus cannot be read without.
        """
        found = [path for path in self.files if re.fullmatch(pattern, path, re.IGNORECASE)]
        if required and not found:
            raise CorpusError(f"{self.folder}: {what} is not there; give the folder that the corpus was unpacked to")
        return found

    def audio(self, path: str | Path, base: str | Path = "") -> str:
        """A path as records have it: relative to the audio root, with forward slashes.

        Args:
            path: as a list of the corpus names it. A relative one starts from `base`, else from the folder of the
                corpus, else from the audio root.
            base: a folder below that of the corpus.

        Raises:
            Refusal: there is no such file, or it lies outside of the audio root.
        """
        given = Path(str(path).replace("\\", "/"))
        folders = (self.folder / base, self.folder, self.audio_root)
        tried = [given] if given.is_absolute() else [folder / given for folder in folders]
        file = next((each for each in tried if each.is_file()), None)
        if file is None:
            raise Refusal("missing", f"there is no file {path}")
        absolute = Path(os.path.normpath(file.absolute()))
        root = Path(os.path.normpath(self.audio_root.absolute()))
        if not absolute.is_relative_to(root):
            raise Refusal(
                "outside_root", f"{file} lies outside of {root}; give a folder that holds all sound as --audio-root"
            )
        return absolute.relative_to(root).as_posix()


def utterance(
    name: str,
    audio: str | None,
    *,
    text: str = "",
    emotion: str | None = None,
    raw: str | None = None,
    source: str = "gold",
    intensity: str | None = None,
    language: str | None = None,
    speaker: str | None = None,
    **meta: Any,
) -> dict[str, Any]:
    """A dialogue of one turn without a reply, which is what a single recording is.

    Args:
        name: its dialogue_id.
        audio: path of the clip.
        text: what is said.
        emotion: a label that `data/labels.py` reads, or the one of the corpus where there is no such.
        raw: the label as the corpus writes it; None = as `emotion`.
        source: of the label: gold (acted), human (heard by annotators).
        intensity: slight, moderate or strong.
        language: a code such as en.
        speaker: a name, the same in all records of a person.
        **meta: what else is known; None is left out.
    """
    turn: dict[str, Any] = {"turn_id": 1, "text": text}
    ours: dict[str, Any] = {}
    if emotion is not None:
        turn["emotion"] = emotion
        ours["emotion"] = {"label": emotion, "source": source, "raw": emotion if raw is None else raw}
        if intensity is not None:
            ours["emotion"]["intensity"] = intensity
    if audio is not None:
        turn["split_audio_file"] = audio
    if ours:
        turn["ieat"] = ours
    known = {"language": language, "speaker": speaker} | meta
    kept = {key: value for key, value in known.items() if value is not None}
    return {"dialogue_id": name, "turns": [turn], "ieat_meta": kept}


def by_name(
    place: Place,
    pattern: str,
    make: Callable[[str, dict[str, str]], Found],
    *,
    wanted: str = r".*\.wav",
    example: str,
    whole_path: bool = False,
) -> Iterator[Found | Refused]:
    """What becomes of recordings whose names say everything.

    Args:
        place: the folder.
        pattern: of the name (or of the path), with named groups.
        make: (path, {group: text}) -> what is found; may raise Refusal.
        wanted: pattern of the paths of recordings.
        example: a name, for messages.
        whole_path: the pattern is one of the path.
    """
    compiled = re.compile(pattern)
    for path in place.recordings(wanted, example=example):
        match = compiled.fullmatch(path if whole_path else path.rpartition("/")[2])
        if match is None:
            yield Refused((path,), "unknown_name", f"{path}: not a name of this corpus; names are such as {example}")
            continue
        try:
            yield make(path, match.groupdict())
        except Refusal as refusal:
            yield Refused((path,), refusal.code, f"{path}: {refusal.message}")


def held_out(value: str, *, validation: tuple[str, ...], test: tuple[str, ...]) -> str:
    """The split of a speaker (or session): those named are held out, all others train."""
    return "test" if value in test else "validation" if value in validation else "train"


def split_named(name: str) -> str | None:
    """The split that a word such as 'dev' or 'Evaluation' means, or None."""
    word = name.strip().lower()
    return _SPLIT_NAMES.get(word, word if word in SPLITS else None)


def split_of_speaker(speaker: str | None) -> str:
    """The split of a speaker where the corpus has none: a tenth each is held out, by the name alone."""
    if speaker is None:
        return "train"
    tenth = int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:8], "big") % 10
    return ("test", "validation")[tenth] if tenth < 2 else "train"
