"""Emo-DB, the Berlin Database of Emotional Speech: ten actors, ten sentences, seven emotions.

Every sentence is spoken in every emotion, so only the voice says what is felt.
"""

import re
from pathlib import Path

from ieat_jax.errors import UserError

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
# Speakers never cross splits; each held-out pair is a man and a woman.
HELD_OUT = {"test": ("15", "16"), "validation": ("12", "13")}
_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z])\.wav")


class EmodbError(UserError):
    """A folder that is not Emo-DB."""


def import_emodb(wav_folder: str | Path, *, text: str = "de") -> dict[str, list[dict]]:
    """{'train', 'validation', 'test'} -> records, one per recording; audio paths are relative to `wav_folder`.

    Replies are not part of the corpus, so the records have none. `text`: 'de' = the words as spoken, 'en' = their
    English translation, for a teacher that reads no German.

    Raises:
        EmodbError: no recordings, or one whose name does not fit, which is named.
    """
    folder = Path(wav_folder)
    if not folder.is_dir():
        raise EmodbError(f"{folder}: no such folder; give the folder that holds Emo-DB's wav files")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".wav")
    if not files:
        raise EmodbError(f"{folder}: holds no wav files; give the folder with files such as 03a01Wa.wav")
    splits: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for file in files:
        record = _record(file, text)
        speaker = record["ieat_meta"]["speaker"]
        split = next((split for split, speakers in HELD_OUT.items() if speaker in speakers), "train")
        splits[split].append(record)
    return splits


def _record(file: Path, text: str) -> dict:
    match = _NAME.fullmatch(file.name)
    speaker, sentence, letter, take = match.groups() if match else ("", "", "", "")
    if speaker not in SPEAKERS or sentence not in SENTENCES or letter not in EMOTION_LETTERS:
        raise EmodbError(
            f"{file}: not a recording of Emo-DB; names are made of speaker, sentence, emotion letter and take, "
            "such as 03a01Wa.wav. Move other files out of the folder"
        )
    german, english = SENTENCES[sentence]
    label = EMOTION_LETTERS[letter]
    turn = {
        "turn_id": 1,
        "text": german if text == "de" else english,
        "emotion": label,
        "split_audio_file": file.name,
        "ieat": {"emotion": {"label": label, "source": "gold", "raw": letter}, "words": german, "translation": english},
    }
    meta = {
        "language": "de",
        "kind": "neutral_words",
        "speaker": speaker,
        "gender": SPEAKERS[speaker],
        "sentence": sentence,
        "take": take,
        "corpus": "emodb",
    }
    return {"dialogue_id": f"emodb_{file.stem}", "turns": [turn], "ieat_meta": meta}
