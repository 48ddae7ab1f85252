"""The labels: emotions of the user, styles of the reply, their spellings, and the word each has in a think block."""

import functools
import re
import unicodedata
from collections.abc import Mapping
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

# Further spellings (en, zh, de), compared without case, brackets, hyphens and underscores; label names and words are
# added below. They are those of IEMOCAP, CREMA-D, RAVDESS, TESS, SAVEE, ESD, MELD, EmoV-DB, DailyDialog, RECCON,
# Emo-DB, MSP-Podcast, MER, AffectNet, SenseVoice and emotion2vec. One letter or a number means another thing in every
# corpus, so it is not understood. Choices: excited and amused are happy, frustrated is anger,
# contempt is disgust, worried is fear, calm is neutral, disappointed is sad.
_EMOTION_SPELLINGS = {
    "neutral": "neu, neutrality, neutral state, calm, none, no emotion, noemotion, 中性, 中立, 冷静, 平淡, 无情绪, "
    "neutrale, ruhig, neutralität, 😐",
    "happy": "hap, happiness, happines, joy, joyful, joyous, exc, excited, excitement, elated, glad, delighted, "
    "cheerful, amused, amusement, pleased, 高兴, 快乐, 喜悦, 愉快, 欢快, 兴奋, 激动, freude, freudig, fröhlich, "
    "froh, glücklich, 😊, 😄",
    "sad": "sadness, sorrow, sorrowful, unhappy, grief, depressed, disappointed, disappointment, 悲伤, 伤心, 悲哀, "
    "沮丧, 失望, trauer, traurig, traurigkeit, 😔, 😢",
    "anger": "ang, angry, mad, furious, rage, annoyed, annoyance, irritated, fru, frustrated, frustration, 愤怒, "
    "恼怒, 气愤, 烦躁, wut, wütend, ärger, ärgerlich, verärgert, zorn, zornig, 😡",
    "fear": "fea, fearful, scared, frightened, terrified, anxious, anxiety, nervous, worried, worry, 恐惧, 惊恐, "
    "恐慌, 担心, 担忧, 焦虑, 紧张, angst, ängstlich, furcht, furchtsam, 😰, 😨",
    "surprise": "sur, surprised, pleasant surprise, pleasant surprised, pleasantly surprised, ps, astonished, "
    "astonishment, amazed, 吃惊, 惊奇, 惊喜, 意外, 震惊, überraschung, überrascht, 😮",
    "disgust": "dis, disgusted, disgusting, contempt, contemptuous, 恶心, 反感, 嫌弃, 轻蔑, 蔑视, ekel, angeekelt, "
    "angewidert, 🤢",
    "boredom": "bored, boring, 厌倦, langeweile, gelangweilt",
}
_STYLE_SPELLINGS = {
    "comfort": "comforting, consoling, console, consolation, soothing, reassuring, empathetic, empathic, empathy, "
    "sympathetic, sympathy, caring, compassionate, gentle, warm, 抚慰, 宽慰, 同情, 关心, 关怀, 共情, 温柔, "
    "tröstend, trost, mitfühlend",
    "encourage": "encouraging, encouragement, supportive, motivating, inspiring, 激励, 支持, 鼓舞, ermutigend, "
    "ermutigung",
    "fear": "concerned, concern",
}
_INTENSITY_SPELLINGS = {
    "slight": "slightly, lo, low, weak, mild, light, 轻度, 弱, 低, 轻, leicht, schwach",
    "moderate": "md, med, mid, medium, normal, moderately, average, 中度, 中, 一般, 普通, mittel, mäßig",
    "strong": "hi, high, intense, severe, very, strongly, extreme, 重度, 强, 高, stark, hoch",
}
# Annotators who say that they do not know, or that it is none of our labels (EmoV-DB's sleepy).
_UNKNOWN = (
    "xxx, xx, oth, other, others, unk, und, unknown, emo unknown, undefined, unspecified, unclear, undecided, "
    "no agreement, n/a, na, nan, null, ?, -, sleepy, sleepiness, 其他, 其它, 未知, 不确定, 无法判断, andere, "
    "sonstige, unbekannt, unklar"
)
_LANGUAGE_SPELLINGS = {
    "en": "eng, english, american english, british english, us english, 英文, 英语, englisch",
    "zh": "zho, chi, cmn, yue, wuu, chinese, mandarin, mandarin chinese, cantonese, 中文, 汉语, 普通话, 国语, 粤语, "
    "chinesisch",
    "de": "deu, ger, german, deutsch, 德语, 德文",
    "fr": "fra, fre, french, français, 法语",
    "es": "spa, spanish, español, 西班牙语",
    "it": "ita, italian, italiano, 意大利语",
    "ja": "jpn, japanese, 日本語, 日语, 日文",
    "ko": "kor, korean, 한국어, 韩语",
    "ru": "rus, russian, русский, 俄语",
    "pt": "por, portuguese, português, 葡萄牙语",
}
_SOURCE_SPELLINGS = {
    "gold": "ground truth, gt, reference, acted, actor",
    "human": "annotator, annotators, annotated, manual, manually, crowd, crowdsourced, expert, 人工, mensch",
}
_BRACKETS = re.compile(r"<\|(.*)\|>|<(.*)>|\[(.*)\]|\((.*)\)|\"(.*)\"|'(.*)'")
_PARTS = re.compile(r"[/|,;+&、]")
_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_TAG = re.compile(r"([a-z]{2,3})( [a-z0-9]{1,8})*")


