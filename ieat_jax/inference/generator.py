"""Replies from a trained model to batches of dialogues; `live.py` streams one."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ieat_jax.audio.codec import UnitCodec
from ieat_jax.errors import UserError
from ieat_jax.inference.listener import Listener
from ieat_jax.inference.prompt import HostPrompt, Prompt, PromptBuilder, UserTurn, stack_prompts
from ieat_jax.inference.sampling import Sampling, UnitSampling, check_numbers
from ieat_jax.inference.speech_decode import SpeechPlan, UnitRules, decode_speech
from ieat_jax.inference.text_decode import ENDED, TextRules, TextState, decode_text
from ieat_jax.model.config import ModelConfig
from ieat_jax.model.sharding import AXES, put
from ieat_jax.model.unified import UnifiedModel
from ieat_jax.runs.folder import Run
from ieat_jax.text.chat import ChatFormat

_decode_text = jax.jit(decode_text, static_argnums=2)
_decode_speech = jax.jit(decode_speech, static_argnums=5)


# Clips that are encoded together: the encoder's states of more would not stay in a CPU's cache.
LISTENER_ROWS = 8


class GenerationError(UserError):
    """A request that the model at hand cannot answer."""


@dataclass(frozen=True)
class Limits:
    """Where a reply is cut when the model does not end it by itself."""

    think: int = 160  # tokens; the thinking is then closed for the model
    response: int = 80  # tokens, the end of turn included
    speech_seconds: float = 15.0

    def __post_init__(self):
        check_numbers("generation limit ", self)
        for name in ("think", "response", "speech_seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"generation limit {name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class Reply:
    """One answer. `units` and `waveform` (16 kHz) are None where no speech was asked for."""

    think_text: str
    text: str
    units: np.ndarray | None
    waveform: np.ndarray | None
    think_closed: bool  # False: the thinking was cut at its limit and closed for the model
    response_ended: bool  # False: the reply was cut at its limit
    speech_ended: bool  # False: the speech was cut at its limit, or there is none
    tokens: tuple[int, ...]  # everything generated, thinking and format tokens included


def bucket(size: int, smallest: int) -> int:
    """The next `smallest` x 2^n: few shapes, few compilations."""
    while smallest < size:
        smallest *= 2
    return smallest


class Generator:
    """Answers dialogues with one model. Decoding is compiled once per shape: prompts are padded to a few lengths."""

    def __init__(
        self,
        model: UnifiedModel,
        config: ModelConfig,
        chat: ChatFormat,
        *,
        codec: UnitCodec | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
        unit_sampling: UnitSampling = UnitSampling(),  # noqa: B008
        limits: Limits = Limits(),
        batch_size: int = 32,
        seed: int = 0,
        mesh: Any = None,
    ):
        """`mesh`: the mesh that the parameters lie on; None = a single device."""
        if batch_size < 1:
            raise UserError(f"generation: batch size is {batch_size}; it must be at least 1")
        self.model, self.config, self.chat, self.codec, self.limits = model, config, chat, codec, limits
        self.mesh = mesh
        # Rows that the mesh's batch axes divide; a batch of one dialogue has that many, too.
        self.least_rows = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in AXES["batch"])
        self.batch_size = self._whole_rows(batch_size)
        self.prompts = PromptBuilder(chat, config.listen)
        self.listener = Listener(model.listen, config.listen, min(self.batch_size, self._whole_rows(LISTENER_ROWS)))
        rules = self.prompts.rules()
        self.text_rules = TextRules(
            **rules, max_think=limits.think, max_response=limits.response, sampling=sampling, seed=seed
        )
        self.unit_rules = None
        if codec is not None:
            groups = int(limits.speech_seconds * codec.rate / config.speak.group_size)
            self.unit_rules = UnitRules(codec.end_id, max(groups, 1), config.speak.group_size, unit_sampling, seed)

    def _whole_rows(self, rows: int) -> int:
        """`rows` rounded up to what the mesh divides."""
        return -(-rows // self.least_rows) * self.least_rows

    @classmethod
    def from_run(cls, run: Run, **options: Any) -> "Generator":
        """For a training run as `runs.folder.load_run` returns it; `options` as in the constructor."""
        chat = ChatFormat.from_config(run.tokenizer, run.config.chat)
        return cls(run.model, run.config.model, chat, codec=run.codec, mesh=run.mesh, **options)

    @property
    def sample_rate(self) -> int:
        """Samples a second of its speech.

        Raises:
            GenerationError: it cannot speak.
        """
        self.require_speech()
        assert self.codec is not None
        return self.codec.sample_rate

    def require_speech(self) -> None:
        """Raise a GenerationError when this model cannot speak."""
        if self.model.speak is None:
            raise GenerationError(
                "this checkpoint has no Speak (config.model.speak.enabled = false): it writes but cannot speak; "
                "use a checkpoint of the joint stage or leave speech out"
            )
        if self.codec is None:
            raise GenerationError("this checkpoint has no codec folder, so units cannot become sound; leave speech out")

    def reply(
        self,
        dialogues: Sequence[Sequence[UserTurn]],
        *,
        think: bool = True,
        speech: str = "none",
        max_response: int | None = None,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[Reply]:
        """Answer the last turn of each dialogue. `speech`: 'none', 'units', or 'waveform' (units and sound).

        `max_response`: cut replies earlier than `limits` says; 1 where only the thinking is wanted. `done` is called
        with the number of dialogues after each batch.

        Raises:
            GenerationError: the model cannot speak.
            AudioError: a clip cannot be read.
        """
        if speech not in ("none", "units", "waveform"):
            raise UserError(f"generation: speech={speech!r}; it must be 'none', 'units' or 'waveform'")
        if speech != "none":
            self.require_speech()
        prompts = [self.prompts.build(turns, think=think, speech=speech != "none") for turns in dialogues]
        by_shape: dict[tuple[int, bool], list[int]] = {}
        for number, prompt in enumerate(prompts):
            by_shape.setdefault((bucket(len(prompt.tokens), 64), bool(prompt.clips)), []).append(number)
        replies: list[Reply | None] = [None] * len(prompts)
        for numbers in by_shape.values():
            for first in range(0, len(numbers), self.batch_size):
                rows = numbers[first : first + self.batch_size]
                batch = [prompts[number] for number in rows]
                for number, reply in zip(rows, self._reply_batch(batch, rows, speech, max_response), strict=True):
                    replies[number] = reply
                done(len(rows))
        return replies

    def context(self):
        """The mesh to compute under."""
        return jax.set_mesh(self.mesh) if self.mesh is not None else nullcontext()

    def stack(
        self, prompts: Sequence[HostPrompt], numbers: Sequence[int], rows: int, max_response: int | None = None
    ) -> Prompt:
        """Prompts of one bucket as a batch of `rows` on the device. Call it under the mesh."""
        heard = iter(self.listener([clip for prompt in prompts for clip in prompt.clips]))
        return stack_prompts(
            prompts,
            [[next(heard) for _ in prompt.clips] for prompt in prompts],
            numbers,
            length=bucket(max(len(prompt.tokens) for prompt in prompts), 64),
            batch=rows,
            max_response=max_response or self.limits.response,
        )

    def _reply_batch(
        self, prompts: list[HostPrompt], numbers: list[int], speech: str, max_response: int | None
    ) -> list[Reply]:
        rows = range(len(prompts))
        with self.context():
            prompt = self.stack(prompts, numbers, self.batch_size, max_response)
            state, prompt_states = _decode_text(self.model, prompt, self.text_rules)
            host = host_state(state)
            units, ended = None, np.zeros(len(rows), bool)
            if speech != "none":
                plan, text_end = self.plan_speech(prompts, host, *prompt.tokens.shape)
                states = jnp.concatenate([prompt_states, state.states], axis=1)
                spoken = _decode_speech(self.model, states, plan, text_end, prompt.row_numbers, self.unit_rules)
                units, ended = jax.device_get((spoken.units, spoken.ended))
        replies = []
        for row in rows:
            row_units = None if units is None else units[row][units[row] >= 0].astype(np.int32)
            waveform = self.vocode(row_units) if speech == "waveform" else None
            replies.append(self.finish(host, row, row_units, waveform, bool(ended[row])))
        return replies

    def plan_speech(
        self, prompts: list[HostPrompt], host: dict[str, np.ndarray], batch: int, length: int
    ) -> tuple[SpeechPlan, jax.Array]:
        """Where Speak reads for rows with decoded text, and the end of that text [B]; prompts are [batch, length]."""
        extra = self.text_rules.max_think + len(self.text_rules.close) if prompts[0].thinks else 0
        size = bucket(max(len(prompt.speech_prefix) for prompt in prompts), 32) + extra + 1
        prefix = np.full((batch, size), -1, np.int32)
        lengths, following, text_end = (np.zeros(batch, np.int32) for _ in range(3))
        num_fed = num_response_states(host)
        for row, prompt in enumerate(prompts):
            first, fed = host["response_start"][row], num_fed[row]
            if fed < 1:  # the model answered nothing: nothing to say
                continue
            # After thinking the last token before the response predicts the first group, else the first response
            # token does.
            until = first if prompt.thinks else first + 1
            indices = np.concatenate([prompt.speech_prefix, length + np.arange(until)])
            prefix[row, : len(indices)] = indices
            lengths[row], following[row], text_end[row] = len(indices), length + until, length + first + fed
        return put((SpeechPlan(prefix, lengths, following), text_end), "batch")

    def vocode(self, units: np.ndarray) -> np.ndarray:
        """Units [n] -> 16 kHz waveform."""
        return self.codec.decode(units) if len(units) else np.zeros(0, np.float32)

    def think_tokens(self, tokens: Sequence[int], response_start: int) -> list[int]:
        """The thinking among the generated tokens, without its closing tag."""
        inside = list(tokens[: response_start if response_start >= 0 else len(tokens)])
        tag = self.text_rules.close_tag
        return inside[: inside.index(tag)] if tag in inside else inside

    def finish(
        self, host: dict[str, np.ndarray], row: int, units: np.ndarray | None, waveform: np.ndarray | None, ended: bool
    ) -> Reply:
        """Turn a decoded row into a Reply."""
        tokens = host["tokens"][row]
        tokens = tokens[tokens >= 0].tolist()
        start = int(host["response_start"][row])
        response = [token for token in tokens[start:] if token not in self.text_rules.end] if start >= 0 else []
        return Reply(
            think_text=self.chat.tokenizer.decode(self.think_tokens(tokens, start)).strip(),
            text=self.chat.tokenizer.decode(response).strip(),
            units=units,
            waveform=waveform,
            think_closed=bool(host["think_closed"][row]),
            response_ended=bool(host["response_ended"][row]),
            speech_ended=ended,
            tokens=tuple(tokens),
        )


_HOST_FIELDS = ("tokens", "phase", "response_start", "response_length", "think_closed", "response_ended")


def host_state(state: TextState) -> dict[str, np.ndarray]:
    """The small parts of a decoding state, on the host."""
    return jax.device_get({name: getattr(state, name) for name in _HOST_FIELDS})


def num_response_states(host: dict[str, np.ndarray]) -> np.ndarray:
    """[B] how many response tokens have been fed, so that Speak can read their states.

    All but the newest, which is the end of turn when the model has ended its turn. Of a reply that was cut, all.
    """
    cut = (host["phase"] == ENDED) & ~host["response_ended"]
    return host["response_length"] - np.where(cut, 0, 1)
