"""An endpoint that is busy, away, wrong or odd; and the memory of what it answered."""

import json
import threading
import time

import pytest
from helpers.fake_endpoint import completion, endpoint

from ieat_jax.inference.prompt import UserTurn
from ieat_jax.preparation.asking.endpoint import Endpoint
from ieat_jax.preparation.asking.recorded import AskError, Recorded

SETTINGS = {"max_tokens": 9}


def asked(served, **settings):
    return Endpoint(served.address, "m", "Be kind.", 9, **({"pause": 0.01, "timeout": 2.0, "workers": 2} | settings))


def recorded(path, llm, **settings):
    return Recorded(llm, path, "m", "Be kind.", SETTINGS | settings)


def questions(*texts):
    return [(UserTurn(text=text),) for text in texts]


def echo(body, number):
    return f"You say {body['messages'][-1]['content']}"


def texts(answers):
    return [answer if isinstance(answer, str) else getattr(answer, "text", str(answer)) for answer in answers]


def test_what_is_sent(tmp_path):
    dialogue = (UserTurn(text="One?", response="Two."), UserTurn(text="三？"))
    with endpoint(echo) as served:
        llm = recorded(tmp_path / "a.jsonl", asked(served, key="secret", extra={"seed": 1, "temperature": None}))
        (reply,) = llm.replies([dialogue])
        llm.close()
    assert (reply.text, reply.response_ended) == ("You say 三？", True)
    ((headers, body),) = served.requests
    assert body == {
        "model": "m", "max_tokens": 9, "seed": 1, "messages": [
            {"role": "system", "content": "Be kind."}, {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."}, {"role": "user", "content": "三？"},
        ],
    }  # fmt: skip
    assert headers["path"] == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert "secret" not in (tmp_path / "a.jsonl").read_text() + repr(asked(served, key="secret"))


def test_what_was_answered_is_never_asked_again(tmp_path):
    path = tmp_path / "a.jsonl"
    with endpoint(echo) as served:
        llm = recorded(path, asked(served))
        assert texts(llm.answers(questions("a", "b", "a"))) == ["You say a", "You say b", "You say a"]
        assert llm.account((1.0, 10.0)) == "2 questions asked: 20 tokens read, 10 written: 0.00 at the --price"
        llm.close()
        assert len(served.requests) == 2
        again = recorded(path, asked(served))
        assert texts(again.answers(questions("a", "b", "c"))) == ["You say a", "You say b", "You say c"]
        again.close()
        assert len(served.requests) == 3
        other = recorded(path, asked(served), max_tokens=8)  # another limit is another question
        other.answers(questions("a"))
        other.close()
        assert len(served.requests) == 4
    replay = recorded(path, None)
    assert texts(replay.answers(questions("c"))) == ["You say c"]
    with pytest.raises(AskError, match="has no answer of m to 1 of 2 questions; the first begins 'd'"):
        replay.answers(questions("c", "d"))


def test_a_line_that_was_cut_is_asked_again_and_a_strange_one_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    with endpoint(echo) as served:
        llm = recorded(path, asked(served))
        llm.answers(questions("a", "b"))
        llm.close()
        whole = path.read_bytes()
        path.write_bytes(whole[:-7])
        llm = recorded(path, asked(served))
        assert texts(llm.answers(questions("a", "b"))) == ["You say a", "You say b"]
        llm.close()
        assert len(served.requests) == 3
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
        path.write_bytes(b'{"key": 1}\n' + whole)
        with pytest.raises(AskError, match=r"a\.jsonl:1: is no recorded answer"):
            recorded(path, asked(served))


def test_one_process_at_a_time_writes_answers(tmp_path):
    first = recorded(tmp_path / "a.jsonl", Endpoint("http://nowhere", "m", "", 9))
    with pytest.raises(AskError, match="another process writes answers there"):
        recorded(tmp_path / "a.jsonl", Endpoint("http://nowhere", "m", "", 9))
    first.close()
    recorded(tmp_path / "a.jsonl", Endpoint("http://nowhere", "m", "", 9)).close()


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"Retry-After": "0"}, b""), (500, {}, b"{}"), (503, {"Retry-After": "soon"}, b"\xff"), None,
        (200, {}, b""), (200, {}, b"<html>"), (200, {}, b'{"choices": []}'), (200, {}, b'{"choices": [1]}'),
        (200, {"Content-Length": "999"}, b'{"choices"'), (200, {}, b"[" * 9999),
    ],
    ids=str,
)  # fmt: skip
def test_a_fault_that_passes_is_tried_again(fault, tmp_path):
    with endpoint(lambda body, number: fault if number < 3 else "At last.") as served:
        llm = recorded(tmp_path / "a.jsonl", asked(served))
        assert texts(llm.answers(questions("a"))) == ["At last."]
        llm.close()
        assert len(served.requests) == 3


