"""CREMA-D: 91 actors say twelve sentences in six emotions.

1076_MTI_SAD_XX holds no sound in the published archive. The levels of intensity were asked for in one sentence alone.
"""

from collections.abc import Iterator

from ieat_jax.importers.corpus import Corpus, Found, Place, Refusal, Refused, by_name, held_out, utterance

SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
INTENSITIES = {"LO": "slight", "MD": "moderate", "HI": "strong"}  # XX, and an X in one name: not asked for
PATTERN = r"(?P<name>(?P<actor>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>[A-Z]{1,2}))\.(wav|mp3)"
EMPTY = ("1076_MTI_SAD_XX",)
# 70 of the 91 actors train.
VALIDATION = tuple(str(actor) for actor in range(1071, 1081))
TEST = tuple(str(actor) for actor in range(1081, 1092))


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every recording: of AudioWAV where it is there, else of AudioMP3."""

    def make(path: str, fields: dict[str, str]) -> Found:
        if fields["sentence"] not in SENTENCES:
            raise Refusal("unknown_name", f"CREMA-D has no sentence {fields['sentence']}")
        if fields["name"] in EMPTY:
            raise Refusal("silent", "holds no sound in the published archive")
        actor, code = fields["actor"], fields["emotion"]
        record = utterance(
            f"cremad_{fields['name']}",
            place.audio(path),
            text=SENTENCES[fields["sentence"]],
            emotion=EMOTIONS.get(code, code),
            raw=code,
            intensity=INTENSITIES.get(fields["level"]),
            language="en",
            speaker=f"cremad_{actor}",
            kind="neutral_words",
            sentence=fields["sentence"],
        )
        return Found(record, (path,), held_out(actor, validation=VALIDATION, test=TEST))

    uncompressed = any(path.lower().endswith(".wav") for path in place.files)
    wanted = r".*\.wav" if uncompressed else r".*\.mp3"
    return by_name(place, PATTERN, make, wanted=wanted, example="1001_DFA_ANG_XX.wav")


CORPUS = Corpus(
    name="cremad",
    title="CREMA-D, Crowd-sourced Emotional Multimodal Actors Dataset",
    licence="Open Database License 1.0",
    source="https://github.com/CheyneyComputerScience/CREMA-D (AudioWAV, by git lfs)",
    find=find,
)
