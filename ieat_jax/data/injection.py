"""IEAT injection: what the user feels and why, as sentences of a think block, and when they are shown.

Everything is a pure function of the record and of the choices that are passed in. An unknown label drops its sentence;
nothing is invented.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ieat_jax.config.sections import INJECTION_MODES, SEGMENTS, InjectionConfig
from ieat_jax.data.chance import Pick
from ieat_jax.data.labels import (
    canonical_emotion,
    canonical_style,
    emotion_word,
    intensity_of_word,
    intensity_word,
    label_of_word,
    style_of_word,
    style_word,
)
from ieat_jax.data.pools import ARROW, GAP, KNOWN, POOLS, SEGMENT_OF, Known, Wordings
from ieat_jax.data.records import Record, Turn, without_events

# A longer transcript is not repeated in the thinking: characters, by language.
LONGEST_TRANSCRIPT = {"en": 120, "zh": 40}
LONGEST_PATH = 8  # emotions of a trajectory: a sentence that grew with the dialogue would not fit into a row
BRACKETS = (" (", ")")  # around what a teacher is told besides a turn's words
_CHINESE_EVENTS = {
    "sigh": "叹气声", "laughter": "笑声", "laugh": "笑声", "cough": "咳嗽声", "clears throat": "清嗓子的声音",
    "sob": "抽泣声", "crying": "哭声", "breath": "呼吸声", "gasp": "倒吸气声", "sniff": "吸鼻子的声音",
}  # fmt: skip
_VOICE_ENDINGS = ("声音", "语气", "语调", "嗓音", "声")
_SENTENCE = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]?\s*")


def explicit_probability(config: InjectionConfig, index: Any) -> Any:
    """Chance that the example `index`, or each of an array of them, shows all of its thinking under the schedule."""
    progress = np.minimum(1.0, np.asarray(index) / config.decay_examples)
    return config.floor + (config.start - config.floor) * 0.5 * (1 + np.cos(np.pi * progress))


def choose_modes(config: InjectionConfig, index: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(modes, as indices into INJECTION_MODES; segments to remove from the left) of turns of the examples `index` [n].

    `draws` [3, n] are uniform in [0, 1). Segments are removed in mode 'partial' only.
    """
    progress = np.minimum(1.0, index / config.decay_examples) if config.mode == "schedule" else 0.0
    jitter = -config.jitter * np.log1p(-draws[2])  # exponential
    removed = 1 + (progress * (len(SEGMENTS) - 2) + jitter).astype(np.int64)
    explicit, partial, empty = (INJECTION_MODES.index(name) for name in ("explicit", "partial", "empty"))
    if config.mode == "schedule":
        rest = np.where(draws[1] < config.partial, partial, empty)
        modes = np.where(draws[0] < explicit_probability(config, index), explicit, rest)
    else:
        modes = np.full(len(index), INJECTION_MODES.index(config.mode))
    modes = np.where((modes == partial) & (removed >= len(SEGMENTS)), empty, modes)
    return modes, np.where(modes == partial, removed, 0)


def thinking_wordings(record: Record, turn_index: int) -> dict[str, Sequence[str]]:
    """Every paraphrase of a turn's think block: segment -> sentences, in the order of SEGMENTS.

    A segment whose facts are not annotated is absent. Thinking that the record brings itself is kept as the segment
    'state'; its template is used only when every fact that it names is known.
    """
    turn, language = record.turns[turn_index], _language(record)
    if turn.think_text:
        return {"state": (turn.think_text,)}
    facts = _facts(record, turn_index, language)
    if turn.think_template and (text := _filled_template(turn.think_template, facts)):
        return {"state": (text,)}
    found: dict[str, Sequence[str]] = {}
    for kind in ("perceive", "voice", "state", "trajectory", "steady", "cause", "plan"):
        # 'voice' stands in for 'perceive' where the words are unknown; both are perception.
        if SEGMENT_OF[kind] not in found and (sentences := _wordings(kind, facts, language)):
            found[SEGMENT_OF[kind]] = sentences
    return found


def told_wordings(record: Record, turn_index: int) -> dict[str, Sequence[str]]:
    """Every paraphrase of what a teacher is told besides the words: state, trajectory, cause, events -> sentences."""
    language = _language(record)
    facts = _facts(record, turn_index, language)
    kinds = {"state": "state", "trajectory": "trajectory", "steady": "trajectory", "cause": "cause", "events": "events"}
    found = ((name, _wordings(kind, facts, language)) for kind, name in kinds.items())
    return {name: sentences for name, sentences in found if sentences}


