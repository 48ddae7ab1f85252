import dataclasses

import numpy as np
import pytest
from helpers.answers import item, measured, reply

SOUND = np.ones(8000, np.float32)


def spoken(texts, *, languages=None, transcripts, sounds=None):
    replies = [
        dataclasses.replace(reply("", text), waveform=SOUND if sounds is None else sounds[n], speech_ended=n == 0)
        for n, text in enumerate(texts)
    ]
    items = [item(-1, scores=False, language=language) for language in languages or ["en"] * len(texts)]
    made = ("speech", "transcripts")
    return measured(items, replies, made, spoken=range(len(texts)), transcripts=transcripts)["speech"]


def test_spoken_replies_are_measured_against_what_was_written():
    found = spoken(
        ["I am so sorry.", "Oh no.", ""],
        transcripts={0: "i am so very sorry", 1: ""},
        sounds=[SOUND, np.zeros(0, np.float32), SOUND],
    )
    assert found["wer"] == pytest.approx((1 + 2) / (4 + 2))  # an insertion; two words that were not said
    assert (found["n"], found["silent"], found["ended"]["value"]) == (2, 1, pytest.approx(1 / 3))
    assert "cer" not in found


def test_characters_are_counted_where_no_spaces_are_written():
    found = spoken(
        ["我丢了钥匙吗", "I am here.", "ฉันทำกุญแจหาย"],
        languages=["zh", "en", "en"],  # Thai without a label of its own
        transcripts={0: "我丢了钥匙呢", 1: "I am there.", 2: "ฉันทำกุญแจหาย"},
    )
    assert found["cer"] == pytest.approx(1 / (6 + 13))
    assert found["wer"] == pytest.approx(1 / 3)
    assert (found["n"], found["cer_n"]) == (1, 2)


def test_replies_without_a_word_have_no_rate():
    assert np.isnan(spoken(["..."], transcripts={0: ""})["wer"])
