"""Emo-DB, the Berlin Database of Emotional Speech: ten actors, ten sentences, seven emotions.

Every sentence is spoken in every emotion, so only the voice says what is felt.
"""

from collections.abc import Iterator

from ieat_jax.importers.corpus import Corpus, CorpusError, Found, Place, Refusal, Refused, by_name, held_out, utterance

# code -> (German, English)
SENTENCES = {
    "a01": ("Der Lappen liegt auf dem Eisschrank.", "The cloth is lying on the fridge."),
    "a02": ("Das will sie am Mittwoch abgeben.", "She wants to hand it in on Wednesday."),
    "a04": ("Heute abend könnte ich es ihm sagen.", "Tonight I could tell him."),
    "a05": (
        "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
        "The black piece of paper is up there beside the piece of wood.",
    ),
    "a07": ("In sieben Stunden wird es soweit sein.", "In seven hours it will be time."),
    "b01": (
        "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
        "What are those bags standing there under the table?",
    ),
    "b02": (
        "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
        "They have just carried it upstairs and now they are going down again.",
    ),
    "b03": (
        "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
        "On the weekends I have always gone home now and visited Agnes.",
    ),
    "b09": (
        "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
        "I just want to take this away and then go for a drink with Karl.",
    ),
    "b10": (
        "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
        "It will be in the place where we always put it.",
    ),
}
EMOTION_LETTERS = {
    "W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happy", "T": "sad", "N": "neutral",
}  # fmt: skip
SPEAKERS = {
    "03": "male", "08": "female", "09": "female", "10": "male", "11": "male",
    "12": "male", "13": "female", "14": "female", "15": "male", "16": "female",
}  # fmt: skip


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every recording; the words are German, or English for a teacher that reads no German.

    Raises:
        CorpusError: no such language.
    """
    language = place.options["text"]
    if language not in ("de", "en"):
        raise CorpusError(f"--option text={language}: de (as spoken) or en (in English)")

    def make(path: str, fields: dict[str, str]) -> Found:
        if fields["speaker"] not in SPEAKERS or fields["sentence"] not in SENTENCES:
            raise Refusal("unknown_name", "Emo-DB has no such speaker or sentence")
        german, english = SENTENCES[fields["sentence"]]
        record = utterance(
            f"emodb_{fields['name']}",
            place.audio(path),
            text=german if language == "de" else english,
            emotion=EMOTION_LETTERS.get(fields["letter"], fields["letter"]),
            raw=fields["letter"],
            language="de",
            speaker=fields["speaker"],
            kind="neutral_words",
            gender=SPEAKERS[fields["speaker"]],
            sentence=fields["sentence"],
            take=fields["take"],
        )
        record["turns"][0]["ieat"] |= {"words": german, "translation": english}
        # Speakers never cross splits; each held-out pair is a man and a woman.
        split = held_out(fields["speaker"], validation=("12", "13"), test=("15", "16"))
        return Found(record, (path,), split)

    pattern = r"(?P<name>(?P<speaker>\d\d)(?P<sentence>[ab]\d\d)(?P<letter>[A-Z])(?P<take>[a-z]?))\.wav"
    return by_name(place, pattern, make, example="03a01Wa.wav")


CORPUS = Corpus(
    name="emodb",
    title="Emo-DB, Berlin Database of Emotional Speech",
    licence="free of charge; see its page",
    source="http://emodb.bilderbar.info, https://zenodo.org/records/7447302",
    find=find,
    options={"text": ("de", "words as spoken (de), or in English for an English LLM (en)")},
)