def thinking(record: Record, turn_index: int, pick: Pick) -> dict[str, str]:
    """The think block of a turn: segment -> sentence, in the order of SEGMENTS, a paraphrase picked for each."""
    wordings = thinking_wordings(record, turn_index)
    return {name: sentences[pick(name, len(sentences))] for name, sentences in wordings.items()}


def privileged(record: Record, turn_index: int, pick: Pick) -> tuple[str, ...]:
    """What the teacher is told besides the words: sentences on state, trajectory, cause and events, where known."""
    wordings = told_wordings(record, turn_index)
    return tuple(sentences[pick(name, len(sentences))] for name, sentences in wordings.items())


def told_pieces(text: str, sentences: Sequence[str], language: str) -> tuple[str, ...]:
    """The words of a turn and what is told besides them in brackets, as the pieces that become tokens one by one."""
    if not sentences:
        return (text,)
    opening, closing = BRACKETS
    return (text, opening, *joined(sentences, language), closing)


def joined(sentences: Sequence[str], language: str) -> tuple[str, ...]:
    """The sentences with what parts them: a space before all but the first, nothing in Chinese."""
    return tuple(
        sentence if number == 0 or language == "zh" else " " + sentence for number, sentence in enumerate(sentences)
    )


def provenance(record: Record, turn_index: int) -> dict[str, str]:
    """Where the labels behind the segments come from: gold, human, model:NAME; 'unstated' where nobody said.

    'perceive' is there only where somebody said where the tone or other sounds come from.
    """
    turn = record.turns[turn_index]
    sources = {}
    if heard := {source for source in (turn.tone_source, turn.events_source) if source}:
        sources["perceive"] = ", ".join(sorted(heard))
    if turn.emotion is not None:
        sources["state"] = turn.emotion_source or "unstated"
    if len(_path(record, turn_index)) > 1:
        earlier = {each.emotion_source or "unstated" for each in record.turns[: turn_index + 1]}
        sources["trajectory"] = ", ".join(sorted(earlier))
    if turn.cause is not None:
        sources["cause"] = turn.cause.source or "unstated"
    return sources


def parse_thinking(text: str) -> dict:
    """Read a think block of either language back.

    Returns 'valid' (a state is named, every sentence is known, no segment stands twice), 'emotion', 'intensity' and
    'cause' (None where not said), and 'transcript', 'style' and 'trajectory' (a list of labels).
    """
    found: dict = dict.fromkeys(("emotion", "intensity", "cause", "transcript", "style", "trajectory"))
    seen: set[str] = set()
    clean = True
    text = text.strip()
    while text:
        for known in KNOWN:
            match = known.pattern.match(text)
            facts = _read(known, match.groupdict()) if match else None
            if match and facts is not None:
                segment = SEGMENT_OF[known.kind]
                clean &= segment not in seen
                found |= {} if segment in seen else facts
                seen.add(segment)
                text = text[match.end() :].lstrip()
                break
        else:
            clean = False
            strange = _SENTENCE.match(text)
            text = text[(strange.end() if strange else 0) or 1 :].lstrip()
    return {"valid": clean and found["emotion"] is not None} | found


def _read(known: Known, slots: dict[str, str | None]) -> dict | None:
    """The labels behind the words of a sentence; None where a word is no label, so that it is another sentence."""
    language = known.language
    said = {name: words or "" for name, words in slots.items()}
    match known.kind:
        case "state":
            label = label_of_word(said["emotion"], language) or canonical_emotion(said["emotion"])
            intensity = intensity_of_word(said["intensity"], language) if said["intensity"] else None
            return {"emotion": label, "intensity": intensity} if label else None
        case "trajectory":
            words = [word for word in said["path"].split(ARROW.strip()) if word.strip() != GAP]
            labels = [canonical_emotion(word) for word in words]
            return {"trajectory": labels} if len(labels) > 1 and all(labels) else None
        case "steady":
            label = canonical_emotion(said["emotion"])
            return {"trajectory": [label]} if label else None
        case "cause":
            cause = said["cause"].strip()
            return {"cause": cause} if cause else None
        case "plan":
            style = style_of_word(said["style"], language) or canonical_style(said["style"])
            return {"style": style} if style else None
        case _:
            return {"transcript": slots.get("transcript")}


