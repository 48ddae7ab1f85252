"""The labels: emotions of the user, styles of the reply, their spellings, and the word each has in a think block."""

import unicodedata
from types import MappingProxyType

# HumDial's seven, then our extension: Emo-DB labels boredom.
EMOTIONS = ("neutral", "happy", "sad", "anger", "fear", "surprise", "disgust", "boredom")
HUMDIAL_EMOTIONS = EMOTIONS[:7]
STYLES = (*HUMDIAL_EMOTIONS, "comfort", "encourage")
INTENSITIES = ("slight", "moderate", "strong")
LANGUAGES = ("en", "zh")  # of think blocks

# Label -> (English word, Chinese word) for a feeling, and for a tone of voice.
_EMOTION_WORDS = {
    "neutral": ("neutral", "平静"),
    "happy": ("happy", "开心"),
    "sad": ("sad", "难过"),
    "anger": ("angry", "生气"),
    "fear": ("afraid", "害怕"),
    "surprise": ("surprised", "惊讶"),
    "disgust": ("disgusted", "厌恶"),
    "boredom": ("bored", "无聊"),
}
_STYLE_WORDS = {
    "neutral": ("neutral", "平静"),
    "happy": ("happy", "开心"),
    "sad": ("sad", "难过"),
    "anger": ("angry", "生气"),
    "fear": ("worried", "担忧"),
    "surprise": ("surprised", "惊讶"),
    "disgust": ("disgusted", "厌恶"),
    "comfort": ("comforting", "安慰"),
    "encourage": ("encouraging", "鼓励"),
}
_INTENSITY_WORDS = {"slight": ("slight", "轻微"), "moderate": ("moderate", "中等"), "strong": ("strong", "强烈")}

# Further spellings (en, zh, de), compared without case; label names and words are added below.
_EMOTION_SPELLINGS = {
    "neutral": "calm, none, no emotion, no_emotion, 中性, 中立, 冷静, neutrale, ruhig, neutralität",
    "happy": "happiness, joy, joyful, excited, excitement, glad, 高兴, 快乐, 喜悦, 愉快, 兴奋, "
    "freude, fröhlich, froh, glücklich",
    "sad": "sadness, sorrow, unhappy, 悲伤, 伤心, 悲哀, 沮丧, trauer, traurig, traurigkeit",
    "anger": "angry, mad, furious, 愤怒, 恼怒, 气愤, wut, wütend, ärger, verärgert, zorn",
    "fear": "fearful, scared, frightened, anxious, anxiety, worried, 恐惧, 惊恐, 担心, 焦虑, angst, ängstlich, furcht",
    "surprise": "astonished, amazed, 吃惊, 惊奇, 惊喜, 意外, überraschung, überrascht",
    "disgust": "disgusting, 恶心, 反感, 嫌弃, ekel, angeekelt, angewidert",
    "boredom": "boring, 厌倦, langeweile, gelangweilt",
}
_STYLE_SPELLINGS = {
    "comfort": "comforting, consoling, console, soothing, 抚慰, 宽慰, tröstend, trost",
    "encourage": "encouraging, encouragement, supportive, 激励, 支持, ermutigend, ermutigung",
}


def _spelling(raw: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", raw).casefold().split())


def _table(words: dict, spellings: dict) -> MappingProxyType:
    table = {}
    for label, listed in spellings.items():
        names = {label, *words.get(label, ()), *listed.split(", ")}
        table |= {_spelling(name): label for name in names}
    return MappingProxyType(table)


_EMOTION_OF = _table(_EMOTION_WORDS, _EMOTION_SPELLINGS)
_STYLE_OF = MappingProxyType(
    {name: label for name, label in _EMOTION_OF.items() if label in STYLES} | _table(_STYLE_WORDS, _STYLE_SPELLINGS)
)


def canonical_emotion(raw: str | None) -> str | None:
    """The label of EMOTIONS that a spelling means (English, Chinese or German, any case), or None."""
    return None if raw is None else _EMOTION_OF.get(_spelling(raw))


def canonical_style(raw: str | None) -> str | None:
    """The label of STYLES that a spelling means, or None."""
    return None if raw is None else _STYLE_OF.get(_spelling(raw))


def emotion_word(label: str, language: str) -> str:
    """The one word for a feeling in think blocks of `language` ('zh', else English)."""
    return _EMOTION_WORDS[label][language == "zh"]


def label_of_word(word: str, language: str) -> str | None:
    """The emotion whose `emotion_word` this is, or None."""
    return _inverse(_EMOTION_WORDS, word, language)


def style_word(label: str, language: str) -> str:
    """The one word for a tone of reply in think blocks of `language`."""
    return _STYLE_WORDS[label][language == "zh"]


def style_of_word(word: str, language: str) -> str | None:
    """The style whose `style_word` this is, or None."""
    return _inverse(_STYLE_WORDS, word, language)


def intensity_word(label: str, language: str) -> str:
    """The one word for an intensity in think blocks of `language`."""
    return _INTENSITY_WORDS[label][language == "zh"]


def intensity_of_word(word: str, language: str) -> str | None:
    """The intensity whose `intensity_word` this is, or None."""
    return _inverse(_INTENSITY_WORDS, word, language)


def _inverse(words: dict[str, tuple[str, str]], word: str, language: str) -> str | None:
    for label, pair in words.items():
        if pair[language == "zh"] == word:
            return label
    return None
