import pytest

from ieat_jax.data import labels as emotions
from ieat_jax.data.labels import EMOTIONS, HUMDIAL_EMOTIONS, INTENSITIES, STYLES, canonical_emotion, canonical_style


def test_labels():
    assert HUMDIAL_EMOTIONS == ("neutral", "happy", "sad", "anger", "fear", "surprise", "disgust")
    assert set(EMOTIONS) - set(HUMDIAL_EMOTIONS) == {"boredom"}
    assert (*HUMDIAL_EMOTIONS, "comfort", "encourage") == STYLES


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        ("happiness", "happy"), ("excited", "happy"), ("sadness", "sad"), ("angry", "anger"), ("surprised", "surprise"),
        (" Neutral ", "neutral"), ("ANGER", "anger"), ("高兴", "happy"), ("生气", "anger"), ("愤怒", "anger"),
        ("恐惧", "fear"), ("无聊", "boredom"), ("Ärger", "anger"), ("Angst", "fear"), ("Ekel", "disgust"),
        ("no  emotion", "neutral"), ("ｓａｄ", "sad"),
        (None, None), ("", None), ("other", None), ("W", None), ("comfort", None),
    ],
)  # fmt: skip
def test_spellings(raw, label):
    assert canonical_emotion(raw) == label


@pytest.mark.parametrize(
    ("raw", "label"),
    [("comfort", "comfort"), ("Comforting", "comfort"), ("安慰", "comfort"), ("鼓励", "encourage"),
     ("joy", "happy"), ("neutral", "neutral"), ("boredom", None), ("sarcastic", None), (None, None)],
)  # fmt: skip
def test_style_spellings(raw, label):
    assert canonical_style(raw) == label


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("labels", "word", "label_of"),
    [
        (EMOTIONS, emotions.emotion_word, emotions.label_of_word),
        (STYLES, emotions.style_word, emotions.style_of_word),
        (INTENSITIES, emotions.intensity_word, emotions.intensity_of_word),
    ],
)
def test_every_label_has_one_word_that_gives_it_back(language, labels, word, label_of):
    words = [word(label, language) for label in labels]
    assert len(set(words)) == len(labels)
    assert [label_of(each, language) for each in words] == list(labels)
    assert label_of("unknown", language) is None


@pytest.mark.parametrize("label", EMOTIONS)
def test_words_are_spellings_of_their_label(label):
    assert [canonical_emotion(emotions.emotion_word(label, language)) for language in ("en", "zh")] == [label, label]


def test_other_languages_think_in_english():
    assert emotions.emotion_word("fear", "de") == emotions.emotion_word("fear", "en") == "afraid"
