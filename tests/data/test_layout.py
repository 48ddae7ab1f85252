"""The token tree, its targets, the teacher's stream and Speak's sequence."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from ieat_jax.config.sections import Shapes
from ieat_jax.data.arrays import Clip
from ieat_jax.data.batch import (
    END_OF_TURN,
    FORMAT,
    RESPONSE,
    SEGMENT_KINDS,
    SEQUENCE_FIELDS,
    Batch,
    padding_like,
)
from ieat_jax.data.layout import LayoutError, LayoutOptions, TurnPlan, lay_out
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

SHAPES = Shapes(tokens=256, clips=3, targets=128, answers=3, teacher_tokens=256, speak=256, groups=32)
FRAMES, MELS, POSITIONS = 20, 8, 5


@pytest.fixture(scope="session")
def chat():
    words = "I lost my keys. The user feels sad. I am so sorry. Where did you see them? In the kitchen. Let us look."
    return ChatFormat(train_tokenizer([words] * 4, 300), True, "Be kind.")


@pytest.fixture
def plan():
    """A function: fields of a TurnPlan -> one turn with thinking, and units when asked."""

    def make(response="I am so sorry.", units=None, thinking=None, frames=12, **changes):
        clip = Clip(np.full((frames, MELS), 0.5, np.float32), 3, 2)
        if thinking is None:
            thinking = {"perceive": "I lost my keys.", "state": "The user feels sad."}
        fields = dict(clip=clip, text="I lost my keys.", teacher_text="I lost my keys. (The user feels sad.)")
        return TurnPlan(**(fields | dict(thinking=thinking, response=response, units=units, style=7) | changes))

    return make


@pytest.fixture
def row(chat):
    """A function: (turns, options, changed shapes) -> row."""

    def make(turns, options=None, **shapes):
        options = options or LayoutOptions()
        sizes = dataclasses.replace(SHAPES, **shapes)
        dialogues = turns if isinstance(turns[0], list) else [turns]
        made, counts = lay_out(dialogues, chat, sizes, options, frames=FRAMES, mels=MELS, positions_per_clip=POSITIONS)
        return made, counts if isinstance(turns[0], list) else counts[0]

    return make


def visible(row, at):
    """Places that the token at `at` sees, as the model's rule says."""
    branches, segments = row.branch_ids, row.segment_ids
    same = (segments == segments[at]) & ((branches == 0) | (branches == branches[at]))
    return np.flatnonzero(same & (np.arange(len(branches)) <= at))


def path(row, at):
    return row.tokens[visible(row, at)].tolist()


def branch_of(row, number):
    return np.flatnonzero(row.branch_ids == number)


def test_an_answer_reads_like_the_prompt_and_reply_that_inference_produces(row, plan, chat):
    batch, _ = row([plan(), plan("Let us look.")])
    turn = [*chat.user_open, *[chat.audio_id] * 3, *chat.user_close]
    thought = [
        *chat.think_open,
        *chat.tokenizer.encode("I lost my keys."),
        *chat.tokenizer.encode(" The user feels sad."),
    ]
    end = [chat.end_of_turn]
    first = [*chat.system(), *turn, *thought, *chat.think_close, *chat.tokenizer.encode("I am so sorry."), *end]
    assert path(batch, branch_of(batch, 1)[-1]) == first
    history = [*chat.system(), *turn, *chat.response("I am so sorry.")]
    second = [*history, *turn, *thought, *chat.think_close, *chat.tokenizer.encode("Let us look."), *end]
    assert path(batch, branch_of(batch, 2)[-1]) == second


def test_positions_count_what_a_token_sees(row, plan):
    batch, _ = row([plan(), plan(), plan()], LayoutOptions(speech=True, internalise=True, unit_end=9))
    for at in np.flatnonzero(batch.segment_ids):
        assert batch.positions[at] == len(visible(batch, at)) - 1


