"""EmoV-DB: four speakers read sentences of CMU Arctic in five emotions.

Emotions are spelled in several ways and cut short (anger, Angry; sleepiness, Sleepy, sleep; disgust, Disgusted), so
that the first letters count, of the name and, where a name begins otherwise, of the folder. Sentences stand in
cmuarctic.data, which has to be put into the folder; without it the words are unknown.
"""

import re
from collections.abc import Iterator

from ieat_jax.importers.corpus import Corpus, Found, Place, Refusal, Refused, by_name, held_out, utterance
from ieat_jax.importers.tables import lines_of

EMOTIONS = {"amu": "happy", "ang": "anger", "dis": "disgust", "neu": "neutral", "sle": "sleepy"}
SPEAKERS = {"bea": "female", "jenie": "female", "josh": "male", "sam": "male"}
# bea_Amused/amused_1-15_0001.wav, or bea/Amused/amused_1-15_0001.wav
PATTERN = (
    r"(?:.*/)?(?P<speaker>bea|jenie|josh|sam)[/_](?P<folder>[A-Za-z]+)/"
    r"(?P<word>[A-Za-z]*)[_-]?\d*-?\d*_(?P<number>\d{1,4})\.wav"
)
_ARCTIC = re.compile(r"\(\s*(arctic_[ab]\d{4})\s+\"(.*)\"\s*\)")
FIRST_PART = 593  # sentences arctic_a; the numbers of the recordings are theirs


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every recording."""
    sentences = _sentences(place)

    def make(path: str, fields: dict[str, str]) -> Found:
        speaker, number = fields["speaker"].lower(), int(fields["number"])
        words = [fields["word"][:3].lower(), fields["folder"][:3].lower()]
        found = list(dict.fromkeys(EMOTIONS[word] for word in words if word in EMOTIONS))
        if len(found) > 1:
            raise Refusal("label_conflict", f"the folder says {fields['folder']}, the name {fields['word']}")
        label = found[0] if found else fields["folder"]
        record = utterance(
            f"emovdb_{speaker}_{words[1]}_{path.rpartition('/')[2][: -len('.wav')].lower()}",
            place.audio(path),
            text=sentences.get(number, ""),
            emotion=label,
            raw=fields["folder"],
            language="en",
            speaker=f"emovdb_{speaker}",
            gender=SPEAKERS[speaker],
            kind="neutral_words",
            sentence=f"arctic_a{number:04d}" if number <= FIRST_PART else None,
        )
        return Found(record, (path,), held_out(speaker, validation=("jenie",), test=("josh",)))

    example = "bea_Amused/amused_1-15_0001.wav"
    return by_name(place, f"(?i:{PATTERN})", make, example=example, whole_path=True)


def _sentences(place: Place) -> dict[int, str]:
    lists = place.named(r"(?:.*/)?cmuarctic\.data", what="cmuarctic.data", required=False)
    if not lists:
        place.notes.append(
            "the words are unknown: put http://www.festvox.org/cmu_arctic/cmuarctic.data into the folder"
        )
        return {}
    found = {}
    for _, line in lines_of(place.folder / lists[0], "cp1252"):
        match = _ARCTIC.fullmatch(line.strip())
        if match and match[1].startswith("arctic_a"):
            found[int(match[1][-4:])] = match[2]
    return found


CORPUS = Corpus(
    name="emovdb",
    title="EmoV-DB, Emotional Voices Database",
    licence="non-commercial research (see its page)",
    source="https://www.openslr.org/115, https://github.com/numediart/EmoV-DB",
    find=find,
)
