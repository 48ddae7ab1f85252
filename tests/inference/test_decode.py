"""Decoding with caches against one forward over the finished reply, with ragged prompts, on a device and a mesh."""

import contextlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_run import random_model

from ieat_jax.inference.prompt import Prompt
from ieat_jax.inference.sampling import Sampling, UnitSampling
from ieat_jax.inference.speech_decode import (
    SpeechPlan,
    UnitRules,
    choose_group,
    decode_speech,
    feed_group,
    start_speech,
)
from ieat_jax.inference.text_decode import ENDED, TextRules, choose, decode_text, feed, start
from ieat_jax.model.config import AdapterConfig, EncoderConfig, ListenConfig, LLMConfig, ModelConfig, SpeakConfig
from ieat_jax.model.sharding import make_mesh, put
from ieat_jax.model.sight import Sight

END, THINK, CLOSE = 1, 2, 3
CONFIG = ModelConfig(
    listen=ListenConfig(
        EncoderConfig(num_layers=1, width=16, num_heads=2, mlp_width=16, num_mels=80),
        AdapterConfig(num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=16, conv_width=16),
        clip_seconds=1.0,
    ),
    llm=LLMConfig(
        vocab_size=40,
        width=32,
        mlp_width=48,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        tie_embeddings=False,
    ),
    speak=SpeakConfig(freeze_layer=1, unit_vocab_size=22),
)
T = 16
jit_text = jax.jit(decode_text, static_argnums=2)
jit_speech = jax.jit(decode_speech, static_argnums=5)
PROMPT_LENGTHS = [10, 13, 11, 15]


def rules(**changes):
    fields = {
        "end": (END,), "think_tag": THINK, "close_tag": CLOSE, "close": (4, CLOSE, 5, 5),
        "close_after_tag": 2, "never": (6,), "max_think": 6, "max_response": 7, "sampling": Sampling(), "seed": 0,
    }  # fmt: skip
    return TextRules(**(fields | changes))


def mesh_of(**sizes):
    sizes = {"replica": 1, "fsdp": 1, "context": 1, "tensor": 1} | sizes
    count = int(np.prod(list(sizes.values())))
    return make_mesh(SimpleNamespace(**sizes), jax.devices()[:count])


def make_model(mesh=None):
    return random_model(CONFIG, mesh)


def make_prompt(rows, *, thinks):
    lengths = [PROMPT_LENGTHS[row] for row in rows]
    tokens, segments, positions = (np.zeros((len(rows), T), np.int32) for _ in range(3))
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        tokens[index, :length] = np.random.default_rng(row).integers(7, 40, length)
        segments[index, :3], segments[index, 3:length] = 2, 1
        positions[index, :length] = [*range(3), *range(length - 3)]
    lengths = np.array(lengths, np.int32)
    return put(
        Prompt(
            tokens, positions, segments, np.full_like(tokens, -1), np.zeros((len(rows), 0, 1), np.float32),
            lengths - 1, lengths - 3, np.full(len(rows), thinks), np.ones(len(rows), bool), np.array(rows, np.int32),
            np.full(len(rows), 99, np.int32),
        ),
        "batch",
    )  # fmt: skip


def num_fed(text):
    """[B] tokens of finished responses that are fed: all but the end of turn."""
    return np.asarray(text.response_length) - np.asarray(text.response_ended)


def make_plan(rows, text, *, thinks):
    start, fed = np.asarray(text.response_start), num_fed(text)
    prefix, lengths = np.full((len(rows), 32), -1, np.int32), np.zeros(len(rows), np.int32)
    until = start + (0 if thinks else 1)
    for index, row in enumerate(rows):
        indices = [*range(PROMPT_LENGTHS[row]), *range(T, T + until[index])]
        prefix[index, : len(indices)] = indices
        lengths[index] = len(indices)
    return put(SpeechPlan(prefix, lengths, T + until), "batch"), put(T + start + fed, "batch")


UNIT_RULES = UnitRules(end_id=20, max_groups=9, group_size=4, sampling=UnitSampling(), seed=0)


def generate(rows, *, thinks, mesh=None, unit_rules=UNIT_RULES, **changes):
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        model = make_model(mesh)
        prompt = make_prompt(rows, thinks=thinks)
        text, prompt_states = jit_text(model, prompt, rules(**changes))
        plan, text_end = make_plan(rows, text, thinks=thinks)
        states = jnp.concatenate([prompt_states, text.states], axis=1)
        speech = jit_speech(model, states, plan, text_end, prompt.row_numbers, unit_rules)
        return model, jax.device_get(text), jax.device_get(speech)


