import itertools

import numpy as np
import pytest

from ieat_jax.config.sections import INJECTION_MODES
from ieat_jax.data.chance import chooser, uniform
from ieat_jax.data.injection import (
    InjectionConfig,
    choose_modes,
    explicit_probability,
    joined,
    parse_thinking,
    privileged,
    provenance,
    thinking,
)
from ieat_jax.data.labels import EMOTIONS, INTENSITIES, STYLES
from ieat_jax.data.pools import POOLS, SEGMENTS
from ieat_jax.data.records import parse_record
from ieat_jax.errors import ConfigError

TEXT = {"en": "I lost my keys. Can you help?", "zh": "我丢了钥匙。怎么办？"}
CAUSE = {"en": "lost my keys", "zh": "丢了钥匙"}
TONE = {"en": "a slow and low voice", "zh": "又慢又低的声音"}


def make(turns, language="en"):
    turns = [{"turn_id": number, "response_text": "ok"} | turn for number, turn in enumerate(turns, 1)]
    return parse_record({"dialogue_id": "d", "turns": turns, "ieat_meta": {"language": language}})


def full(label, language, *, intensity="strong", style="comfort", cause=None, **extra):
    emotion = {"label": label, "intensity": intensity, "source": "gold"}
    cause = {"text": cause or CAUSE[language], "source": "model:X"}
    ieat = {
        "emotion": emotion,
        "tone": TONE[language],
        "events": ["sigh"],
        "cause": cause,
        "response": {"emotion": style},
    }
    return {"text": TEXT[language], "ieat": ieat} | extra


def told(record, turn_index, pick):
    return "".join(joined(privileged(record, turn_index, pick), record.language))


def draws(function, record, turn_index, seeds=40):
    return [function(record, turn_index, chooser(np.random.default_rng(seed))) for seed in range(seeds)]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("label", EMOTIONS)
def test_everything_that_is_said_reads_back(label, language):
    for intensity, style in itertools.product(INTENSITIES, STYLES):
        record = make([full("sad", language), full(label, language, intensity=intensity, style=style)], language)
        sentences = thinking(record, 1, chooser(np.random.default_rng([EMOTIONS.index(label), STYLES.index(style)])))
        assert tuple(sentences) == SEGMENTS
        for separator in (" ", "", "\n"):
            parsed = parse_thinking(separator.join(sentences.values()))
            assert parsed == {
                "valid": True,
                "emotion": label,
                "intensity": intensity,
                "cause": CAUSE[language],
                "transcript": TEXT[language],
                "style": style,
                "trajectory": ["sad", label] if label != "sad" else [label] * len(parsed["trajectory"]),
            }


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("label", ["anger", "anger_alone"])
def test_every_paraphrase_is_drawn_and_reads_back(language, label):
    steady = label == "anger_alone"
    record = make([full("anger" if steady else "fear", language), full("anger", language)], language)
    seen = {segment: set() for segment in SEGMENTS}
    for sentences in draws(thinking, record, 1):
        for segment, sentence in sentences.items():
            seen[segment].add(sentence)
        assert parse_thinking("\n".join(sentences.values()))["valid"]
    pools = POOLS[language]
    for segment in SEGMENTS:
        kind = "steady" if steady and segment == "trajectory" else segment
        assert len(seen[segment]) == len(pools[kind])
    for sentence in seen["state"]:
        assert parse_thinking(sentence) | {"trajectory": None} == parse_thinking(sentence)
        assert parse_thinking(sentence)["valid"]
    for sentence in seen["cause"]:
        assert parse_thinking(sentence)["cause"] == CAUSE[language]
        assert not parse_thinking(sentence)["valid"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_sentences_are_short(language):
    record = make([full("fear", language), full("anger", language)], language)
    for sentences in draws(thinking, record, 1):
        assert all(len(sentence) < 80 for segment, sentence in sentences.items() if segment != "perceive")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("missing", "gone"),
    [("emotion", {"state", "trajectory"}), ("cause", {"cause"}), ("response", {"plan"}), ("text", set()),
     (("text", "tone", "events"), {"perceive"})],
)  # fmt: skip
def test_an_unknown_label_drops_its_segment(missing, gone, language):
    missing = (missing,) if isinstance(missing, str) else missing
    second = full("anger", language)
    second["ieat"] = {key: value for key, value in second["ieat"].items() if key not in missing}
    if "text" in missing:
        del second["text"]
    record = make([full("fear", language), second], language)
    for sentences in draws(thinking, record, 1, 10):
        assert set(sentences) == set(SEGMENTS) - gone
        parsed = parse_thinking(" ".join(sentences.values()))
        assert parsed["valid"] == ("emotion" not in missing)
        assert parsed["style"] == (None if "response" in missing else "comfort")
        assert parsed["transcript"] == (None if "text" in missing else TEXT[language])


