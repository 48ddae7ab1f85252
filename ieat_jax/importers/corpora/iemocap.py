"""IEMOCAP: ten actors in five sessions of two, improvised and from scripts, heard by annotators.

The letter in the name of a dialogue says who wears markers; who speaks is the last one (Ses01F_impro01_M003: the man).
Labels `xxx` (no agreement) and `oth` are unknown emotions. Every utterance is a dialogue of one turn: what the other
actor says next is no assistant's reply.
"""

import re
from collections.abc import Iterator

from ieat_jax.importers.corpus import Corpus, Found, Place, Refusal, Refused, by_name, held_out, utterance
from ieat_jax.importers.tables import lines_of, plain

PATTERN = (
    r"(?:.*/)?Session(?P<session>\d)/sentences/wav/[^/]+/"
    r"(?P<name>(?P<dialogue>Ses\d\d[FM]_[A-Za-z]+\d+[a-z]?(?:_\d)?[a-z]?)_(?P<who>[FM])[A-Z]*\d+)\.wav"
)
_LABEL = re.compile(r"\[([\d.]+)\s*-\s*([\d.]+)\]\s+(\S+)\s+(\S+)\s+\[([\d.]+),\s*([\d.]+),\s*([\d.]+)\]")
_WORDS = re.compile(r"(Ses\d\d[FM]_\S+)\s+\[[\d.\s-]+\]:\s*(.*)")


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every sentence; the recordings of whole dialogues are left."""
    labels, words = _labels(place), _words(place)

    def make(path: str, fields: dict[str, str]) -> Found:
        name, session = fields["name"], int(fields["session"])
        if name not in labels:
            raise Refusal("no_label", "stands in no file of dialog/EmoEvaluation")
        emotion, rated = labels[name]
        record = utterance(
            f"iemocap_{name}",
            place.audio(path),
            text=words.get(name, ""),
            emotion=emotion,
            source="human",
            language="en",
            speaker=f"iemocap_Ses{session:02d}{fields['who']}",
            gender="female" if fields["who"] == "F" else "male",
            session=session,
            dialogue=fields["dialogue"],
        )
        record["turns"][0]["valence_activation_dominance"] = rated
        return Found(record, (path,), held_out(str(session), validation=("4",), test=("5",)))

    return by_name(
        place,
        PATTERN,
        make,
        wanted=r"(?:.*/)?sentences/wav/.*\.wav",
        example="Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
        whole_path=True,
    )


def _labels(place: Place) -> dict[str, tuple[str, list[float]]]:
    """Utterance -> (label, how it was rated)."""
    found = {}
    for path in place.named(r"(?:.*/)?dialog/EmoEvaluation/[^/]+\.txt", what="dialog/EmoEvaluation"):
        for _, line in lines_of(place.folder / path, "cp1252"):
            if match := _LABEL.match(line):
                found[match[3]] = (match[4], [float(match[number]) for number in (5, 6, 7)])
    return found


def _words(place: Place) -> dict[str, str]:
    """Utterance -> what is said."""
    found = {}
    for path in place.named(r"(?:.*/)?dialog/transcriptions/[^/]+\.txt", what="dialog/transcriptions"):
        for _, line in lines_of(place.folder / path, "cp1252"):
            if match := _WORDS.match(line):
                found[match[1]] = plain(match[2])
    return found


CORPUS = Corpus(
    name="iemocap",
    title="IEMOCAP, Interactive Emotional Dyadic Motion Capture",
    licence="research only, on request",
    source="https://sail.usc.edu/iemocap",
    find=find,
)
