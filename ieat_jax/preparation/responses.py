"""Replies for records that have none: the LLM that is to be taught answers what its teacher will read.

In self-distillation the supervised reply is the LLM's own (BLSP-Emo, Ultravox). It reads the words and what the user
feels, as the teacher of stage `align` does, and answers greedily.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ieat_jax.data.chance import chooser
from ieat_jax.data.injection import privileged, told_pieces
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.records import Record, to_json
from ieat_jax.errors import UserError
from ieat_jax.inference.generator import Generator, Limits, Reply
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.inference.sampling import Sampling
from ieat_jax.interop.families.llm import load_llm
from ieat_jax.model.abstract import abstract_model
from ieat_jax.model.config import ListenConfig, ModelConfig, SpeakConfig
from ieat_jax.model.landing import land
from ieat_jax.model.names import map_named, named_leaves
from ieat_jax.preparation.asking.recorded import Recorded
from ieat_jax.progress import Progress
from ieat_jax.text.chat import ChatFormat

_Key = tuple[tuple[str, str | None], ...]  # (words, reply) of every turn
GREEDY = Sampling(temperature=0.0)


def text_generator(spec: str, system_text: str, *, max_response: int = 24, batch_size: int = 32) -> Generator:
    """A generator for text alone, with the LLM `spec` as `interop.llm.load_llm` takes it; it does not think.

    Raises:
        InteropError: the LLM cannot be loaded.
    """
    llm = load_llm(spec)
    config = ModelConfig(
        listen=ListenConfig(clip_seconds=1.0), llm=llm.config, speak=SpeakConfig(enabled=False, freeze_layer=0)
    )
    abstract = abstract_model(config, None)
    weights = dict(land(llm.pieces(config), named_leaves(abstract)))
    # Listen and the emotion heads are never used: text turns have no clips.
    model = map_named(
        lambda name, leaf: weights[name] if name in weights else jnp.zeros(leaf.shape, leaf.dtype), abstract
    )
    chat = ChatFormat(llm.tokenizer(), thinks=False, system_text=system_text)
    return Generator(model, config, chat, sampling=GREEDY, limits=Limits(response=max_response), batch_size=batch_size)


def told(record: Record, index: int) -> str:
    """What the teacher reads of a turn: its words, and what the user feels where that is known; always the same."""
    known = privileged(record, index, chooser(np.random.default_rng(0)))
    return "".join(told_pieces(record.turns[index].text, known, record.language))


def first_prompts(records: Sequence[Record]) -> list[tuple[UserTurn, ...]]:
    """A prompt for every turn that has no reply, with dots for replies that are not there yet: to guess the cost."""
    found = []
    for record in records:
        history: tuple[UserTurn, ...] = ()
        for index in range(len(record.turns)):
            turn = UserTurn(text=told(record, index))
            if not _said(record, index):
                found.append((*history, turn))
            history = (*history, turn.answered(_said(record, index) or "..."))
    return found


def add_responses(
    records: Sequence[Record], generator: Generator | Recorded, source: str, quarantine: Quarantine | None = None
) -> tuple[list[dict[str, Any] | None], int]:
    """(JSON objects of the records with a reply to every turn that had none, distinct prompts that were answered).

    Args:
        records: dialogues.
        generator: answers them; equal prompts once.
        source: stored as the replies' provenance, `ieat.response.source`.
        quarantine: notes the dialogues that cannot be answered, whose object is then None; without, they raise.

    Raises:
        UserError: a prompt that cannot be answered, or is answered with nothing; it is named.
    """
    history: list[tuple[UserTurn, ...]] = [()] * len(records)
    values: list[dict[str, Any] | None] = [copy.deepcopy(to_json(record)) for record in records]
    answers: dict[_Key, str | UserError] = {}
    turns_at_most = max((len(record.turns) for record in records), default=0)
    for index in range(turns_at_most):
        asked = {
            number: (*history[number], UserTurn(text=told(record, index)))
            for number, record in enumerate(records)
            if index < len(record.turns) and values[number] is not None
        }
        open_turns = {_key(turns): turns for number, turns in asked.items() if not _said(records[number], index)}
        new = {key: turns for key, turns in open_turns.items() if key not in answers}
        said = _asked(generator, list(new.values()), (index + 1, turns_at_most))
        for key, reply in zip(new, said, strict=True):
            if not isinstance(reply, UserError) and not reply.text:
                reply = UserError(f"{source} answers nothing to {new[key][-1].text!r}; use another LLM or system text")
            if isinstance(reply, UserError) and quarantine is None:
                raise reply
            answers[key] = reply if isinstance(reply, UserError) else _whole_sentences(reply)
        for number, turns in asked.items():
            text = _said(records[number], index)
            if not text:
                text = answers[_key(turns)]
                if isinstance(text, UserError):
                    name = records[number].dialogue_id
                    quarantine.note(name, "not_answered", f"{name}: turn {index + 1}: {text}")
                    values[number] = None
                    continue
                _store(values[number]["turns"][index], text, source)
            history[number] = (*turns[:-1], turns[-1].answered(text))
    return values, sum(not isinstance(answer, UserError) for answer in answers.values())


def _asked(
    generator: Generator | Recorded, dialogues: list[tuple[UserTurn, ...]], part: tuple[int, int]
) -> list[Reply | UserError]:
    """A reply to each, or what is wrong with it; people see how far it is."""
    if isinstance(generator, Recorded):
        return generator.replies(dialogues, part)
    with Progress("prompts answered", len(dialogues), part=part) as progress:
        return replies(generator, dialogues, progress.done)


def replies(
    generator: Generator, dialogues: list[tuple[UserTurn, ...]], done: Callable[[int], None] = lambda count: None
) -> list[Reply | UserError]:
    """A reply to each, or what is wrong with it: where all together fail, each is asked on its own."""
    if not dialogues:
        return []
    try:
        return list(generator.reply(dialogues, think=False, done=done))
    except UserError as error:
        if len(dialogues) == 1:
            return [error]
    middle = len(dialogues) // 2
    return [*replies(generator, dialogues[:middle], done), *replies(generator, dialogues[middle:], done)]


def _whole_sentences(reply: Reply) -> str:
    """The reply on one line; one that was cut at its limit, up to its last whole sentence if it has one."""
    text = " ".join(reply.text.split())
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)|[。！？]", text)]
    return text[: ends[-1]] if ends and not reply.response_ended else text


def _said(record: Record, index: int) -> str:
    return record.turns[index].response_text


def _key(turns: Sequence[UserTurn]) -> _Key:
    return tuple((turn.text, turn.response) for turn in turns)


def _store(turn: dict[str, Any], text: str, source: str) -> None:
    turn["response_text"] = text
    ours = turn.get("ieat") or {}
    turn["ieat"] = {**ours, "response": {**(ours.get("response") or {}), "source": source}}
