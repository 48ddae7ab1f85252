"""One reply as it comes: thinking, text and sound.

Text and speech advance in lock-step (one unit group per response token, then units alone). The arithmetic is that of
batch decoding, so with greedy sampling the two give the same reply.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ieat_jax.inference.chunks import ChunkedVocoder
from ieat_jax.inference.generator import Generator, Reply, host_state, num_response_states
from ieat_jax.inference.prompt import HostPrompt, Prompt, UserTurn
from ieat_jax.inference.speech_decode import SpeechPlan, SpeechState, UnitRules, choose_group, feed_group, start_speech
from ieat_jax.inference.text_decode import ENDED, TextRules, TextState, choose, feed, start
from ieat_jax.model.sharding import put
from ieat_jax.model.unified import UnifiedModel

# Units per chunk of sound: the first is short so that the voice starts early.
_FIRST_CHUNK, _CHUNK = 24, 48


@partial(jax.jit, static_argnums=2)
def _first_token(model: UnifiedModel, prompt: Prompt, rules: TextRules) -> tuple[TextState, jax.Array]:
    state, prompt_states = start(model, prompt, rules)
    return choose(state, prompt.row_numbers, rules), prompt_states


@partial(jax.jit, static_argnums=3)
def _next_token(model: UnifiedModel, state: TextState, row_numbers: jax.Array, rules: TextRules) -> TextState:
    return choose(feed(model, state), row_numbers, rules)


@partial(jax.jit, static_argnums=4)
def _first_group(
    model: UnifiedModel, states: jax.Array, plan: SpeechPlan, row_numbers: jax.Array, rules: UnitRules
) -> SpeechState:
    return choose_group(start_speech(model, states, plan, rules), row_numbers, rules)


@partial(jax.jit, static_argnums=6)
def _next_group(
    model: UnifiedModel,
    states: jax.Array,
    plan: SpeechPlan,
    text_end: jax.Array,
    state: SpeechState,
    row_numbers: jax.Array,
    rules: UnitRules,
) -> SpeechState:
    return choose_group(feed_group(model, states, plan, text_end, state), row_numbers, rules)


@dataclass(frozen=True)
class Event:
    """`kind`: 'think' or 'text' (new `text`), 'audio' (new `waveform`, 16 kHz), at last 'reply' (the whole `reply`)."""

    kind: str
    text: str = ""
    waveform: np.ndarray | None = None
    reply: Reply | None = None


class _Words:
    """Decodes a growing token sequence and gives out what is new, holding back half a character."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.given = ""

    def new(self, tokens: Sequence[int], *, final: bool = False) -> str:
        text = self.tokenizer.decode(list(tokens)).lstrip()
        if not final:
            text = text.rstrip("�")
        fresh = text[len(self.given) :] if text.startswith(self.given) else ""
        self.given += fresh
        return fresh


class _Speaker:
    """Speak's side of the lock-step, for row 0."""

    def __init__(self, generator: Generator, prompt: Prompt, host: HostPrompt):
        self.generator, self.prompt, self.host = generator, prompt, host
        self.rules = generator.unit_rules
        self.plan: SpeechPlan | None = None
        self.state: SpeechState | None = None
        self.vocoder = ChunkedVocoder(generator.codec)
        self.units: list[int] = []
        self.pending: list[int] = []
        self.chunks: list[np.ndarray] = []

    def advance(self, states: jax.Array, text: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
        """Speak every group whose text state exists."""
        batch, length = self.prompt.tokens.shape
        fed = int(num_response_states(text)[0])
        over = text["phase"][0] == ENDED
        if fed < 1:
            return
        rows, model = self.prompt.row_numbers, self.generator.model
        if self.state is None:
            self.plan, _ = self.generator.plan_speech([self.host], text, batch, length)
            self.state = _first_group(model, states, self.plan, rows, self.rules)
            yield from self._collect()
        available = length + int(text["response_start"][0]) + fed
        end = put(np.full(batch, available, np.int32), "batch")
        while bool(np.asarray(self.state.running)[0]) and (
            over or int(np.asarray(self.state.next_text)[0]) < available
        ):
            self.state = _next_group(model, states, self.plan, end, self.state, rows, self.rules)
            yield from self._collect()

    def _collect(self) -> Iterator[np.ndarray]:
        group = np.asarray(self.state.units)[0, int(self.state.step) - 1]
        group = group[group >= 0].tolist()
        self.units += group
        self.pending += group
        final = not bool(np.asarray(self.state.running)[0])
        if final or len(self.pending) >= (_CHUNK if self.chunks else _FIRST_CHUNK):
            chunk = self.vocoder.push(np.asarray(self.pending, np.int32), final=final)
            self.pending = []
            if len(chunk):
                self.chunks.append(chunk)
                yield chunk

    @property
    def waveform(self) -> np.ndarray:
        """Everything said so far."""
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.float32)


def stream(
    generator: Generator, turns: Sequence[UserTurn], *, think: bool = True, speech: bool = True
) -> Iterator[Event]:
    """Answer the last turn of one dialogue as it comes: the events of the reply, of which the last has kind 'reply'.

    Raises:
        GenerationError: the model cannot speak.
        PromptError: turns that cannot be answered.
        AudioError: a clip cannot be read.
    """
    if speech:
        generator.require_speech()
    return stream_prompt(generator, generator.prompts.build(turns, think=think, speech=speech), speech=speech)


def stream_prompt(
    generator: Generator, host_prompt: HostPrompt, *, speech: bool, max_response: int | None = None
) -> Iterator[Event]:
    """Answer one prompt as it comes, as `stream` does; the prompt was built for `speech`, too.

    `max_response`: cut the reply earlier than the generator's limits say.
    """
    model, rules = generator.model, generator.text_rules
    thinking, saying = _Words(generator.chat.tokenizer), _Words(generator.chat.tokenizer)
    with generator.context():
        prompt = generator.stack([host_prompt], [0], generator.least_rows, max_response)
        state, prompt_states = _first_token(model, prompt, rules)
    speaker = _Speaker(generator, prompt, host_prompt) if speech else None
    while True:
        with generator.context():
            host = host_state(state)
        yield from _new_words(generator, host, thinking, saying)
        if speaker is not None and host["response_start"][0] >= 0:
            with generator.context():
                states = jnp.concatenate([prompt_states, state.states], axis=1)
            # The mesh is set anew after every yield: a consumer may run other work in between.
            sound = speaker.advance(states, host)
            while True:
                with generator.context():
                    chunk = next(sound, None)
                if chunk is None:
                    break
                yield Event("audio", waveform=chunk)
        if host["phase"][0] == ENDED:
            break
        with generator.context():
            state = _next_token(model, state, prompt.row_numbers, rules)
    units = None if speaker is None else np.asarray(speaker.units, np.int32)
    ended = speaker is not None and speaker.state is not None and bool(np.asarray(speaker.state.ended)[0])
    waveform = None if speaker is None else speaker.waveform
    yield Event("reply", reply=generator.finish(host, 0, units, waveform, ended))


def _new_words(generator: Generator, host: dict[str, np.ndarray], thinking: _Words, saying: _Words) -> Iterator[Event]:
    tokens = host["tokens"][0]
    tokens = tokens[tokens >= 0].tolist()
    begun = int(host["response_start"][0])
    thought = thinking.new(generator.think_tokens(tokens, begun), final=begun >= 0)
    if thought:
        yield Event("think", text=thought)
    if begun >= 0:
        response = [token for token in tokens[begun:] if token not in generator.text_rules.end]
        said = saying.new(response, final=host["phase"][0] == ENDED)
        if said:
            yield Event("text", text=said)