def test_targets_are_the_next_tokens_of_the_branch_up_to_its_end(row, plan, chat):
    batch, _ = row([plan(), plan(thinking={})])
    count = int((batch.target_at >= 0).sum())
    for number in (1, 2):
        places = branch_of(batch, number)
        chosen = [i for i in range(count) if batch.target_at[i] in places]
        targets = {int(batch.target_at[i]): (int(batch.target_ids[i]), int(batch.target_kind[i])) for i in chosen}
        for at, (token, _) in targets.items():
            assert token == batch.tokens[places[places > at][0]]
        supervised = [token for token, _ in targets.values()]
        reply = [*chat.tokenizer.encode("I am so sorry."), chat.end_of_turn]
        kinds = [kind for _, kind in targets.values()]
        assert supervised[-len(reply) :] == reply
        assert kinds[-len(reply) :] == [RESPONSE] * (len(reply) - 1) + [END_OF_TURN]
        if number == 1:
            close = chat.think_close  # all of it: another decoder than ours is not given what follows </think>
            assert supervised[-len(reply) - len(close) : -len(reply)] == close
            assert kinds[-len(reply) - len(close) : -len(reply)] == [FORMAT] * len(close)
            assert supervised == batch.tokens[places][len(chat.think_open) :].tolist()
            assert kinds[0] == SEGMENT_KINDS["perceive"]
            assert set(kinds) == {1, 2, FORMAT, RESPONSE, END_OF_TURN}
        else:
            assert len(supervised) == len(reply)


def test_the_teacher_reads_text_and_answers_with_the_same_tokens(row, plan, chat):
    batch, _ = row([plan(), plan()], LayoutOptions(teacher=True))
    names = ("tokens", "positions", "segment_ids", "branch_ids")
    teacher = SimpleNamespace(**{name: getattr(batch, f"teacher_{name}") for name in names})
    last = branch_of(teacher, 1)[-1]
    asked = chat.tokenizer.encode("I lost my keys. (The user feels sad.)")
    assert path(teacher, last)[: len(chat.system()) + len(chat.user_open) + len(asked)] == [
        *chat.system(),
        *chat.user_open,
        *asked,
    ]
    for i in np.flatnonzero(batch.target_at >= 0):
        mine, theirs = batch.target_at[i], batch.teacher_at[i]
        assert batch.tokens[mine] == teacher.tokens[theirs]
        after = branch_of(teacher, teacher.branch_ids[theirs]) if teacher.branch_ids[theirs] else None
        if after is not None:
            assert teacher.tokens[after[after > theirs][0]] == batch.target_ids[i]
        assert batch.teacher_kind[i] == batch.target_kind[i]


