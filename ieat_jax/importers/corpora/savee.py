"""SAVEE: four Englishmen, seven emotions.

The speaker is a folder (AudioData/DC/a01.wav) or, in flat copies, a prefix (DC_a01.wav). The words stand in no list.
"""

from collections.abc import Iterator

from ieat_jax.importers.corpus import Corpus, Found, Place, Refused, by_name, held_out, utterance

EMOTIONS = {
    "a": "anger", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprise",
}  # fmt: skip
PATTERN = r"(?:.*/)?(?P<speaker>DC|JE|JK|KL)[/_]?(?P<code>[a-z]{1,2})(?P<number>\d\d)\.wav"


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every recording."""

    def make(path: str, fields: dict[str, str]) -> Found:
        speaker, code = fields["speaker"], fields["code"]
        record = utterance(
            f"savee_{speaker}_{code}{fields['number']}",
            place.audio(path),
            emotion=EMOTIONS.get(code, code),
            raw=code,
            language="en",
            speaker=f"savee_{speaker}",
            gender="male",
        )
        return Found(record, (path,), held_out(speaker, validation=("JK",), test=("KL",)))

    return by_name(place, PATTERN, make, example="AudioData/DC/a01.wav or DC_a01.wav", whole_path=True)


CORPUS = Corpus(
    name="savee",
    title="SAVEE, Surrey Audio-Visual Expressed Emotion",
    licence="free for research, on registration",
    source="http://kahlan.eps.surrey.ac.uk/savee/Download.html",
    find=find,
)
