"""Step-wise decoding against the training-time forward of the same dialogue: text and unit logits, with and without
thinking, in a two-turn dialogue with history.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.host_init import host_init
from helpers.tiny_run import CONFIG

from ieat_jax.audio.logmel import clip_log_mel
from ieat_jax.config.sections import Shapes
from ieat_jax.data.arrays import Clip
from ieat_jax.data.batch import stack
from ieat_jax.data.layout import LayoutOptions, TurnPlan, lay_out
from ieat_jax.inference.generator import Generator, Limits
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.inference.speech_decode import feed_group, start_speech
from ieat_jax.inference.text_decode import ENDED, RESPONSE, feed, start
from ieat_jax.model.adapters import adapter_length
from ieat_jax.model.sight import Sight
from ieat_jax.model.unified import build_model
from ieat_jax.objectives.stages import hear, read
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

END, UNITS = 20, [3, 1, 4, 1, 5, 9, 2, 6, 5]
THOUGHT = {"perceive": "I lost my keys.", "state": "The user feels sad."}
SHAPES = Shapes(tokens=256, clips=2, targets=160, answers=2, teacher_tokens=0, speak=256, groups=8)


class StubCodec:
    rate, end_id, vocab_size, sample_rate = 50, END, 22, 16000


@functools.cache
def everything():
    model = host_init(build_model, CONFIG)
    chat = ChatFormat(
        train_tokenizer(["I lost my keys. The user feels sad. I am so sorry. Look."] * 4, 320), True, "Hi."
    )
    return model, chat, Generator(model, CONFIG, chat, codec=StubCodec(), limits=Limits(80, 40, 1.0), batch_size=1)


def waveform(number, seconds):
    return np.random.default_rng(number).normal(size=int(16000 * seconds)).astype(np.float32) * 0.1


def plan(number, thinking, units):
    behind = CONFIG.listen.behind
    mel = clip_log_mel(waveform(number, 0.5 + 0.2 * number), num_mels=80, window_seconds=1.0, behind=behind)
    positions = int(adapter_length(CONFIG.listen.adapter, len(mel) - behind))
    return TurnPlan(Clip(mel, positions, 2, behind=behind), "", "", thinking, "I am so sorry.", units=units)


@pytest.mark.parametrize("thinks", [True, False])
def test_every_step_of_decoding_equals_the_training_forward(thinks):
    model, chat, generator = everything()
    options = LayoutOptions(speech=True, unit_end=END)
    plans = [plan(0, THOUGHT, None), plan(1, THOUGHT if thinks else {}, UNITS)]
    row, _ = lay_out([plans], chat, SHAPES, options, frames=100, mels=80, positions_per_clip=7)
    batch = stack([row])

    @jax.jit
    def forward(model, batch):
        states, written = read(model, batch, hear(model, batch))
        fed = model.speak.feed(states, batch.speak_state, batch.speak_units)
        spoken = model.speak(fed, Sight(batch.speak_positions, batch.speak_ids, jnp.zeros_like(batch.speak_ids)))
        return model.text_logits(written)[0], model.speak.unit_logits(spoken)[0]

    text_logits, unit_logits = forward(model, batch)
    # The history (turn 1) must be read from the trunk; turn 2's answer is branch 2.
    answer = np.flatnonzero(row.branch_ids == 2)
    opened = len(chat.think_open if thinks else chat.empty_think)
    forced, trained = row.tokens[answer[opened:]], answer[opened - 1 :]

    turns = [UserTurn(audio=waveform(0, 0.5)).answered("I am so sorry."), UserTurn(audio=waveform(1, 0.7))]
    host_prompt = generator.prompts.build(turns, think=thinks)
    prompt = generator.stack([host_prompt], [0], 1)
    rules = generator.text_rules
    state, prompt_states = jax.jit(start, static_argnums=2)(model, prompt, rules)
    feed_one = jax.jit(feed)
    np.testing.assert_allclose(state.logits[0], text_logits[trained[0]], atol=1e-4)
    for number, token in enumerate(forced[:-1]):  # the end of turn is never fed
        tokens = state.tokens.at[0, number].set(int(token))
        state = dataclasses.replace(
            state, tokens=tokens, step=jnp.int32(number + 1), phase=jnp.full_like(state.phase, RESPONSE)
        )
        state = feed_one(model, state)
        np.testing.assert_allclose(state.logits[0], text_logits[trained[number + 1]], atol=1e-4, err_msg=str(number))

    reply = chat.tokenizer.encode("I am so sorry.")
    host = {
        "response_start": np.array([len(forced) - len(reply) - 1]),
        "response_length": np.array([len(reply) + 1]),
        "phase": np.array([ENDED]),
        "response_ended": np.array([True]),
    }
    speech_plan, text_end = generator.plan_speech([host_prompt], host, *prompt.tokens.shape)
    states = jnp.concatenate([prompt_states, state.states], axis=1)
    speech = jax.jit(start_speech, static_argnums=3)(model, states, speech_plan, generator.unit_rules)
    feed_units = jax.jit(feed_group)
    groups = np.asarray([*UNITS, *[END] * (-len(UNITS) % 4)]).reshape(-1, 4)
    places = row.unit_at[row.unit_at >= 0]
    assert len(places) == len(groups)
    for number, place in enumerate(places):
        np.testing.assert_allclose(speech.logits[0], unit_logits[place], atol=1e-4, err_msg=f"group {number}")
        if number + 1 == len(places):
            break
        units = speech.units.at[0, number].set(groups[number])
        speech = dataclasses.replace(speech, units=units, step=jnp.int32(number + 1))
        speech = feed_units(model, states, speech_plan, text_end, speech)