def test_a_twin_has_an_empty_think_block_and_the_thinking_answer_as_teacher(row, plan, chat):
    batch, _ = row([plan(), plan(thinking={})], LayoutOptions(internalise=True))
    assert set(batch.branch_ids.tolist()) == {0, 1, 2, 3}  # the second turn does not think: it has no twin
    twin = branch_of(batch, 2)
    assert batch.tokens[twin].tolist()[: len(chat.empty_think)] == chat.empty_think
    mine = [i for i in np.flatnonzero(batch.target_at >= 0) if batch.target_at[i] in twin]
    assert (batch.target_kind[mine] == 0).all()
    assert len(mine) == len(chat.tokenizer.encode("I am so sorry.")) + 1
    for i in mine:
        assert batch.branch_ids[batch.teacher_at[i]] == 1
        thinker = next(j for j in np.flatnonzero(batch.target_at >= 0) if batch.target_at[j] == batch.teacher_at[i])
        assert batch.target_ids[thinker] == batch.target_ids[i]
    others = [i for i in np.flatnonzero(batch.target_at >= 0) if i not in mine]
    assert (batch.teacher_kind[others] == 0).all()
    assert (batch.answer_ids[twin] == -1).all()


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("units", [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5]])
def test_speak_is_fed_as_the_official_decoder_feeds_it(row, plan, chat, thinks, units):
    end = 9
    turns = [plan(), plan(units=units, **({} if thinks else {"thinking": {}}))]
    batch, _ = row(turns, LayoutOptions(speech=True, unit_end=end))
    used = np.flatnonzero(batch.speak_ids == 1)
    assert batch.speak_positions[used].tolist() == list(range(len(used)))
    groups = -(-(len(units) + 1) // 4)
    first = len(used) - groups
    filled = [*units, *[end] * (4 * groups - len(units))]
    assert batch.speak_targets[used[first:]].reshape(-1).tolist() == filled
    assert (batch.speak_targets[used[:first]] == -1).all()
    assert (batch.speak_units[used[: first + 1]] == -1).all()
    assert batch.speak_units[used[first + 1 :]].reshape(-1).tolist() == filled[: 4 * (groups - 1)]
    assert batch.unit_at[:groups].tolist() == used[first:].tolist()
    reply = chat.tokenizer.encode("I am so sorry.")
    response = branch_of(batch, 2)[-len(reply) - 1 : -1]
    # h("\n\n") predicts the first group after thinking, h(t_1) without; the end of turn is never fed.
    states = batch.speak_state[used]
    assert states[first] == (response[0] - 1 if thinks else response[0])
    after = response[0:] if thinks else response[1:]
    expected = [*after, *[-1] * groups][: groups - 1]
    assert states[first + 1 :].tolist() == list(expected)
    # Its prefix: the speech system prompt, then the current turn alone, with its thinking.
    system = np.flatnonzero(batch.segment_ids == 2)
    assert batch.tokens[system].tolist() == chat.speech_system()
    current = batch.tokens[states[len(system) : first + 1]].tolist()
    turn = [*chat.user_open, *[chat.audio_id] * 3, *chat.user_close]
    assert current[: len(turn)] == turn
    assert states[: len(system)].tolist() == system.tolist()
    assert batch.audio_index[states[len(system) + len(chat.user_open)]] == 5  # the second clip


def test_unit_twins_point_at_the_same_group_of_their_teacher(row, plan):
    options = LayoutOptions(speech=True, internalise=True, unit_end=9)
    silent, _ = row([plan(units=[1, 2, 3, 4, 5])], options)
    assert set(silent.speak_ids.tolist()) == {0, 1}  # the twin of an answer whose units are not internalised
    batch, _ = row([plan(units=[1, 2, 3, 4, 5])], dataclasses.replace(options, internalise_units=True))
    assert set(batch.speak_ids.tolist()) == {0, 1, 2}
    mine = np.flatnonzero((batch.speak_ids == 2) & (batch.speak_teacher >= 0))
    theirs = batch.speak_teacher[mine]
    np.testing.assert_array_equal(batch.speak_units[mine], batch.speak_units[theirs])
    assert (batch.speak_targets[theirs] >= 0).all()
    assert (batch.speak_targets[mine] == -1).all()
    assert len(mine) == 2
    assert batch.unit_at[:5].tolist() == [*theirs, *mine, -1]


def test_clips_and_their_emotions(row, plan):
    batch, _ = row([plan(frames=12), plan(frames=7)])
    assert batch.clip_frames.tolist() == [12, 7, 0]
    assert batch.clip_emotion.tolist() == [2, 2, -1]
    assert (batch.mel[1, 7:] == 0).all()
    heard = np.flatnonzero(batch.audio_index >= 0)
    assert batch.audio_index[heard].tolist() == [0, 1, 2, 5, 6, 7]


def test_a_long_dialogue_keeps_its_first_turns_and_a_long_turn_is_an_error(row, plan):
    turns = [plan(), plan(), plan()]
    _, kept = row(turns)
    assert kept == 3
    _, kept = row(turns, clips=2)
    assert kept == 2
    with pytest.raises(LayoutError, match=r"targets, config\.data\.shapes\.targets is 4"):
        row(turns, targets=4)


def test_packed_dialogues_do_not_see_each_other_and_count_their_own_positions(row, plan):
    options = LayoutOptions(teacher=True, speech=True, unit_end=9)
    sizes = {"tokens": 512, "teacher_tokens": 512, "speak": 512, "clips": 4, "answers": 4, "targets": 256}
    one, two = [plan(units=[1, 2]), plan()], [plan("Let us look.", units=[3])]
    packed, counts = row([one, two], options, **sizes)
    assert counts == [2, 1]
    for dialogue, segment, offset in ((one, 1, 0), (two, 3, 2)):
        alone, _ = row(dialogue, options, **sizes)
        mine = packed.segment_ids == segment
        theirs = alone.segment_ids == 1
        for name in ("tokens", "positions"):
            np.testing.assert_array_equal(getattr(packed, name)[mine], getattr(alone, name)[theirs])
        heard = packed.audio_index[mine] >= 0
        np.testing.assert_array_equal(packed.audio_index[mine][heard], alone.audio_index[theirs][heard] + 5 * offset)
    assert len({*packed.branch_ids.tolist()}) == 4
    assert packed.answer_style[:4].tolist() == [7, 7, 7, -1]


def test_a_row_takes_of_the_next_dialogues_what_fits(row, plan):
    _, counts = row([[plan()], [plan(), plan()], [plan()]], clips=2)
    assert counts == [1, 1, 0]


def test_an_empty_row_is_padding(row, plan):
    filled, _ = row([plan(units=[1])], LayoutOptions(teacher=True, speech=True, unit_end=9))
    empty = padding_like(filled)
    assert not empty.segment_ids.any()
    assert (empty.target_at == -1).all()
    assert not empty.target_kind.any()
    assert set(Batch.__dataclass_fields__) > SEQUENCE_FIELDS