def _language(record: Record) -> str:
    return "zh" if record.language == "zh" else "en"


def _wordings(kind: str, facts: dict[str, str], language: str) -> Sequence[str]:
    """Every paraphrase of a kind of sentence; none where what it needs is unknown."""
    needed = {
        "perceive": "transcript", "voice": "heard", "state": "emotion", "trajectory": "path", "steady": "steady",
        "cause": "cause", "plan": "style", "events": "events",
    }  # fmt: skip
    return Wordings(POOLS[language][kind], facts) if needed[kind] in facts else ()


def _facts(record: Record, turn_index: int, language: str) -> dict[str, str]:
    """Slot -> words of everything that is known of a turn."""
    turn = record.turns[turn_index]
    facts = _heard(turn, language)
    if turn.emotion is not None:
        facts["emotion"] = emotion_word(turn.emotion, language)
        if turn.intensity is not None:
            facts["intensity"] = intensity_word(turn.intensity, language)
    path = _path(record, turn_index)
    if len(path) > 1:
        # Said of the whole dialogue, so 'emotion' here is the last of its path.
        kind = "path" if len(set(path)) > 1 else "steady"
        facts[kind] = ARROW.join(label if label == GAP else emotion_word(label, language) for label in _told(path))
    if turn.cause is not None and (cause := _quotable(turn.cause.text, language)):
        facts["cause"] = cause
    if turn.response_emotion is not None:
        facts["style"] = style_word(turn.response_emotion, language)
    return facts


def _heard(turn: Turn, language: str) -> dict[str, str]:
    """What can be heard: words, tone, other sounds."""
    facts = {}
    transcript = _quotable(without_events(turn.text), language)
    if transcript and len(transcript) <= LONGEST_TRANSCRIPT[language]:
        facts["transcript"] = transcript
    if turn.tone and (tone := _plain(turn.tone)):
        facts["tone"] = tone
        facts["manner"] = _manner(tone, language)
    events = [_plain(event) for event in turn.events]
    if language == "zh":
        events = [_CHINESE_EVENTS.get(event.lower(), event) for event in events]
    if events := [event for event in dict.fromkeys(events) if event]:
        facts["events"] = "、".join(events) if language == "zh" else " and ".join(events)
    if "tone" in facts or "events" in facts:
        facts["heard"] = ""
    return facts


def _manner(tone: str, language: str) -> str:
    if language == "zh":
        return f"用{tone}" if tone.endswith(_VOICE_ENDINGS) else f"用{tone}的语气"
    return f" in {tone}" if re.match(r"an? ", tone) else f", sounding {tone}"


def _path(record: Record, turn_index: int) -> list[str]:
    """The user's emotions up to a turn; empty where one of them is unknown."""
    labels = [turn.emotion for turn in record.turns[: turn_index + 1]]
    known = [label for label in labels if label is not None]
    return known if len(known) == len(labels) else []


def _told(path: list[str]) -> list[str]:
    """What is told of a trajectory: all of a short one, the changes of a longer one; of many how it began and ended."""
    if len(path) <= LONGEST_PATH:
        return path
    changes = [label for label, before in zip(path, ["", *path], strict=False) if label != before]
    return changes if len(changes) <= LONGEST_PATH else [changes[0], GAP, *changes[2 - LONGEST_PATH :]]


def _quotable(text: str, language: str) -> str:
    """Text that can stand in the quotation marks of a language, on one line."""
    text = " ".join(text.split())
    return text.replace("“", "‘").replace("”", "’") if language == "zh" else text.replace('"', "'")


def _plain(text: str) -> str:
    """A phrase that can stand in a sentence: without quotation marks and full stops."""
    return " ".join(re.sub(r'["“”.。]+', " ", text).split())


def _filled_template(template: str, facts: dict[str, str]) -> str:
    """A record's own template with its slots filled, '' where one is unknown."""
    slots: dict[str, str | None] = {"response_emotion": facts.get("style"), **facts}
    names = re.findall(r"\{(\w+)\}", template)
    if any(slots.get(name) is None for name in names):
        return ""
    return re.sub(r"\{(\w+)\}", lambda slot: str(slots[slot[1]]), template)
