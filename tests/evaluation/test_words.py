import unicodedata

import pytest

from ieat_jax.evaluation.words import content_recall, content_words, error_rate, language_of, normalise


def test_content_words_leave_function_words_out():
    assert content_words("This is because I lost my keys this morning.") == {"lost", "keys", "morning"}
    assert content_words("我丢了钥匙") == {"我丢", "丢了", "了钥", "钥匙"}


def test_content_recall():
    assert content_recall("I lost my keys", "They lost the wallet.") == pytest.approx(0.5)
    assert content_recall("it is", "anything") is None


def test_content_words_of_other_scripts_are_whole():
    assert content_words("keys") == content_words("KEYS")
    assert content_words(unicodedata.normalize("NFD", "Schlüssel")) == {"schlüssel"}
    assert content_words("मेरी चाबी") == {"मेरी", "चाबी"}
    assert content_words("かぎ") == {"かぎ"}
    assert content_recall("鍵をなくした", "鍵をなくしたのです") == 1
    assert content_recall("กุญแจหาย", "กุญแจ") > 0.5


# One character of six is wrong: 1/6, not 1, whatever the language without spaces.
@pytest.mark.parametrize(
    ("language", "said", "heard"),
    [
        ("zh", "我丢了钥匙吗", "我丢了钥匙呢"),
        ("ja", "かぎがないよ", "かぎがないね"),
        ("th", "กขคงจฉ", "กขคงจช"),
        ("lo", "ກຂຄງຈສ", "ກຂຄງຈຊ"),
        ("my", "ကခဂဃငစ", "ကခဂဃငဆ"),
        ("km", "កខគឃងច", "កខគឃងឆ"),
    ],
)
def test_languages_without_spaces_are_compared_by_characters(language, said, heard):
    assert error_rate([said], [heard], [language]) == pytest.approx(1 / 6)
    assert error_rate([said], [" ".join(said) + "。"], [language]) == 0  # spaces and punctuation are no characters


@pytest.mark.parametrize(
    ("language", "text"),
    [("fr", "À bientôt, l'été à Orléans"), ("de", "Schöne Grüße"), ("vi", "Tôi bị mất chìa khóa rồi"), ("ja", "がぎぐ"),
     ("ko", "열쇠를 잃어버렸어요"), ("en", "A café, naïve"), ("hi", "मेरी चाबी खो गई"), ("th", "ฉันทำกุญแจหาย")],
)  # fmt: skip
def test_composed_and_decomposed_text_is_the_same(language, text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert error_rate([composed], [decomposed], [language]) == 0
    assert error_rate([decomposed], [composed], [language]) == 0
    spaced = language not in ("ja", "th")
    assert len(normalise(decomposed, language)) == (len(text.split()) if spaced else len(normalise(text, language))) + (
        language == "fr"  # l'ete is two words
    )


def test_one_wrong_word_of_three_in_a_language_of_marks():
    assert error_rate(["मेरी चाबी कहाँ"], ["मेरी गाड़ी कहाँ"], ["hi"]) == pytest.approx(1 / 3)


def test_only_english_is_freed_of_contractions_fillers_and_digits():
    assert error_rate(["I won't, um, take 3."], ["i will not take three"], ["en"]) == 0
    assert normalise("Um 3 Uhr", "de") == ["um", "3", "uhr"]


def test_english_as_before():
    assert error_rate(["I can't find my keys."], ["I cannot find the keys"], ["en"]) == pytest.approx(1 / 5)
    assert normalise("<b>It’s</b> (sigh) twelve-thirty, 12!") == ["it", "is", "twelve", "thirty", "twelve"]
    with pytest.raises(ValueError, match="at least one reference word"):
        error_rate(["..."], ["a"], ["en"])


@pytest.mark.parametrize(
    ("text", "label", "language"),
    [("Oh no.", "en", "en"), ("Oh nein.", "de", "de"), ("我丢了钥匙", "en", "zh"), ("我丢了钥匙", "zh", "zh"),
     ("大丈夫", "ja", "ja"), ("鍵がない", "en", "ja"), ("鍵がない", "zh", "ja"), ("ฉันทำกุญแจหาย", "en", "th"),
     ("괜찮아요", "en", "ko"), ("我用 iPhone", "zh", "zh"), ("ｶﾞﾝﾊﾞﾚ", "en", "ja"), ("...", "fr", "fr")],
)  # fmt: skip
def test_the_language_of_what_was_written(text, label, language):
    assert language_of(text, label) == language
