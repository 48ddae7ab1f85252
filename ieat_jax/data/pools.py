"""The sentences of a think block: pools of paraphrases, and patterns made of the same pools that read them back.

Short sentences, so that a small model learns them. Slots stand in braces; what stands in brackets is left out when its
slots are unknown.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SEGMENTS = ("perceive", "state", "trajectory", "cause", "plan")

# The two languages' pools: kind of sentence -> paraphrases. 'steady' is a trajectory without a change.
POOLS = {
    "en": {
        "perceive": (
            'The user says "{transcript}"[{manner}][, with {events}].',
            'I hear "{transcript}"[{manner}][, with {events}].',
            'The words are "{transcript}"[{manner}][, with {events}].',
        ),
        "voice": (
            "The user speaks[{manner}][, with {events}].",
            "I hear the user[{manner}][, with {events}].",
        ),
        "state": (
            "The user feels {emotion}[ ({intensity})].",
            "The user is {emotion}[ ({intensity})].",
            "I sense they are {emotion}[ ({intensity})].",
        ),
        "trajectory": ("Their emotion moved {path}.", "The emotion went {path}.", "The feelings so far are {path}."),
        "steady": ("Their emotion stayed {emotion}.", "The emotion is still {emotion}."),
        "cause": ('This is because of "{cause}".', 'The cause is "{cause}".', 'The reason is "{cause}".'),
        "plan": (
            "I should answer in a {style} tone.",
            "I will reply in a {style} tone.",
            "I choose a {style} tone.",
        ),
        "events": ("There is {events}.", "One can hear {events}."),
    },
    "zh": {
        "perceive": (
            "用户[{manner}]说“{transcript}”[，伴有{events}]。",
            "我听到用户[{manner}]说“{transcript}”[，伴有{events}]。",
            "对方[{manner}]说“{transcript}”[，伴有{events}]。",
        ),
        "voice": ("用户[{manner}]说话[，伴有{events}]。", "我听到用户[{manner}]说话[，伴有{events}]。"),
        "state": (
            "用户感到{emotion}[（{intensity}）]。",
            "用户现在{emotion}[（{intensity}）]。",
            "我感觉用户{emotion}[（{intensity}）]。",
        ),
        "trajectory": ("情绪变化是{path}。", "情绪经历了{path}。", "到现在的情绪是{path}。"),
        "steady": ("情绪一直是{emotion}。", "情绪还是{emotion}。"),
        "cause": ("这是因为“{cause}”。", "原因是“{cause}”。", "起因是“{cause}”。"),
        "plan": ("我应该用{style}的语气回答。", "我要用{style}的语气回应。", "我选择{style}的语气。"),
        "events": ("可以听到{events}。", "听得到{events}。"),
    },
}
SEGMENT_OF = {
    "perceive": "perceive", "voice": "perceive", "events": "perceive", "state": "state", "trajectory": "trajectory",
    "steady": "trajectory", "cause": "cause", "plan": "plan",
}  # fmt: skip
ARROW = " -> "
GAP = "…"  # in a path: emotions that are not told
# Free causes, as a model may word them without quotation marks.
_FREE_CAUSES = {
    "en": r"(?:This is because(?: of)?|The cause is|The reason is) (?P<cause>[^\"\n]+?)[.!?](?=\s|$)",
    "zh": r"(?:这是因为|原因是|起因是)(?P<cause>[^“”\n]+?)[。！？]",
}
# What may stand in a slot; quoted slots hold anything but their quotation marks.
_SLOTS = {
    "en": {
        "transcript": r'[^"\n]*',
        "cause": r'[^"\n]+',
        "manner": r'(?: in |, sounding )[^".\n]+?',
        "events": r'[^".\n]+?',
        "intensity": "slight|moderate|strong",
        "*": r'[^".()\n]+?',
    },
    "zh": {
        "transcript": r"[^“”\n]*",
        "cause": r"[^“”\n]+",
        "manner": r"用[^“”。\n]+?",
        "events": r"[^“”。\n]+?",
        "intensity": "轻微|中等|强烈",
        "*": r"[^“”。（）\n]+?",
    },
}
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Known:
    """One kind of sentence of one language and the pattern that reads it."""

    kind: str
    language: str
    pattern: re.Pattern


def fill(template: str, facts: dict[str, str]) -> str:
    """A paraphrase with its slots filled; optional parts whose slots are unknown are left out."""
    text = ""
    for optional, pieces in _parsed(template):
        if not optional or all(name in facts for name in pieces[1::2]):
            text += "".join(facts[piece] if number % 2 else piece for number, piece in enumerate(pieces))
    if "style" in facts:
        text = re.sub(r"\ba (?=[aeiou]\w+ tone)", "an ", text)
    return text


@functools.cache
def _parsed(template: str) -> tuple[tuple[bool, tuple[str, ...]], ...]:
    """(whether it may be left out, its words and slots by turns) of the parts of a paraphrase."""
    return tuple((bool(optional), tuple(_SLOT.split(optional or fixed))) for optional, fixed in _PART.findall(template))


class Wordings(Sequence[str]):
    """Paraphrases of a sentence, filled when they are asked for: of many, one is used."""

    def __init__(self, templates: Sequence[str], facts: dict[str, str]):
        self._templates, self._facts = templates, facts

    def __len__(self) -> int:
        return len(self._templates)

    def __getitem__(self, number: Any) -> Any:
        return fill(self._templates[number], self._facts)


def _pattern(template: str, language: str) -> str:
    """The regular expression of one paraphrase."""
    slots = _SLOTS[language]
    pattern = ""
    for optional, fixed in _PART.findall(template):
        pieces = _SLOT.split(optional or fixed)
        part = "".join(
            f"(?P<{piece}>{slots.get(piece, slots['*'])})" if number % 2 else re.escape(piece)
            for number, piece in enumerate(pieces)
        )
        pattern += part if fixed else f"(?:{part})?"
    return pattern.replace(r"\ a\ (?P<style>", r"\ an?\ (?P<style>")


def _known() -> tuple[Known, ...]:
    sentences = []
    for language, pools in POOLS.items():
        for kind, templates in pools.items():
            sentences += [Known(kind, language, re.compile(_pattern(template, language))) for template in templates]
        sentences.append(Known("cause", language, re.compile(_FREE_CAUSES[language])))
    return tuple(sentences)


KNOWN = _known()
