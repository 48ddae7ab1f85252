"""HumDial, track 1 (emotional intelligence): spoken dialogues in Mandarin and English, as train, dev and test trees.

A list such as zh/HD-Track1-T1.jsonl names its recordings, or has them in a folder of its name (HD-Track1-T1/ID_1.wav).
"""

from collections.abc import Iterator

from ieat_jax.importers.corpus import Corpus, Found, Place, Refused
from ieat_jax.importers.dialogues import find_dialogues


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every dialogue.

    Raises:
        CorpusError: no list is there.
    """
    return find_dialogues(place, r"(?!.*quarantine\.jsonl).*\.jsonl")


CORPUS = Corpus(
    name="humdial",
    title="HumDial challenge (ICASSP 2026), track 1",
    licence="research, by the rules of the challenge",
    source="https://github.com/ASLP-lab/Hum-Dial",
    find=find,
)
