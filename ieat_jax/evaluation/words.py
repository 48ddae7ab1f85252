"""Texts compared: words, or characters where a language writes no spaces; error rate, and recall of content words."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

# Words that carry no content of a cause: closed-class English words. Text without spaces is compared by pairs of
# characters, which needs no list.
_FUNCTION_WORDS = frozenset(
    """
    a an the and or but so because of to in on at for from with by about as into out up down over off again very
    just too i me my mine myself we us our you your he him his she her it its they them their this that these those
    there here am is are was were be been being do does did have has had will would can could should may might must
    not no what which who when where why how
    """.split()  # noqa: SIM905
)
# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")
# Vowel signs and accents that stand as characters of their own: part of a word, though Python's \w leaves them out.
_MARKS = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M")
_SPACED_WORD = re.compile(rf"(?:[^\W\d_]|[{_MARKS}])+(?:'[a-z]+)?|\d+")
_NO_WORD = re.compile(rf"[^\w\s{_MARKS}]")
_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "km", "bo"})
# First word of a letter's name in Unicode -> the language that is written so, unless the label is one of those behind.
_SCRIPTS = {
    "CJK": ("zh", {"ja"}), "HIRAGANA": ("ja", set()), "KATAKANA": ("ja", set()), "HANGUL": ("ko", set()),
    "THAI": ("th", set()), "LAO": ("lo", set()), "MYANMAR": ("my", set()), "KHMER": ("km", set()),
    "TIBETAN": ("bo", set()),
}  # fmt: skip

_CONTRACTIONS = (
    (r"\bwon't\b", "will not"),
    (r"\bcan't\b", "cannot"),
    (r"\bcannot\b", "cannot"),
    (r"\blet's\b", "let us"),
    (r"n't\b", " not"),
    (r"'re\b", " are"),
    (r"'ll\b", " will"),
    (r"'ve\b", " have"),
    (r"'m\b", " am"),
    (r"\b(it|that|there|what|he|she|here|where|who|how)'s\b", r"\1 is"),
    (r"'d\b", " would"),
)
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_FILLERS = re.compile(r"\b(hmm|mm|mhm|uh|um)\b")


def _composed(text: str) -> str:
    """Text in one form: composed, full and half width the same."""
    text = unicodedata.normalize("NFKC", text)
    # The one letter of Thai and of Lao that this takes apart.
    return text.replace("\u0e4d\u0e32", "\u0e33").replace("\u0ecd\u0eb2", "\u0eb3")


def language_of(text: str, label: str) -> str:
    """The language that a text is in: that of its label, unless most of its letters are of another one's script."""
    text = _composed(text)
    counts = Counter(unicodedata.name(char, "?").split()[0] for char in text if char.isalpha())
    if not counts:
        return label
    if counts["HIRAGANA"] + counts["KATAKANA"] and label != "zh":
        counts["HIRAGANA"] += counts.pop("CJK", 0)
    language, others = _SCRIPTS.get(max(counts, key=counts.__getitem__), (label, set()))
    return label if label in others else language


def without_spaces(language: str) -> bool:
    """Whether a language writes no spaces between words, so that its texts are compared by characters."""
    return language in _WITHOUT_SPACES


def normalise(text: str, language: str = "en") -> list[str]:
    """What is compared of a text: words, or characters in a language without spaces; no case and no punctuation.

    Composed and decomposed characters are the same, so are full and half width. English is also freed of contractions,
    fillers and digits, after Whisper's normaliser.
    """
    text = _composed(text).lower().replace("’", "'")
    text = re.sub(r"[<\[][^>\]]*[>\]]|\([^)]*\)", " ", text)
    english = language == "en"
    if english:
        text = _FILLERS.sub(" ", text)
        for pattern, words in _CONTRACTIONS:
            text = re.sub(pattern, words, text)
        text = text.replace("'", "")
    words = _NO_WORD.sub(" ", text).split()
    if without_spaces(language):
        return list("".join(words))
    if english:
        return [_NUMBERS[int(word)] if word.isdecimal() and int(word) < len(_NUMBERS) else word for word in words]
    return words


def error_rate(references: Sequence[str], hypotheses: Sequence[str], languages: Sequence[str]) -> float:
    """Edits (substitutions, deletions, insertions) over all texts, divided by the number of reference words.

    In a language without spaces characters are counted.

    Raises:
        ValueError: no reference holds a word, or the lengths differ.
    """
    if not len(references) == len(hypotheses) == len(languages):
        raise ValueError(f"{len(references)} references, {len(hypotheses)} transcripts, {len(languages)} languages")
    texts = zip(references, hypotheses, languages, strict=True)
    pairs = [(normalise(said, language), normalise(heard, language)) for said, heard, language in texts]
    words = sum(len(reference) for reference, _ in pairs)
    if not words:
        raise ValueError("an error rate needs at least one reference word")
    return sum(edit_distance(reference, hypothesis) for reference, hypothesis in pairs) / words


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance of two sequences."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != found))
    return row[-1]


def content_words(text: str) -> set[str]:
    """A text's words that carry content: no English function words; pairs of letters where no spaces are written."""
    text = _composed(text).lower()
    words = {word for word in _SPACED_WORD.findall(_UNSPACED_RUN.sub(" ", text)) if word not in _FUNCTION_WORDS}
    for run in _UNSPACED_RUN.findall(text):
        words.update(run[i : i + 2] for i in range(max(len(run) - 1, 1)))
    return words


def content_recall(reference: str, hypothesis: str) -> float | None:
    """Share of the reference's content words that the hypothesis holds; None when the reference holds none."""
    wanted = content_words(reference)
    return len(wanted & content_words(hypothesis)) / len(wanted) if wanted else None