def test_the_other_side_says_how_long_to_wait(tmp_path):
    with endpoint(lambda body, number: (429, {"Retry-After": "0"}, b"") if number < 4 else "At last.") as served:
        llm = recorded(tmp_path / "a.jsonl", asked(served, pause=30.0))
        started = time.perf_counter()
        assert texts(llm.answers(questions("a"))) == ["At last."]
        assert time.perf_counter() - started < 10
        llm.close()


def test_a_fault_that_does_not_pass_ends_with_what_was_answered_kept(tmp_path):
    def answer(body, number):
        return (503, {}, b'{"error": {"message": "overloaded"}}') if number > 3 else echo(body, number)

    path, many = tmp_path / "a.jsonl", questions(*map(str, range(40)))
    with endpoint(answer) as served:
        llm = recorded(path, asked(served, tries=2))
        with pytest.raises(AskError, match=r"no answer in 2 tries; the last time HTTP 503: overloaded\. What was answ"):
            llm.answers(many)
        llm.close()
        assert len(path.read_text().splitlines()) == 3
        assert len(served.requests) < 12
        served.answer = echo
        llm = recorded(path, asked(served))
        before = len(served.requests)
        assert texts(llm.answers(many)) == [f"You say {number}" for number in range(40)]
        llm.close()
        assert len(served.requests) - before == 37


@pytest.mark.parametrize(
    ("status", "headers"), [(401, {}), (403, {}), (404, {}), (302, {"Location": "http://127.0.0.1:9/"}), (307, {})]
)
def test_a_wrong_key_or_address_ends_at_once_and_is_not_followed(status, headers, tmp_path):
    with endpoint(lambda *_: (status, headers, b'{"error": "key sk-1 is bad"}')) as served:
        llm = recorded(tmp_path / "a.jsonl", asked(served, key="sk-1"))
        with pytest.raises(AskError, match=rf"HTTP {status}: key \.\.\. is bad\. Look at the address"):
            llm.answers(questions(*map(str, range(40))))
        llm.close()
        assert len(served.requests) <= 4
        assert "sk-1" not in (tmp_path / "a.jsonl").read_text()


def test_nobody_is_there(tmp_path):
    with endpoint(echo) as served:
        pass
    llm = recorded(tmp_path / "a.jsonl", asked(served, tries=2))
    with pytest.raises(AskError, match=r"it could not be reached \(.*refused"):
        llm.answers(questions("a"))
    llm.close()


def test_too_slow(tmp_path):
    release = threading.Event()
    with endpoint(lambda *_: str(release.wait(20))) as served:
        llm = recorded(tmp_path / "a.jsonl", asked(served, timeout=0.2, tries=2))
        started = time.perf_counter()
        with pytest.raises(AskError, match=r"it could not be reached \(.*timed out"):
            llm.answers(questions("a"))
        assert time.perf_counter() - started < 10
        release.set()
        llm.close()


def test_a_question_that_is_refused_is_not_the_end(tmp_path):
    def answer(body, number):
        long = "long" in body["messages"][-1]["content"]
        return (400, {}, b'{"error": {"message": "too many tokens"}}') if long else echo(body, number)

    with endpoint(answer) as served:
        llm = recorded(tmp_path / "a.jsonl", asked(served))
        one, two, three = llm.answers(questions("a", "long", "b"))
        assert (one.text, three.text) == ("You say a", "You say b")
        assert str(two) == "m refuses a question (HTTP 400: too many tokens)"
        assert [str(each) for each in llm.replies(questions("a", "long"))][1:] == [str(two)]
        assert len(served.requests) == 3  # what was refused is not asked again
        llm.close()


def test_where_everything_is_refused_it_soon_ends(tmp_path):
    with endpoint(lambda *_: (400, {}, b"no such model")) as served:
        llm = recorded(tmp_path / "a.jsonl", asked(served))
        with pytest.raises(AskError, match=r"the first 20 questions cannot be answered; the last: .*no such model"):
            llm.answers(questions(*map(str, range(400))))
        llm.close()
        assert len(served.requests) < 60


def test_thinking_aloud_is_left_out_and_a_cut_answer_is_known(tmp_path):
    def answer(body, number):
        return 200, {}, completion("<think>Hm.</think>\n Well.", finish_reason="length", usage=None)

    with endpoint(answer) as served:
        llm = recorded(tmp_path / "a.jsonl", asked(served))
        (reply,) = llm.replies(questions("a"))
        assert (reply.text, reply.response_ended) == ("Well.", False)
        assert llm.account(None) == "1 questions asked"
        llm.close()
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(line)["system"] == "Be kind."


def test_the_forecast(tmp_path):
    with endpoint(echo) as served:
        llm = recorded(tmp_path / "a.jsonl", asked(served))
        llm.answers(questions("a"))
        said = llm.forecast(questions("a", "b" * 400, "b" * 400), (2.0, 1e5))
        llm.close()
    # 100 tokens of the question, 2 of the system prompt, 8 for each.
    assert said == (
        "2 questions: 1 answered before, 1 to ask; about 118 tokens to read, at most 9 to write: 0.90 at the --price"
    )
