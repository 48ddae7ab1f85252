"""TESS: two women say "Say the word ..." with 200 words in seven emotions.

Folders and names spell emotions and speakers in several ways: OAF_Pleasant_surprise and YAF_pleasant_surprised,
OAF_back_ps.wav, and OA_bite_neutral.wav among those of OAF. The copy at Kaggle holds everything twice.
"""

from collections.abc import Iterator

from ieat_jax.importers.corpus import Corpus, Found, Place, Refused, by_name, held_out, utterance
from ieat_jax.importers.doubles import without_doubles

EMOTIONS = {
    "angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happy", "neutral": "neutral", "ps": "surprise",
    "sad": "sad",
}  # fmt: skip
SPEAKERS = {"OA": "OAF", "YA": "YAF"}  # an older and a younger woman
PATTERN = r"(?P<name>(?P<speaker>OA|YA)F?_(?P<word>[A-Za-z\-']+)_(?P<emotion>[A-Za-z]+))\.wav"


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every recording."""

    def make(path: str, fields: dict[str, str]) -> Found:
        speaker, code = SPEAKERS[fields["speaker"]], fields["emotion"].lower()
        record = utterance(
            f"tess_{speaker}_{fields['word'].lower()}_{code}",
            place.audio(path),
            text=f"Say the word {fields['word'].lower()}.",
            emotion=EMOTIONS.get(code, code),
            raw=fields["emotion"],
            language="en",
            speaker=f"tess_{speaker}",
            gender="female",
            age=64 if speaker == "OAF" else 26,
            kind="neutral_words",
        )
        return Found(record, (path,), held_out(speaker, validation=(), test=("YAF",)))

    return without_doubles(place, by_name(place, PATTERN, make, example="OAF_back_angry.wav"))


CORPUS = Corpus(
    name="tess",
    title="TESS, Toronto Emotional Speech Set",
    licence="CC BY-NC-ND 4.0",
    source="https://doi.org/10.5683/SP2/E8H2MF (Borealis)",
    find=find,
)