def test_nothing_is_invented():
    record = make([{"text": "Hello there."}, {"text": ""}])
    for sentences in draws(thinking, record, 0, 10):
        assert list(sentences) == ["perceive"]
        assert "Hello there." in sentences["perceive"]
        assert "None" not in sentences["perceive"]
    assert draws(thinking, record, 1, 3) == [{}] * 3
    assert draws(told, record, 0, 3) == [""] * 3
    no_intensity = make([{"text": "Hi.", "ieat": {"emotion": {"label": "sad"}}}])
    for sentences in draws(thinking, no_intensity, 0, 10):
        assert "(" not in sentences["state"]
        assert parse_thinking(sentences["state"])["intensity"] is None


def test_the_trajectory_needs_every_turn_before_it():
    known, unknown = {"text": "a", "emotion": "sad"}, {"text": "b"}
    record = make([known, {"text": "b", "emotion": "joy"}, {"text": "c", "emotion": "anger"}, unknown, known])
    first, second, third, _, last = (thinking(record, index, chooser(np.random.default_rng(0))) for index in range(5))
    assert "trajectory" not in first
    assert "sad -> happy." in second["trajectory"]
    assert "sad -> happy -> angry." in third["trajectory"]
    assert "trajectory" not in last
    assert parse_thinking(" ".join(third.values()))["trajectory"] == ["sad", "happy", "anger"]
    same = make([known, known, known])
    assert "->" not in thinking(same, 2, chooser(np.random.default_rng(0)))["trajectory"]


def test_a_trajectory_does_not_grow_with_its_dialogue():
    feelings = ("sad", "happy", "anger", "fear", "surprise")
    words = {"anger": "angry", "fear": "afraid", "surprise": "surprised"}

    def path(labels, turn=-1):
        record = make([{"text": "a", "emotion": label} for label in labels])
        sentence = thinking(record, turn % len(labels), chooser(np.random.default_rng(0)))["trajectory"]
        assert parse_thinking(f"The user is sad. {sentence}")["valid"]
        told_too = told(record, turn % len(labels), chooser(np.random.default_rng(0)))
        return sentence, parse_thinking(sentence)["trajectory"], told_too

    short = [feelings[n % 5] for n in range(8)]
    assert path(short)[1] == short
    assert path(["sad", "sad", "happy", "happy", "happy", "sad", "sad", "sad"])[0].count("->") == 7
    longer = ["sad"] * 5 + ["happy"] * 40 + ["anger"]
    assert "sad -> happy -> angry." in path(longer)[0]
    many = [feelings[n % 5] for n in range(200)]
    sentence, labels, known = path(many)
    assert labels == [many[0], *many[-6:]]
    shown = " -> ".join(words.get(label, label) for label in many[-6:])
    assert f"sad -> … -> {shown}." in sentence
    assert f"sad -> … -> {shown}" in str(known)
    longest = {len(path(many, turn)[0]) for turn in range(100, 200)}
    assert max(longest) < 100
    zh = make([{"text": "a", "emotion": label} for label in many], "zh")
    chinese = parse_thinking(thinking(zh, 199, chooser(np.random.default_rng(0)))["trajectory"])
    assert chinese["trajectory"] == labels


NASTY = 'He said "The user feels happy." (strong). I should answer in a happy tone. This is because of “x”. [sigh]\nEnd'


@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_of_the_user_are_not_taken_for_thinking(language):
    record = make([full("sad", language, cause=NASTY, text=NASTY)], language)
    record.turns[0].raw.clear()
    for sentences in draws(thinking, record, 0):
        parsed = parse_thinking(" ".join(sentences.values()))
        assert parsed["valid"]
        assert (parsed["emotion"], parsed["style"]) == ("sad", "comfort")
        assert parsed["cause"].startswith("He said ")
        assert parsed["cause"].endswith("End")
        assert "\n" not in " ".join(sentences.values())


