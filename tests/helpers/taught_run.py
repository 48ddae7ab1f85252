"""A tiny run that has learned dialogues by heart, thinking included: greedy replies that end by themselves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import tiny_run

from ieat_jax.inference.prompt import PromptBuilder, UserTurn
from ieat_jax.model.names import map_named
from ieat_jax.model.sight import Sight
from ieat_jax.text.chat import ChatFormat

THINGS = ("keys", "bus", "job", "dog", "match", "train", "friend", "exam", "bike", "tooth", "flat", "voice")
FEELINGS = ("sad", "angry", "happy", "calm")
SAID = [f"I lost my {thing}." for thing in THINGS]
THOUGHT = [f"The user feels {FEELINGS[number % 4]}. {thing}?" for number, thing in enumerate(THINGS)]
REPLIES = [("You are kind: {}!", "I am so sorry. {}.")[number % 2].format(thing) for number, thing in enumerate(THINGS)]
STEPS = 100


def dialogues():
    """Prompts: one turn each, and one with a turn before."""
    single = [[UserTurn(text=text)] for text in SAID]
    return [*single, [UserTurn(text=SAID[0], response=REPLIES[0]), UserTurn(text=SAID[1])]]


def messages(turns):
    """A dialogue as stock software takes it."""
    said = [({"role": "user", "content": turn.text}, {"role": "assistant", "content": turn.response}) for turn in turns]
    return [message for pair in said for message in pair if message["content"]]


@functools.cache
def taught_run(**families):
    """The run; `families`: fields of LLMConfig, such as qk_norm=True."""
    sizes = dataclasses.replace(tiny_run.CONFIG, llm=dataclasses.replace(tiny_run.CONFIG.llm, **families))
    run = tiny_run.make_run(sizes=sizes, model=map_named(_softer, tiny_run.random_model(sizes)))
    return dataclasses.replace(run, model=_teach(run))


def _softer(name, leaf):
    return leaf / 40 if name.endswith("head") else leaf


def _teach(run):
    chat = ChatFormat.from_config(run.tokenizer, run.config.chat)
    build, encode = PromptBuilder(chat, run.config.model.listen).build, run.tokenizer.encode
    rows = []
    for number, turns in enumerate(dialogues()):
        number = number if number < len(THINGS) else 1
        answer = [*encode(REPLIES[number]), chat.end_of_turn]
        for think in (True, False) if number < 4 else (True,):
            prompt = build(turns, think=think, speech=False).tokens.tolist()
            rows.append((prompt, [*encode(THOUGHT[number]), *chat.think_close, *answer] if think else answer))
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens, learned, there = (np.zeros((len(rows), length), np.int32) for _ in range(3))
    for row, (prompt, answer) in enumerate(rows):
        size = len(prompt) + len(answer)
        tokens[row, :size], there[row, :size], learned[row, len(prompt) : size] = prompt + answer, 1, 1
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, STEPS))

    def loss(model):
        stream = Sight.plain(jnp.asarray(there[:, :-1], bool))
        logits = model.text_logits(model.write(model.think(tokens[:, :-1], stream), stream))
        each = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return jnp.sum(each * learned[:, 1:]) / learned.sum()

    def step(carry, _):
        model, state = carry
        value, gradient = jax.value_and_grad(loss)(model)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(model, updates), state), value

    def teach(model):
        (model, _), losses = jax.lax.scan(step, (model, optimizer.init(model)), None, length=STEPS)
        return model, losses

    model, losses = jax.jit(teach)(run.model)
    assert losses[-1] < 0.1, f"nothing was learned: {losses[::50]}"
    return model
