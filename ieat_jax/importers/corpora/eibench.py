"""HumDial-EIBench: questions with four options about the emotions of spoken dialogues, for tests alone.

Its schema is not published. What is read is HumDial's line; question, options and answer are looked for under several
keys and, where there are none, in the words of the last turn ("... A. ... B. ... C. ... D. ..."). What was not found is
said. Task 4 (the words say one emotion, the voice another) is of the kind `conflict`.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ieat_jax.importers.corpus import Corpus, Found, Place, Refused
from ieat_jax.importers.dialogues import find_dialogues

KEYS = {
    "question": ("question", "query", "prompt"),
    "options": ("options", "choices", "candidates"),
    "answer": ("answer", "label", "correct_option", "ground_truth", "gt"),
}
_OPTION = re.compile(r"(?:^|\s)([A-D])[.、:：)]\s*(.*?)(?=\s[A-D][.、:：)]|$)", re.DOTALL)
_CONFLICT = re.compile(r"(?:^|[^a-z])(?:t|task)[ _-]?4(?![0-9])|conflict", re.IGNORECASE)


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every item.

    Raises:
        CorpusError: no list is there.
    """
    missing: Counter[str] = Counter()
    total = 0
    for item in find_dialogues(place, r"(?!.*quarantine\.jsonl).*\.jsonl?", split="test"):
        if isinstance(item, Found):
            total += 1
            meta = item.record["ieat_meta"]
            choice = _choice(item.record)
            missing.update(name for name in KEYS if name not in choice)
            kind = (
                {"kind": "conflict"}
                if _CONFLICT.search(f"{meta['humdial']['file']}/{item.record['dialogue_id']}")
                else {}
            )
            item = dataclasses.replace(item, record={**item.record, "ieat_meta": {**meta, **kind, "choice": choice}})
        yield item
    for name, count in missing.items():
        place.notes.append(f"no {name} in {count} of {total} items (looked for the keys {', '.join(KEYS[name])})")


def _choice(record: dict[str, Any]) -> dict[str, Any]:
    """Question, options and answer of an item, as far as they are found."""
    turns = record["turns"]
    owners = (record, turns[-1] if turns else {})
    found = {
        name: value
        for name, keys in KEYS.items()
        if (value := next((owner[key] for owner in owners for key in keys if owner.get(key) is not None), None))
        is not None
    }
    words = str(owners[1].get("input_text") or owners[1].get("text") or "")
    options = dict(_OPTION.findall(str(found.get("question", words))))
    if "options" not in found and len(options) >= 2:
        found["options"] = {letter: text.strip() for letter, text in options.items()}
        found.setdefault("question", words)
    return found


CORPUS = Corpus(
    name="eibench",
    title="HumDial-EIBench",
    licence="see its page (its code: Apache-2.0); for evaluation alone",
    source="https://huggingface.co/datasets/ASLP-lab/HumDial-EIBench",
    find=find,
)
