import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import tiny_run

from ieat_jax.audio.files import AudioError
from ieat_jax.errors import UserError
from ieat_jax.inference.generator import GenerationError
from ieat_jax.inference.live import stream
from ieat_jax.inference.prompt import PromptError, UserTurn


@functools.cache
def generator():
    return tiny_run.make_generator()


@functools.cache
def replies():
    return generator().reply(tiny_run.dialogues(), speech="waveform")


def assert_same(one, other):
    assert one.tokens == other.tokens
    assert (one.text, one.think_text) == (other.text, other.think_text)
    assert one.units.tolist() == other.units.tolist()
    assert (one.think_closed, one.response_ended, one.speech_ended) == (
        other.think_closed,
        other.response_ended,
        other.speech_ended,
    )
    np.testing.assert_allclose(one.waveform, other.waveform, atol=1e-6)


def test_replies_have_thinking_text_and_sound():
    for reply in replies():
        assert reply.think_text
        assert reply.text
        assert len(reply.waveform) == 320 * len(reply.units) > 0
    assert len({reply.tokens for reply in replies()}) == 3


def test_a_dialogue_gets_the_same_reply_alone_and_in_a_batch():
    assert_same(generator().reply([tiny_run.dialogues()[1]], speech="waveform")[0], replies()[1])


@pytest.mark.parametrize("number", [0, 2])
def test_a_streamed_reply_is_the_batch_reply_and_its_events_add_up(number):
    events = list(stream(generator(), tiny_run.dialogues()[number]))
    assert_same(events[-1].reply, replies()[number])
    parts = {kind: [event for event in events if event.kind == kind] for kind in ("think", "text", "audio")}
    assert "".join(event.text for event in parts["think"]).strip() == replies()[number].think_text
    assert "".join(event.text for event in parts["text"]).strip() == replies()[number].text
    heard = np.concatenate([event.waveform for event in parts["audio"]])
    assert len(heard) == len(replies()[number].waveform)


def test_thinking_is_closed_at_its_limit_and_flagged():
    rules = generator().text_rules
    cut = [reply for reply in replies() if not reply.think_closed]
    assert cut, "a random model does not close its thinking"
    for reply in cut:
        assert reply.tokens[7 : 7 + len(rules.close)] == rules.close
        assert len(reply.tokens) <= 7 + len(rules.close) + 6


def test_thinking_can_be_switched_off():
    reply = generator().reply(tiny_run.dialogues()[:1], think=False)[0]
    assert (reply.think_text, reply.think_closed, reply.units) == ("", True, None)
    prompt = generator().prompts.build(tiny_run.dialogues()[0], think=False)
    chat = generator().chat
    assert prompt.tokens[-len(chat.empty_think) :].tolist() == chat.empty_think


def test_a_reply_can_be_cut_earlier_than_the_limits_say():
    reply = generator().reply(tiny_run.dialogues()[:1], max_response=1)[0]
    whole = generator().reply(tiny_run.dialogues()[:1])[0]
    assert len(whole.tokens) > len(reply.tokens)
    assert reply.tokens == whole.tokens[: len(reply.tokens)]
    assert reply.think_text == whole.think_text


@pytest.mark.parametrize("think", [True, False])
def test_of_a_reply_cut_after_its_first_token_this_token_is_spoken(think):
    short = tiny_run.make_generator(limits=dataclasses.replace(tiny_run.LIMITS, response=1))
    turns = tiny_run.dialogues()[2]
    reply = short.reply([turns], think=think, speech="waveform")[0]
    assert (reply.text, reply.response_ended) != ("", True)
    assert len(reply.units) or reply.speech_ended  # Speak was asked, and may have answered with its end
    assert_same(list(stream(short, turns, think=think))[-1].reply, reply)


def test_the_last_token_of_a_reply_that_was_cut_is_spoken_like_the_others(monkeypatch):
    fresh, ends = tiny_run.make_generator(), []
    plan_speech = fresh.plan_speech

    def noting(prompts, host, batch, length):
        plan, end = plan_speech(prompts, host, batch, length)
        ends.append((np.asarray(end) - length - host["response_start"])[: len(prompts)].tolist())
        return plan, end

    monkeypatch.setattr(fresh, "plan_speech", noting)
    cut = fresh.reply(tiny_run.dialogues()[:1], speech="units", max_response=3)[0]
    assert not cut.response_ended
    assert ends == [[3]]