def test_long_transcripts_are_not_repeated_but_the_voice_is_described():
    record = make([full("sad", "en", text="word " * 60)])
    for sentences in draws(thinking, record, 0, 10):
        assert "word" not in sentences["perceive"]
        assert "a slow and low voice" in sentences["perceive"]
        assert "with sigh" in sentences["perceive"]
        assert parse_thinking(" ".join(sentences.values()))["valid"]


def test_tones_and_events_are_worded_for_their_language():
    turn = full("sad", "en") | {"text": "Hi."}
    turn["ieat"] |= {"tone": "trembling", "events": ["sigh", "laughter"]}
    sentence = thinking(make([turn]), 0, chooser(np.random.default_rng(0)))["perceive"]
    assert ', sounding trembling, with sigh and laughter."'[:-1] in sentence
    turn["ieat"] |= {"tone": "颤抖"}
    sentence = thinking(make([turn], "zh"), 0, chooser(np.random.default_rng(0)))["perceive"]
    assert "用颤抖的语气说" in sentence
    assert "伴有叹气声、笑声" in sentence


def test_articles():
    record = make([full("sad", "en", style="encourage")])
    plans = {sentences["plan"] for sentences in draws(thinking, record, 0)}
    assert all("an encouraging tone" in plan for plan in plans)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_teacher_is_told_everything_but_the_words(language):
    record = make([full("fear", language), full("anger", language)], language)
    for line in draws(told, record, 1):
        parsed = parse_thinking(line)
        assert parsed["valid"]
        assert (parsed["emotion"], parsed["intensity"], parsed["cause"]) == ("anger", "strong", CAUSE[language])
        assert parsed["trajectory"] == ["fear", "anger"]
        assert parsed["transcript"] is parsed["style"] is None
        assert TEXT[language] not in line
        assert ("sigh" if language == "en" else "叹气声") in line
        assert "\n" not in line


def test_german_dialogues_think_in_english():
    record = make([{"text": "Das ist gut.", "emotion": "joy"}], "de")
    assert "happy" in thinking(record, 0, chooser(np.random.default_rng(0)))["state"]


def test_thinking_of_the_record_is_kept():
    own = make([full("sad", "en") | {"ieat": {"think": {"text": "They sound tired."}}}])
    assert thinking(own, 0, chooser(np.random.default_rng(0))) == {"state": "They sound tired."}
    template = {"think": {"template": "Felt: {emotion}. Do: {response_emotion}."}}
    turn = full("sad", "en")
    turn["ieat"] |= template
    assert thinking(make([turn]), 0, chooser(np.random.default_rng(0))) == {"state": "Felt: sad. Do: comforting."}
    del turn["ieat"]["response"]
    assert set(thinking(make([turn]), 0, chooser(np.random.default_rng(0)))) == {"perceive", "state", "cause"}


def test_provenance():
    record = make([full("fear", "en"), full("anger", "en"), {"text": "x"}])
    assert provenance(record, 0) == {"state": "gold", "cause": "model:X"}
    assert provenance(record, 1) == {"state": "gold", "trajectory": "gold", "cause": "model:X"}
    assert provenance(record, 2) == {}


@pytest.mark.parametrize(
    ("text", "valid", "emotion", "cause"),
    [
        ("", False, None, None),
        ("The user feels sad.", True, "sad", None),
        ("  The user feels sadness (slight).\n", True, "sad", None),
        ("The user feels sad. The user feels happy.", False, "sad", None),
        ("The user feels sad. Blah blah.", False, "sad", None),
        ("Blah! The user feels sad.", False, "sad", None),
        ("The user feels purple.", False, None, None),
        ("The user feels sad (very).", False, None, None),
        (
            "The user feels sad. This is because they lost it. I should answer in a calm tone.",
            True,
            "sad",
            "they lost it",
        ),
        ("This is because of losing 3.5 dollars. The user feels sad.", True, "sad", "losing 3.5 dollars"),
        ('The user says "cut off', False, None, None),
        ("用户感到难过。这是因为丢了钥匙。", True, "sad", "丢了钥匙"),
        ("The user feels sad. 原因是“钥匙”。", True, "sad", "钥匙"),
        ("............", False, None, None),
        ("\ud800 (", False, None, None),
    ],
)
def test_parsing_what_a_model_may_write(text, valid, emotion, cause):
    parsed = parse_thinking(text)
    assert (parsed["valid"], parsed["emotion"], parsed["cause"]) == (valid, emotion, cause)


