"""MELD: scenes of the series Friends, seven emotions.

Its clips are videos, whose sound has to be extracted beside them. Two of them are broken (train dia125_utt3, dev
dia110_utt7), the folder of the test holds further cuts (final_videos_test*), dialogue ids begin at 0 again in every
split, and texts hold quotes of Windows-1252. Many people speak in a scene, so that every utterance is a dialogue of one
turn: what another says next is no assistant's reply.
"""

import re
from collections.abc import Iterator

from ieat_jax.importers.corpus import Corpus, CorpusError, Found, Place, Refusal, Refused, utterance
from ieat_jax.importers.tables import plain, rows_of

SPLITS = {"train": "train", "dev": "validation", "test": "test"}
BROKEN = {("train", 125, 3), ("dev", 110, 7)}
EXTRACT = "for clip in $(find . -name 'dia*.mp4'); do ffmpeg -i $clip -ac 1 -ar 16000 ${clip%.mp4}.wav; done"
_CLIP = re.compile(
    r"(?:.*/)?(?:(train)|(dev)|(test|output_repeated_splits_test))[^/]*/(?:[^/]+/)*dia(\d+)_utt(\d+)\.wav"
)


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every row of the lists and of every clip.

    Raises:
        CorpusError: no lists, no clips, or clips that are videos alone.
    """
    lists = place.named(r"(?:.*/)?(?:train|dev|test)_sent_emo\.csv", what="train_sent_emo.csv (dev, test)")
    if not any(path.lower().endswith(".wav") for path in place.files):
        raise CorpusError(
            f"{place.folder}: holds no .wav; MELD's clips are videos. Extract their sound first: {EXTRACT}"
        )
    clips: dict[tuple[str, int, int], str] = {}
    for path in place.recordings(example="train_splits/dia0_utt0.wav"):
        match = _CLIP.fullmatch(path)
        if match is None:
            extra = path.rpartition("/")[2].startswith("final_videos")
            yield Refused((path,), "extra_cut" if extra else "unknown_name", f"{path}: is no clip of the lists", extra)
            continue
        split = "train" if match[1] else "dev" if match[2] else "test"
        key = (split, int(match[4]), int(match[5]))
        if clips.setdefault(key, path) != path:
            yield Refused((path,), "double", f"{path}: {clips[key]} is the same utterance")
    for path in lists:
        yield from _rows(place, path, clips)


def _rows(place: Place, path: str, clips: dict[tuple[str, int, int], str]) -> Iterator[Found | Refused]:
    split = path.rpartition("/")[2].partition("_")[0]
    for number, row in rows_of(place.folder / path, "cp1252"):
        line = f"{path}:{number}"
        place.expect("rows", [line])
        inputs: tuple[str, ...] = (line,)
        try:
            if not isinstance(row, dict):
                raise Refusal("not_a_row", str(row))
            key = _key(split, row)
            if key in clips:
                inputs = (line, clips.pop(key))
            if key in BROKEN:
                raise Refusal("broken", "the video is broken in the published archive")
            if len(inputs) == 1:
                raise Refusal("missing", f"there is no clip dia{key[1]}_utt{key[2]}.wav of {split}")
            yield Found(_record(place, split, key, row, inputs[1]), inputs, SPLITS[split])
        except Refusal as refusal:
            yield Refused(inputs, refusal.code, f"{line}: {refusal.message}")


def _key(split: str, row: dict[str, str]) -> tuple[str, int, int]:
    try:
        return split, int(row["Dialogue_ID"]), int(row["Utterance_ID"])
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal("not_a_row", "needs whole numbers as Dialogue_ID and Utterance_ID") from error


def _record(place: Place, split: str, key: tuple[str, int, int], row: dict[str, str], clip: str) -> dict:
    return utterance(
        f"meld_{split}_dia{key[1]}_utt{key[2]}",
        place.audio(clip),
        text=plain(row.get("Utterance") or ""),
        emotion=row.get("Emotion"),
        source="human",
        language="en",
        speaker=f"meld_{plain(row['Speaker'])}" if row.get("Speaker") else None,
        dialogue=f"{split}_dia{key[1]}",
        place_in_dialogue=key[2],
        sentiment=row.get("Sentiment"),
    )


CORPUS = Corpus(
    name="meld",
    title="MELD, Multimodal EmotionLines Dataset",
    licence="GPL-3.0 (its lists); scenes of a series, for research",
    source="https://github.com/declare-lab/MELD (MELD.Raw.tar.gz)",
    find=find,
)
