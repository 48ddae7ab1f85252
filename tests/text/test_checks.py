import pytest

from ieat_jax import prepare
from ieat_jax.data.records import RecordError, parse_record
from ieat_jax.errors import UserError
from ieat_jax.text.checks import TextError, check_text

BAD = {"half a pair": "a\ud800", "bytes": "caf\udce9", "NUL": "a\0b", "none": None, "number": 3, "raw": b"a"}


@pytest.mark.parametrize("text", ["", " ", "a", "骨🦊", "a\u2028b", "\U0010ffff"])
def test_texts_are_given_back(text):
    assert check_text(text) == text


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_no_text_is_named(text):
    with pytest.raises(TextError, match=r"^turn 2 (is not UTF-8|holds the character NUL|must be a string)"):
        check_text(text, "turn 2")


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000"])
def test_blank_texts_are_refused_where_something_must_be_said(text):
    with pytest.raises(TextError, match=r"^--text is (blank|empty)"):
        check_text(text, "--text", blank=False)
    # As in a record, where such a text is none.
    record = parse_record({"dialogue_id": "x", "turns": [{"turn_id": 1, "text": text, "response_text": text}]})
    assert (record.turns[0].text, record.turns[0].response_text) == ("", "")


def test_a_system_text_that_is_not_utf8_is_refused_before_a_model_is_loaded(tmp_path):
    command = ["responses", "--records", "r.jsonl", "--llm", "nowhere", "--out", str(tmp_path)]
    with pytest.raises(UserError, match="--system-text is not UTF-8"):
        prepare.main([*command, "--system-text", b"caf\xe9".decode("utf-8", "surrogateescape")])


def test_records_made_in_python_get_the_checks_of_a_file():
    for key in ("text", "response_text"):
        for text in (bad for bad in BAD.values() if isinstance(bad, str)):
            with pytest.raises(RecordError):
                parse_record({"dialogue_id": "x", "turns": [{"turn_id": 1, key: text}]})
    for value in (None, [], {3: 4}, {"dialogue_id": "x", "turns": ({"turn_id": 1},)}, {"dialogue_id": b"x"}):
        with pytest.raises(RecordError):
            parse_record(value)