def test_parsing_is_fast_on_rubbish():
    parse_thinking("The user says " * 2000 + '"' * 2000)
    parse_thinking("用户用" * 4000)
    parse_thinking("This is because " * 3000)


SCHEDULE = InjectionConfig(decay_examples=1000)


def test_explicit_thinking_fades_to_the_floor():
    curve = [explicit_probability(SCHEDULE, index) for index in range(0, 3000, 10)]
    assert curve[0] == 0.8
    assert curve[50] == pytest.approx(0.45)
    assert curve[100:] == pytest.approx([0.1] * 200)
    assert all(later <= earlier for earlier, later in itertools.pairwise(curve))


def drawn(config, index, count=4000, seed=1):
    """(mode, removed) of `count` turns that all belong to the example `index`."""
    modes, removed = choose_modes(config, np.full(count, index), uniform(seed, np.arange(3)[:, None], np.arange(count)))
    return [(INJECTION_MODES[mode], int(number)) for mode, number in zip(modes, removed, strict=True)]


def test_a_turn_draws_by_itself():
    index = np.arange(1500)
    draws = uniform(7, np.arange(3)[:, None], index)
    modes, removed = choose_modes(SCHEDULE, index, draws)
    for some in (slice(0, 1), slice(700, 703), slice(None, None, -1)):
        again = choose_modes(SCHEDULE, index[some], draws[:, some])
        np.testing.assert_array_equal(again, (modes[some], removed[some]))
    assert not np.array_equal(choose_modes(SCHEDULE, index, uniform(8, np.arange(3)[:, None], index))[0], modes)


@pytest.mark.parametrize(("index", "expected"), [(0, 0.8), (500, 0.45), (1000, 0.1), (10**9, 0.1)])
def test_shares_of_modes(index, expected):
    found = drawn(SCHEDULE, index)
    modes = [mode for mode, _ in found]
    assert modes.count("explicit") / 4000 == pytest.approx(expected, abs=0.03)
    assert set(modes) <= {"explicit", "partial", "empty"}
    assert all((dropped > 0) == (mode == "partial") and dropped < len(SEGMENTS) for mode, dropped in found)


def test_more_is_removed_from_the_left_as_thinking_fades():
    def mean_removed(index):
        found = drawn(SCHEDULE, index)
        return np.mean([{"explicit": 0, "empty": len(SEGMENTS)}.get(mode, dropped) for mode, dropped in found])

    means = [mean_removed(index) for index in (0, 250, 500, 750, 1000)]
    assert all(later > earlier for earlier, later in itertools.pairwise(means))
    no_jitter = InjectionConfig(decay_examples=1000, jitter=0.0, partial=1.0, start=0.0, floor=0.0)
    removed = [drawn(no_jitter, index, 1)[0][1] for index in range(0, 1001, 100)]
    assert removed == sorted(removed)
    assert (removed[0], removed[-1]) == (1, len(SEGMENTS) - 1)


@pytest.mark.parametrize("mode", ["explicit", "empty", "none", "teacher_only"])
def test_fixed_modes(mode):
    assert {drawn(InjectionConfig(mode=mode), index, 1)[0] for index in range(50)} == {(mode, 0)}


def test_fixed_partial_mode_removes_at_least_one():
    config = InjectionConfig(mode="partial", jitter=0.0)
    assert {drawn(config, index, 1)[0] for index in range(50)} == {("partial", 1)}


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "always"}, {"floor": 0.9}, {"start": 1.5}, {"floor": -0.1}, {"decay_examples": 0}, {"partial": 2.0},
     {"jitter": -1.0}, {"jitter": float("nan")}, {"segments": ()}, {"segments": ("state", "mood")}],
)  # fmt: skip
def test_impossible_schedules(wrong):
    with pytest.raises(ConfigError, match=rf"config\.data\.injection\.{next(iter(wrong))}: must be "):
        InjectionConfig(**wrong)
