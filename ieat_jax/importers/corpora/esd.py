"""ESD: ten speakers of Mandarin and ten of English say 350 sentences each in five emotions.

Label files are in UTF-16, UTF-8, GB 18030 or Windows-1252, by speaker; some of their lines lack a tab or the label. The
official splits share speakers. Later releases have no folders for splits: the numbers say them.
"""

import re
from collections.abc import Iterator

from ieat_jax.importers.corpus import (
    Corpus,
    CorpusError,
    Found,
    Place,
    Refusal,
    Refused,
    by_name,
    held_out,
    split_named,
    utterance,
)
from ieat_jax.importers.tables import lines_of, plain

MEN = {"0004", "0005", "0006", "0008", "0010", "0011", "0012", "0013", "0014", "0020"}
PATTERN = (
    r"(?:.*/)?(?P<speaker>\d{4})/(?P<emotion>[^/]+)/(?:(?P<split>train|evaluation|test)/)?"
    r"(?P<name>(?P=speaker)_(?P<number>\d{6}))\.wav"
)
SENTENCES = 350  # per emotion; of them the first 20 evaluate, the next 30 test
_LINE = re.compile(r"(\d{4}_\d{6})\s+(.*)")
_LABELS = r"(?:neutral|angry|happy|sad|surprise|中立|生气|快乐|开心|伤心|惊喜|惊讶)"


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every recording; `splits=speaker` holds out speakers instead of sentences.

    Raises:
        CorpusError: no such splits.
    """
    if place.options["splits"] not in ("official", "speaker"):
        raise CorpusError(f"--option splits={place.options['splits']}: official or speaker")
    texts: dict[str, dict[str, str]] = {}

    def make(path: str, fields: dict[str, str]) -> Found:
        speaker = fields["speaker"]
        if speaker not in texts:
            texts[speaker] = _texts(place, speaker)
        text = texts[speaker].get(fields["name"])
        if text is None:
            raise Refusal("no_text", f"{speaker}.txt has no line for it")
        record = utterance(
            f"esd_{fields['name']}",
            place.audio(path),
            text=text,
            emotion=fields["emotion"],
            language="zh" if int(speaker) <= 10 else "en",
            speaker=f"esd_{speaker}",
            gender="male" if speaker in MEN else "female",
            kind="neutral_words",
        )
        official = split_named(fields["split"] or _split_of_number(int(fields["number"])))
        # A woman and a man of each language are held out for each.
        held = held_out(speaker, validation=("0007", "0008", "0018", "0020"), test=("0009", "0010", "0019", "0014"))
        return Found(record, (path,), held if place.options["splits"] == "speaker" else official or "train")

    return by_name(place, PATTERN, make, example="0011/Angry/train/0011_000401.wav", whole_path=True)


def _split_of_number(number: int) -> str:
    place = (number - 1) % SENTENCES
    return "evaluation" if place < 20 else "test" if place < 50 else "train"


def _texts(place: Place, speaker: str) -> dict[str, str]:
    (*_, path) = place.named(rf"(?:.*/)?{speaker}/{speaker}\.txt", what=f"{speaker}/{speaker}.txt")
    found = {}
    for _, line in lines_of(place.folder / path, "gb18030" if int(speaker) <= 10 else "cp1252", "latin-1"):
        if match := _LINE.fullmatch(line.strip().lstrip("\ufeff")):
            found[match[1]] = plain(re.sub(rf"\s+{_LABELS}$", "", match[2].strip(), flags=re.IGNORECASE))
    return found


CORPUS = Corpus(
    name="esd",
    title="ESD, Emotional Speech Dataset",
    licence="research only, on request",
    source="https://github.com/HLTSingapore/Emotional-Speech-Data",
    find=find,
    options={"splits": ("official", "official (by sentence, speakers are shared) or speaker")},
)
