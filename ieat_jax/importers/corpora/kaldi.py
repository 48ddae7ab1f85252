"""A data folder of Kaldi: wav.scp, and where they are there text, utt2spk, spk2gender, utt2lang, utt2emo, segments.

A wav.scp may hold commands in place of paths (sph2pipe ... |): they are never run.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from ieat_jax.importers.corpus import (
    Corpus,
    Found,
    Place,
    Refusal,
    Refused,
    split_named,
    split_of_speaker,
    utterance,
)
from ieat_jax.importers.parts import OPTION, part_of
from ieat_jax.importers.tables import keyed_lines

LISTS = ("text", "utt2spk", "spk2gender", "utt2lang", "utt2emo", "segments")
_GENDERS = {"m": "male", "f": "female"}


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every utterance of every data folder (a folder with a wav.scp).

    Raises:
        CorpusError: there is no wav.scp.
    """
    for path in place.named(r"(?:.*/)?wav\.scp", what="wav.scp"):
        yield from _folder(place, str(PurePosixPath(path).parent))


def _folder(place: Place, folder: str) -> Iterator[Found | Refused]:
    here = place.folder / folder
    sound = keyed_lines(here / "wav.scp")
    lists = {name: keyed_lines(here / name) if (here / name).is_file() else {} for name in LISTS}
    # utterance -> (recording, start, end)
    spans: dict[str, tuple[str, str, str]] = {name: (name, "0", "") for name in sound}
    if lists["segments"]:
        spans = {name: _span(rest) for name, rest in lists["segments"].items()}
    prefix = "" if folder == "." else f"{folder}/"
    place.expect("utterances", [prefix + name for name in spans])
    split = next((found for word in reversed(folder.split("/")) if (found := split_named(word))), None)
    for name, (recording, start, end) in spans.items():
        try:
            if recording not in sound:
                raise Refusal("missing", f"wav.scp has no recording {recording!r}")
            record = _record(place, folder, name, sound[recording], (start, end), lists)
            yield Found(record, (prefix + name,), split or split_of_speaker(record["ieat_meta"].get("speaker")))
        except Refusal as refusal:
            yield Refused((prefix + name,), refusal.code, f"{prefix}{name}: {refusal.message}")
    for recording in [] if not lists["segments"] else sorted(sound.keys() - {span[0] for span in spans.values()}):
        place.notes.append(f"{prefix}wav.scp: no segment is of {recording}")


def _span(rest: str) -> tuple[str, str, str]:
    recording, start, end = (*rest.split(), "", "", "")[:3]
    return recording, start, end


def _record(
    place: Place, folder: str, name: str, sound: str, span: tuple[str, str], lists: dict[str, dict[str, str]]
) -> dict:
    if sound.endswith("|"):
        raise Refusal("command", f"wav.scp has a command, which is not run ({sound[:60]}): write its sound to a file")
    try:
        start, end = float(span[0]), float(span[1]) if span[1] not in ("", "-1") else None
    except ValueError as error:
        raise Refusal("not_a_row", f"segments needs a recording and two numbers, not {' '.join(span)}") from error
    speaker = lists["utt2spk"].get(name)
    return utterance(
        name if folder == "." else f"{folder}/{name}",
        part_of(place, name, sound, folder, start, end),
        text=lists["text"].get(name, ""),
        emotion=lists["utt2emo"].get(name),
        source="human",
        language=lists["utt2lang"].get(name),
        speaker=speaker,
        gender=_GENDERS.get(lists["spk2gender"].get(speaker or "", "").lower()),
    )


CORPUS = Corpus(
    name="kaldi",
    title="data folders of Kaldi: wav.scp, text, utt2spk, utt2emo, segments",
    licence="yours",
    source="your own",
    find=find,
    options={"parts": OPTION},
)
