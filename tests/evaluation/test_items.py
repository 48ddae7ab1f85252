import pytest
from helpers import tiny_corpus as corpus
from helpers import tiny_run
from helpers.answers import reply

from ieat_jax.data.labels import EMOTIONS
from ieat_jax.errors import UserError
from ieat_jax.evaluation import items as module
from ieat_jax.evaluation.items import read_items, spread, understand
from ieat_jax.evaluation.openers import style_of

HAPPY, SAD = EMOTIONS.index("happy"), EMOTIONS.index("sad")


def test_every_spoken_turn_is_an_item_and_probes_alone_score_emotion(tmp_path):
    items, skipped = read_items(corpus.write(tmp_path, corpus.records()), None, 1.0)
    assert skipped == []
    assert [(item.dialogue_id, item.turn_id) for item in items] == [("p1", 1), ("p2", 1), ("d1", 1), ("d1", 2)]
    assert [item.scores_emotion for item in items] == [True, True, False, False]
    assert [item.emotion for item in items] == [HAPPY, SAD, HAPPY, SAD]
    assert [item.style for item in items] == ["happy", "comfort", "happy", "comfort"]
    last = items[-1]
    assert last.cause == "lost my keys"
    assert (last.transcript, last.response) == ("I lost my keys.", corpus.REPLIES["sad"][0])
    assert [turn.response for turn in last.turns] == [corpus.REPLIES["happy"][0], None]
    assert [len(turn.audio) for turn in last.turns] == [len(tiny_run.voice(2)), len(tiny_run.voice(3))]
    assert [turn.text for turn in last.turns] == ["", ""]


def test_a_file_is_read_once(tmp_path, monkeypatch):
    reads = []
    read = module.read_audio
    monkeypatch.setattr(module, "read_audio", lambda path, **options: reads.append(path) or read(path, **options))
    read_items(corpus.write(tmp_path, corpus.records()), tmp_path, 1.0)
    assert sorted(reads) == [f"audio/{number}.wav" for number in range(4)]


def test_without_probes_every_labelled_turn_scores(tmp_path):
    first, _, dialogue = corpus.records()
    unlabelled = corpus.turn(1, "sad", "audio/1.wav") | {"emotion": None, "ieat": {}}
    conflict = corpus.turn(1, "happy", "audio/0.wav")
    conflict["ieat"]["words_emotion"] = "sadness"
    first["ieat_meta"]["kind"] = None
    records = [first, dialogue, corpus.record("u", [unlabelled]), corpus.record("c", [conflict])]
    items, _ = read_items(corpus.write(tmp_path, records), None, 1.0)
    assert [item.scores_emotion for item in items] == [True, True, True, False, True]
    assert items[3].emotion == -1
    assert [item.words_emotion for item in items] == [-1, -1, -1, -1, SAD]


def test_styles_are_read_from_the_demo_corpus_only(tmp_path):
    assert style_of("Don't worry, you are safe. I will stay.") == "encourage"
    assert style_of("Whatever you say.") is None
    words = corpus.record("x", [corpus.turn(1, "sad", "audio/1.wav", response_text="Oh dear.")])
    items, _ = read_items(corpus.write(tmp_path, [words]), None, 1.0)
    assert items[0].style is None


def test_what_cannot_be_used_is_skipped_and_named(tmp_path):
    turns = [corpus.turn(1, "happy", "audio/gone.wav"), corpus.turn(2, "sad", "audio/1.wav")]
    unanswered = [corpus.turn(1, "happy", "audio/0.wav", response_text=""), corpus.turn(2, "sad", "audio/1.wav")]
    texts = corpus.record("t", [corpus.turn(1, "sad", None), corpus.turn(2, "sad", "audio/1.wav")])
    records = [corpus.record("a", turns), corpus.record("b", unanswered), {"dialogue_id": "c"}, texts]
    items, skipped = read_items(corpus.write(tmp_path, records), None, 1.0)
    assert [(item.dialogue_id, item.turn_id) for item in items] == [("b", 1), ("t", 2)]
    assert items[1].turns[0].audio is None
    assert items[1].turns[0].text == "I lost my keys."
    assert ["test.jsonl:3" in skipped[0][0], *(name for name, _ in skipped[1:])] == [
        True, "a turn 1", "a turn 2", "b turn 2",
    ]  # fmt: skip
    assert "gone.wav" in skipped[2][1]
    assert [reason.split(": ")[0].removeprefix(str(tmp_path)) for _, reason in skipped[1:]] == [
        "/test.jsonl:1", "/test.jsonl:1", "/test.jsonl:2",
    ]  # fmt: skip
    assert "turn 1 before it has no response_text" in skipped[3][1]


def test_a_limit_is_spread_over_the_file(tmp_path):
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 5) == [0, 1, 2]
    items, _ = read_items(corpus.write(tmp_path, corpus.records()), None, 1.0, 2)
    assert [(item.dialogue_id, item.turn_id) for item in items] == [("p1", 1), ("d1", 1)]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl: there is no such file of records"):
        read_items(tmp_path / "none.jsonl", None, 1.0)
    path = corpus.write(tmp_path, corpus.records())
    with pytest.raises(UserError, match="--audio-root"):
        read_items(path, tmp_path / "nowhere", 1.0)


def test_thinking_is_read_and_counts_when_the_model_closed_it():
    think = 'The user says "I am here". The user feels sad (slight). This is because of "my lost keys".'
    answer = understand(reply(think))
    assert (answer.emotion, answer.readable, answer.cause) == (SAD, True, "my lost keys")
    assert understand(reply(think, closed=False)).emotion == -1
    assert not understand(reply(think, closed=False)).readable
    assert understand(reply("Nonsense.")).emotion == -1
    half = understand(reply("The user feels sad. Nonsense follows."))
    assert (half.emotion, half.readable) == (SAD, False)


def test_items_know_the_language_of_their_dialogue(tmp_path):
    german = corpus.record("g", [corpus.turn(1, "sad", "audio/1.wav")], language="de")
    items, _ = read_items(corpus.write(tmp_path, [*corpus.records()[:1], german]), None, 1.0)
    assert [each.language for each in items] == ["en", "de"]