@functools.lru_cache(maxsize=4096)  # a corpus has few labels and many turns
def _spelling(raw: str) -> str:
    """One form for what differs by case, width, hyphens, brackets and German's two ways of writing umlauts."""
    text = unicodedata.normalize("NFKC", raw).casefold().strip()
    while match := _BRACKETS.fullmatch(text):
        text = next(inner for inner in match.groups() if inner is not None).strip()
    text = " ".join(re.sub(r"[_\-\s]+", " ", text).split()).rstrip(".!。") or text
    return text.translate(_UMLAUTS)


_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})


def _table(words: dict, spellings: dict) -> MappingProxyType:
    table: dict[str, str] = {}
    for label in dict.fromkeys((*words, *spellings)):
        names = {label, *words.get(label, ()), *filter(None, spellings.get(label, "").split(", "))}
        table |= {_spelling(name): label for name in names}
    return MappingProxyType(table)


_EMOTION_OF = _table(_EMOTION_WORDS, _EMOTION_SPELLINGS)
_STYLE_OF = MappingProxyType(
    {name: label for name, label in _EMOTION_OF.items() if label in STYLES} | _table(_STYLE_WORDS, _STYLE_SPELLINGS)
)
_INTENSITY_OF = _table(_INTENSITY_WORDS, _INTENSITY_SPELLINGS)
_LANGUAGE_OF = _table({}, _LANGUAGE_SPELLINGS)
_SOURCE_OF = _table({}, _SOURCE_SPELLINGS)
_UNKNOWN_SPELLINGS = frozenset(map(_spelling, _UNKNOWN.split(", "))) | {""}


def _read(raw: str | None, table: Mapping[str, str]) -> str | None:
    """The label that a spelling means. Of several ('生气/angry') all have to mean the same."""
    if raw is None:
        return None
    text = _spelling(raw)
    labels = {table.get(text)} if text in table else {table.get(_spelling(part)) for part in _PARTS.split(text)}
    return labels.pop() if len(labels) == 1 else None


def canonical_emotion(raw: str | None) -> str | None:
    """The label of EMOTIONS that a spelling means (English, Chinese or German, any case), or None."""
    return _read(raw, _EMOTION_OF)


def canonical_style(raw: str | None) -> str | None:
    """The label of STYLES that a spelling means, or None."""
    return _read(raw, _STYLE_OF)


def canonical_intensity(raw: str | None) -> str | None:
    """The label of INTENSITIES that a spelling means, or None."""
    return _read(raw, _INTENSITY_OF)


def canonical_language(raw: str | None) -> str | None:
    """The two-letter code of a language that is named in words, or by a code or tag ('zh-CN', 'cmn'), or None.

    A tag of another language gives its first part.
    """
    found = _read(raw, _LANGUAGE_OF)
    if found is None and raw is not None:
        text = _spelling(raw.partition("(")[0])  # Chinese (Mandarin)
        tag = _TAG.fullmatch(text)
        first = tag[1] if tag and tag[1] not in _UNKNOWN_SPELLINGS else None
        found = _LANGUAGE_OF.get(text) or _LANGUAGE_OF.get(first, first)
    return found


def language_of_script(text: str) -> str:
    """The language of words that nobody named one for, by their script."""
    return "ja" if _KANA.search(text) else "zh" if _CHINESE.search(text) else "en"


def canonical_kind(raw: str | None) -> str | None:
    """A kind of record, however its words are parted."""
    return None if raw is None else re.sub(r"[\s_-]+", "_", raw.strip().lower())


def canonical_source(raw: str | None) -> str | None:
    """Where a label is from: 'gold', 'human' or 'model:NAME' however they are spelled; anything else as it stands."""
    if raw is None:
        return None
    kind, colon, name = raw.partition(":")
    if colon and _spelling(kind) == "model":
        return f"model:{name.strip()}"
    return _SOURCE_OF.get(_spelling(raw), raw)


def says_unknown(raw: str) -> bool:
    """Whether an annotation says by itself that nothing is known: IEMOCAP's `xxx`, emotion2vec's `其他/other`."""
    text = _spelling(raw)
    return text in _UNKNOWN_SPELLINGS or all(_spelling(part) in _UNKNOWN_SPELLINGS for part in _PARTS.split(text))


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