def logits_of_every_step(rows, model, text, *, thinks):
    """The same reply step by step: logits before each token [B,L,V] and before each group [B,G,4,U]."""
    prompt, fixed = make_prompt(rows, thinks=thinks), rules()
    state, prompt_states = jax.jit(start, static_argnums=2)(model, prompt, fixed)
    seen = [state.logits]
    state = choose(state, prompt.row_numbers, fixed)
    step = jax.jit(feed)
    while (state.phase != ENDED).any():
        state = step(model, state)
        seen.append(state.logits)
        state = choose(state, prompt.row_numbers, fixed)
    assert state.tokens.tolist() == text.tokens.tolist()
    plan, text_end = make_plan(rows, text, thinks=thinks)
    states = jnp.concatenate([prompt_states, state.states], axis=1)
    speech = jax.jit(start_speech, static_argnums=3)(model, states, plan, UNIT_RULES)
    heard = [speech.logits]
    speech = choose_group(speech, prompt.row_numbers, UNIT_RULES)
    step = jax.jit(feed_group)
    while speech.running.any():
        speech = step(model, states, plan, text_end, speech)
        heard.append(speech.logits)
        speech = choose_group(speech, prompt.row_numbers, UNIT_RULES)
    return np.stack(seen, 1), np.stack(heard, 1), np.asarray(speech.units)


@jax.jit
def forward(model, tokens, positions, segments, state, units):
    """One forward of a finished reply: text logits, and unit logits of Speak's own sequence."""
    stream = Sight(positions, segments, jnp.zeros_like(segments))
    states = model.think(tokens, stream)
    own = jnp.broadcast_to(jnp.arange(state.shape[1]), state.shape)
    spoken = model.speak(model.speak.feed(states, state, units), Sight(own, jnp.ones_like(own), jnp.zeros_like(own)))
    return model.text_logits(model.write(states, stream)), model.speak.unit_logits(spoken)


@pytest.mark.parametrize("thinks", [True, False])
def test_every_step_has_the_logits_of_one_full_forward(thinks):
    rows = [0, 1, 2, 3]
    model, text, speech = generate(rows, thinks=thinks)
    assert not text.response_ended.all(), "no reply is cut at its limit, whose last token is read like the others"
    text_logits, unit_logits, units = logits_of_every_step(rows, model, text, thinks=thinks)
    assert units.tolist() == speech.units.tolist()
    for index, row in enumerate(rows):
        reply = text.tokens[index][text.tokens[index] >= 0]
        length = PROMPT_LENGTHS[row]
        begin, fed = int(text.response_start[index]), int(num_fed(text)[index])
        groups = units[index][units[index][:, 0] >= 0]
        # By the definition: h(t_2) + E(u_1), ..., then units alone; the end of turn is never fed. After thinking the
        # last token before the response predicts the first group, without thinking t_1 does.
        first = length + begin - (1 if thinks else 0)
        tokens, positions, segments = (np.zeros((1, 48), np.int32) for _ in range(3))
        state, fed_units = np.full((1, 48), -1), np.full((1, 48, 4), -1)
        size = length + begin + fed
        tokens[0, :size] = [*np.asarray(make_prompt([row], thinks=thinks).tokens)[0, :length], *reply[: begin + fed]]
        positions[0, :size] = [*range(3), *range(size - 3)]
        segments[0, :size] = [2] * 3 + [1] * (size - 3)
        state[0, :size] = np.arange(size)
        fed_units[0, first + 1 : first + len(groups)] = groups[:-1]
        all_text, all_units = forward(model, tokens, positions, segments, state, fed_units)
        np.testing.assert_allclose(
            text_logits[index, : len(reply)], all_text[0, length - 1 : length - 1 + len(reply)], rtol=1e-5, atol=1e-3
        )
        wanted = all_units[0, first : first + len(groups)]
        np.testing.assert_allclose(unit_logits[index, : len(groups)], wanted, rtol=1e-5, atol=1e-3)


def test_a_batch_is_its_rows():
    thinks = True
    sampling = {"sampling": Sampling(temperature=0.7, top_k=10)}
    units = UnitRules(20, 9, 4, UnitSampling(temperature=0.8), 0)
    _, text, speech = generate([0, 1, 2], thinks=thinks, unit_rules=units, **sampling)
    for row in range(3):
        _, text_alone, speech_alone = generate([row], thinks=thinks, unit_rules=units, **sampling)
        assert text_alone.tokens[0].tolist() == text.tokens[row].tolist()
        assert speech_alone.units[0].tolist() == speech.units[row].tolist()


def test_a_mesh_changes_nothing():
    _, text, speech = generate([0, 1, 2, 3], thinks=True)
    _, other_text, other_speech = generate([0, 1, 2, 3], thinks=True, mesh=mesh_of(fsdp=2, tensor=2))
    assert other_text.tokens.tolist() == text.tokens.tolist()
    assert other_speech.units.tolist() == speech.units.tolist()


def test_thinking_that_never_ends_is_closed_at_the_limit_and_flagged():
    _, text, _ = generate([0, 1, 2, 3], thinks=True, never=(6, END, CLOSE))
    assert not text.think_closed.any()
    assert (text.tokens[:, 6:10] == [4, CLOSE, 5, 5]).all()
    assert (text.response_start == 10).all()
    assert (text.response_length == 7).all()
    assert not text.response_ended.any()


def test_tags_never_appear_in_a_response():
    _, text, _ = generate([0, 1, 2, 3], thinks=False, sampling=Sampling(temperature=50.0), max_response=60)
    assert not np.isin(text.tokens, [THINK, CLOSE, 6]).any()
    assert text.think_closed.all()