def test_the_history_changes_the_answer_and_every_clip_is_heard_once(monkeypatch):
    fresh = tiny_run.make_generator()
    runs = []
    monkeypatch.setattr(
        fresh.listener, "_run", lambda mels, run=fresh.listener._run: runs.append(len(mels)) or run(mels)
    )
    first, second = tiny_run.dialogues()[0]
    answers = [fresh.reply([[turn, second]])[0].tokens for turn in (first, first.answered("You are kind. " * 4), first)]
    assert answers[0] == answers[2] != answers[1]
    assert runs == [2]


def test_prompt_of_two_turns():
    prompts, chat = generator().prompts, generator().chat
    first, second = tiny_run.dialogues()[0]
    prompt = prompts.build([first, second], think=True)
    system, audio = chat.speech_system(), [chat.audio_id]
    heard = [*chat.user_open, *audio * 5, *chat.user_close]  # 0.7 s: 70 frames, 35, 18, 9, 5 positions
    current = [*chat.user_open, *audio * 4, *chat.user_close, *chat.think_open]
    trunk = [*chat.system(), *heard, *chat.response(first.response), *current]
    assert prompt.tokens.tolist() == system + trunk
    assert prompt.positions.tolist() == [*range(len(system)), *range(len(trunk))]
    assert prompt.segment_ids.tolist() == [2] * len(system) + [1] * len(trunk)
    assert prompt.audio_index[prompt.tokens == chat.audio_id].tolist() == list(range(9))
    whole = len(prompt.tokens)
    assert prompt.speech_prefix.tolist() == [*range(len(system)), *range(whole - len(current), whole)]
    assert prompts.build([first, second], think=True, speech=False).tokens.tolist() == trunk


def test_a_format_without_think_slot():
    plain = tiny_run.make_generator(tiny_run.make_run(thinks=False))
    prompt = plain.prompts.build(tiny_run.dialogues()[2], think=False)
    assert prompt.tokens[-len(plain.chat.user_close) :].tolist() == plain.chat.user_close
    assert plain.text_rules.close == ()
    with pytest.raises(PromptError, match="no think block; ask for a reply without thinking"):
        plain.reply(tiny_run.dialogues()[:1])


def test_a_model_without_speak_writes_but_cannot_speak():
    silent = tiny_run.make_generator(tiny_run.make_run(speaks=False))
    assert silent.reply(tiny_run.dialogues()[:1])[0].text
    for ask in (lambda: silent.reply(tiny_run.dialogues()[:1], speech="units"), lambda: stream(silent, [])):
        with pytest.raises(GenerationError, match="has no Speak"):
            ask()


def test_bad_dialogues_are_named(tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"not audio")
    first = tiny_run.dialogues()[0][0]
    for turns, error, text in [
        ([], PromptError, "without turns"),
        ([UserTurn()], PromptError, "turn 1 has neither audio nor text"),
        ([UserTurn(text="a"), first], PromptError, "turn 1 has no answer"),
        ([UserTurn(np.zeros(100, np.float32))], PromptError, "0.1 s or longer"),
        ([UserTurn(tmp_path / "noise.wav")], AudioError, "noise.wav"),
        ([UserTurn(Path("missing.wav"))], AudioError, "missing.wav: no such file"),
    ]:
        with pytest.raises(error, match=text):
            generator().reply([turns])
    with pytest.raises(UserError, match="speech='loud'"):
        generator().reply([[first]], speech="loud")


def test_batches_are_rounded_up_to_what_the_mesh_divides():
    mesh = SimpleNamespace(shape={"replica": 1, "fsdp": 4, "context": 1, "tensor": 2})
    on_mesh = tiny_run.make_generator(tiny_run.make_run(mesh=mesh), batch_size=5)
    assert (on_mesh.batch_size, on_mesh.least_rows) == (8, 4)
