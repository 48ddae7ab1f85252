"""The LLM's own replies: to what the teacher reads, once for every distinct prompt, kept beside what was there."""

import pytest

from ieat_jax.data.records import parse_record
from ieat_jax.errors import UserError
from ieat_jax.inference.generator import Reply
from ieat_jax.inference.self_responses import add_responses, told


class Echo:
    """Stands for a generator: answers with what it was asked, and remembers the requests."""

    def __init__(self, ended=True, tail=""):
        self.asked, self.ended, self.tail = [], ended, tail

    def reply(self, dialogues, *, think):
        assert not think
        self.asked += [tuple((turn.text, turn.response) for turn in turns) for turns in dialogues]
        return [self.answer(turns) for turns in dialogues]

    def answer(self, turns):
        text = f"You say:\n{turns[-1].text}{self.tail}" if turns[-1].text != "?" else ""
        return Reply("", text, None, None, True, self.ended, False, ())


def record(name, *turns):
    listed = [
        {"turn_id": number, "text": text, "emotion": emotion, "ieat": {"tone": "low"}}
        | ({"response_text": reply} if reply else {})
        for number, (text, emotion, reply) in enumerate(turns, 1)
    ]
    return parse_record({"dialogue_id": name, "turns": listed, "mine": 1})


def test_equal_prompts_are_answered_once_from_words_and_feeling():
    records = [record("a", ("Hm.", "sad", None)), record("b", ("Hm.", "sad", None)), record("c", ("Hm.", "fear", None))]
    echo = Echo()
    values, prompts = add_responses(records, echo, "model:x")
    assert prompts == len(echo.asked) == 2
    first, second, third = (value["turns"][0] for value in values)
    assert first["response_text"] == second["response_text"] == f"You say: {told(records[0], 0)}"
    assert "sad" in first["response_text"]
    assert "afraid" in third["response_text"]
    assert first["ieat"] == {"tone": "low", "response": {"source": "model:x"}}
    assert values[0]["mine"] == 1
    assert "response_text" not in records[0].turns[0].raw


def test_later_turns_follow_the_replies_and_a_reply_that_was_there_stays():
    dialogue = record("a", ("One.", "sad", "Kept."), ("Two.", None, None), ("Three.", None, None))
    echo = Echo()
    values, _ = add_responses([dialogue], echo, "model:x")
    replies = [turn["response_text"] for turn in values[0]["turns"]]
    assert replies == ["Kept.", "You say: Two.", "You say: Three."]
    assert echo.asked[1] == ((told(dialogue, 0), "Kept."), ("Two.", "You say: Two."), ("Three.", None))
    assert "response" not in values[0]["turns"][0]["ieat"]


def test_a_reply_that_was_cut_keeps_its_whole_sentences():
    values, _ = add_responses([record("a", ("One.", None, None))], Echo(ended=False, tail=" And th"), "model:x")
    assert values[0]["turns"][0]["response_text"] == "You say: One."


def test_no_answer_is_an_error_that_names_the_prompt():
    with pytest.raises(UserError, match=r"model:x answers nothing to '\?'"):
        add_responses([record("a", ("?", None, None))], Echo(), "model:x")
