"""Talk to a trained run in Python: what `ieat_jax.load` returns.

model = ieat_jax.load("runs/demo/joint")
reply = model.reply("hello.wav")
print(reply.emotion, reply.thinking, reply.text)
IPython.display.Audio(reply.sound, rate=reply.rate)
model.reply(text="And you?", history=reply.history)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ieat_jax.data.injection import parse_thinking
from ieat_jax.errors import UserError
from ieat_jax.inference.generator import Generator, Limits
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.inference.sampling import Sampling, UnitSampling
from ieat_jax.interop.open import open_run
from ieat_jax.runs.folder import Run


@dataclasses.dataclass(frozen=True)
class SpokenReply:
    """What the model thought, wrote and said in answer to one turn."""

    text: str
    thinking: str  # '' where it was not asked to think
    emotion: str | None  # of the user, as the thinking names it: a label of data/labels.py; None = it names none
    sound: np.ndarray | None  # float32 samples; None = it did not speak
    rate: int | None  # samples a second of the sound
    history: tuple[UserTurn, ...]  # the dialogue up to here, this turn and its answer included
    cut: tuple[str, ...]  # what was ended at its limit, not by the model: of 'thinking', 'text' and 'sound'


@dataclasses.dataclass(frozen=True)
class Talker:
    """A trained run that answers one turn at a time; `generator` and `run` are the parts behind it."""

    run: Run
    generator: Generator

    @property
    def speaks(self) -> bool:
        """Whether the run can speak: it has Speak, and the codec that makes sound of units."""
        return self.generator.model.speak is not None and self.generator.codec is not None

    def reply(
        self,
        audio: str | Path | np.ndarray | None = None,
        *,
        text: str = "",
        think: bool = True,
        speech: bool | None = None,
        history: Sequence[UserTurn] = (),
    ) -> SpokenReply:
        """Answer one turn of the user.

        Args:
            audio: a sound file, or a 16 kHz mono waveform [samples].
            text: words of the user, instead of audio or after it.
            think: think before answering.
            speech: speak the answer; None = where the run can.
            history: `history` of the reply before, to go on with its dialogue.

        Raises:
            UserError: neither audio nor text, or something of another type.
            AudioError: the audio cannot be read.
            GenerationError: `speech=True`, and the run cannot speak.
        """
        _check("reply", "audio", audio, (str, os.PathLike, np.ndarray), "a sound file or a waveform", none=True)
        _check("reply", "text", text, (str,), "words")
        _check("reply", "think", think, (bool, np.bool_), "True or False")
        _check("reply", "speech", speech, (bool, np.bool_), "True or False", none=True)
        if not isinstance(history, list | tuple) or not all(isinstance(turn, UserTurn) for turn in history):
            raise UserError(f"reply: history is {_kind(history)}; give `history` of the reply before, or ()")
        if audio is None and not text.strip():
            raise UserError("reply: give what the user said: a sound file, or text=WORDS")
        turn = UserTurn(audio if isinstance(audio, np.ndarray | None) else Path(audio), text)
        speaks = self.speaks if speech is None else speech
        made = self.generator.reply([[*history, turn]], think=think, speech="waveform" if speaks else "none")[0]
        ended = {"thinking": made.think_closed or not think, "text": made.response_ended}
        if speaks:
            ended["sound"] = made.speech_ended
        return SpokenReply(
            text=made.text,
            thinking=made.think_text,
            emotion=parse_thinking(made.think_text)["emotion"],
            sound=made.waveform,
            rate=self.generator.codec.sample_rate if speaks else None,
            history=(*history, turn.answered(made.text)),
            cut=tuple(name for name, whole in ended.items() if not whole),
        )


def load(
    path: str | Path,
    *,
    step: int | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
    unit_sampling: UnitSampling = UnitSampling(),  # noqa: B008
    limits: Limits = Limits(),  # noqa: B008
    seed: int = 0,
) -> Talker:
    """Load a trained run from its folder, to talk to it.

    Args:
        path: working directory of the training.
        step: of a checkpoint; None = the newest intact one.
        sampling: of text; greedy by default.
        unit_sampling: of speech; greedy by default.
        limits: where thinking, answer and speech are cut.
        seed: of the sampling.

    Raises:
        UserError: something of another type.
        RunError: no run or step there, or files that do not belong together.
        CheckpointError: the checkpoint is damaged.
        CodecError: the codec is missing or another one.
    """
    _check("load", "path", path, (str, os.PathLike), "the folder of a training run")
    _check("load", "step", step, (int, np.integer), "a whole number", none=True)
    _check("load", "sampling", sampling, (Sampling,), "a Sampling")
    _check("load", "unit_sampling", unit_sampling, (UnitSampling,), "a UnitSampling")
    _check("load", "limits", limits, (Limits,), "Limits")
    _check("load", "seed", seed, (int, np.integer), "a whole number")
    if not 0 <= seed < 2**32:
        raise UserError(f"load: seed is {seed}; it has to be at least 0 and below 2**32")
    run = open_run(path, step=step)
    options = {"sampling": sampling, "unit_sampling": unit_sampling, "limits": limits, "seed": seed}
    return Talker(run, Generator.from_run(run, batch_size=1, **options))


def _check(call: str, name: str, value: Any, kinds: tuple[type, ...], words: str, *, none: bool = False) -> None:
    """Refuse what is of another type; True and False are no numbers."""
    number = isinstance(value, bool) and bool not in kinds
    if not (none and value is None) and (number or not isinstance(value, kinds)):
        raise UserError(f"{call}: {name} is {_kind(value)}; give {words}{', or None' if none else ''}")


def _kind(value: Any) -> str:
    return "None" if value is None else f"{value!r:.60} ({type(value).__name__})"
