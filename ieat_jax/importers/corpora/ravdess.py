"""RAVDESS: 24 actors say two sentences in eight emotions. The speech; the songs have the channel 02 in their names.

Some recordings are in stereo, which `read_audio` averages. The copy at Kaggle holds everything twice.
"""

from collections.abc import Iterator

from ieat_jax.importers.corpus import Corpus, Found, Place, Refusal, Refused, by_name, held_out, utterance
from ieat_jax.importers.doubles import without_doubles

STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "anger", "06": "fear", "07": "disgust",
    "08": "surprise",
}  # fmt: skip
INTENSITIES = {"01": "moderate", "02": "strong"}
PATTERN = (
    r"(?P<name>0[123]-(?P<channel>\d\d)-(?P<emotion>\d\d)-(?P<intensity>\d\d)-(?P<statement>\d\d)"
    r"-(?P<repetition>\d\d)-(?P<actor>\d\d))\.wav"
)


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every recording."""

    def make(path: str, fields: dict[str, str]) -> Found:
        if fields["channel"] not in ("01", "02") or fields["statement"] not in STATEMENTS:
            raise Refusal("unknown_name", "RAVDESS has no such vocal channel or statement")
        actor, code = fields["actor"], fields["emotion"]
        label = EMOTIONS.get(code, code)
        record = utterance(
            f"ravdess_{fields['name']}",
            place.audio(path),
            text=STATEMENTS[fields["statement"]],
            emotion="neutral" if label == "calm" else label,
            raw=label,
            intensity=None if label == "neutral" else INTENSITIES.get(fields["intensity"]),
            language="en",
            speaker=f"ravdess_{actor}",
            gender="male" if int(actor) % 2 else "female",
            # Words that are sung say nothing about how people speak.
            kind="neutral_words" if fields["channel"] == "01" else "song",
        )
        split = held_out(actor, validation=("21", "22"), test=("23", "24"))
        return Found(record, (path,), split)

    return without_doubles(place, by_name(place, PATTERN, make, example="03-01-06-01-02-01-12.wav"))


CORPUS = Corpus(
    name="ravdess",
    title="RAVDESS, Ryerson Audio-Visual Database of Emotional Speech and Song",
    licence="CC BY-NC-SA 4.0",
    source="https://zenodo.org/records/1188976 (Audio_Speech_Actors_01-24.zip)",
    find=find,
)
