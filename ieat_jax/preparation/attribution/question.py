"""What a turn lacks, and the question about it: a file of text with places to fill, one per language."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from ieat_jax.data.labels import EMOTIONS, INTENSITIES, STYLES, emotion_word
from ieat_jax.data.records import Record, Turn
from ieat_jax.errors import UserError
from ieat_jax.storage import local_path
from ieat_jax.text.checks import check_text

FIELDS = ("emotion", "intensity", "cause", "style", "think")
LANGUAGES = ("en", "zh")
_FIELD_LINE = re.compile(r'- "(\w+)"')
_SLOT = re.compile(r"\{(dialogue|turn|known|emotions|intensities|styles|words)\}")
_SPEAKERS = {"en": ("Turn {}, user: ", "Turn {}, assistant: "), "zh": ("第 {} 轮，用户：", "第 {} 轮，助手：")}
_KNOWN = {
    "en": ("The user's emotion is known: {}.", "What is known of it: {}."),
    "zh": ("已知用户的情绪是：{}。", "已知：{}。"),
}


class PromptError(UserError):
    """A file of a question that cannot be used."""


def lacking(record: Record, index: int, wanted: Collection[str], *, causes_again: bool = False) -> tuple[str, ...]:
    """Fields of a turn that nobody annotated, in the order of FIELDS.

    What is annotated as unknown (null, or a label that says so) is not lacking. A neutral turn lacks neither intensity
    nor cause. With `causes_again` only turns that have a cause with quotes lack it: to compare.
    """
    turn = record.turns[index]
    raw = turn.raw
    ours = raw.get("ieat") or {}
    emotion, response = ours.get("emotion") or {}, ours.get("response") or {}
    feels = turn.emotion is not None and turn.emotion != "neutral"
    asks_emotion = (
        "emotion" in wanted
        and turn.emotion is None
        and not {"emotion", "input_emotion"} & raw.keys()
        and "emotion" not in ours
    )
    if causes_again:
        return ("cause",) if "cause" in wanted and turn.cause is not None and turn.cause.evidence else ()
    open_ones = {
        "emotion": asks_emotion,
        "intensity": (feels or asks_emotion) and "intensity" not in emotion,
        "cause": (feels or asks_emotion) and "cause" not in ours,
        "style": turn.response_emotion is None and "emotion" not in response,
        "think": (turn.emotion is not None or asks_emotion) and "think" not in ours,
    }
    return tuple(name for name in FIELDS if name in wanted and open_ones[name])


def language_of(record: Record) -> str:
    """The language of its question: zh, else en."""
    return "zh" if record.language == "zh" else "en"


def read_prompts(folder: Path | None) -> dict[str, str]:
    """Language -> text of a question; those of `folder` in place of ours.

    Raises:
        PromptError: a file cannot be read, or lacks a place or a field.
    """
    found = {}
    for language in LANGUAGES:
        ours = Path(__file__).parent / "prompts" / f"{language}.txt"
        path = ours if folder is None or not (folder / ours.name).exists() else folder / ours.name
        try:
            text = local_path(path, "prompt").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PromptError(f"{path}: cannot be read as UTF-8 ({error})") from error
        check_text(text, str(path), blank=False)
        fields = {match[1] for line in text.splitlines() if (match := _FIELD_LINE.match(line))}
        if missing := [name for name in ("dialogue", "turn") if f"{{{name}}}" not in text]:
            raise PromptError(f"{path}: has no place {{{missing[0]}}}")
        if missing := [name for name in FIELDS if name not in fields]:
            raise PromptError(f'{path}: has no line that begins with - "{missing[0]}"')
        found[language] = text
    if folder is not None and not any((folder / f"{language}.txt").exists() for language in LANGUAGES):
        raise PromptError(f"{folder}: holds neither en.txt nor zh.txt")
    return found


def question(prompt: str, record: Record, index: int, fields: Collection[str], language: str) -> str:
    """The text of a question: lines about fields that are not lacking are left out."""
    lines = [
        line for line in prompt.strip().splitlines() if not (match := _FIELD_LINE.match(line)) or match[1] in fields
    ]
    turn = record.turns[index]
    asks_emotion = "emotion" in fields
    values = {
        "dialogue": _dialogue(record, index, language),
        "turn": str(turn.turn_id),
        "known": "" if asks_emotion or turn.emotion is None else _known(turn, language),
        "emotions": ", ".join(EMOTIONS),
        "intensities": ", ".join(INTENSITIES),
        "styles": ", ".join(STYLES),
        "words": "、".join(emotion_word(label, "zh") for label in EMOTIONS),
    }
    # In one pass: words of a dialogue that look like a place stay what they are.
    return _SLOT.sub(lambda slot: values[slot[1]], "\n".join(lines))


def _known(turn: Turn, language: str) -> str:
    word = turn.emotion or ""
    if language == "zh":
        word = f"{emotion_word(word, 'zh')} ({word})"
    return _KNOWN[language][0].format(word) + (
        " " + _KNOWN[language][1].format(turn.tone) if turn.tone is not None else ""
    )


def _dialogue(record: Record, index: int, language: str) -> str:
    """What is said up to a turn, its reply included where there is one: it shows the style."""
    user, assistant = _SPEAKERS[language]
    lines = []
    for turn in record.turns[: index + 1]:
        lines.append(user.format(turn.turn_id) + _line(turn.text))
        if turn.response_text:
            lines.append(assistant.format(turn.turn_id) + _line(turn.response_text))
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())
