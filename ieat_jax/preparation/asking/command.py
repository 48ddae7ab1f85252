"""Arguments of commands that ask an LLM, and the LLM that they name."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ieat_jax.cli import path_argument
from ieat_jax.errors import UserError

if TYPE_CHECKING:
    from ieat_jax.preparation.asking.recorded import Answer, Dialogue, Recorded

ANSWERS_FILE = "answers.jsonl"
# Of an endpoint, where nothing else is given.
KEY_VARIABLE, WORKERS, TIMEOUT = "OPENAI_API_KEY", 8, 120.0
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say who is asked, and at which cost."""
    parser.add_argument(
        "--llm",
        required=True,
        help="package:NAME, gguf:FILE, hf:ORG/NAME@REVISION, a Hugging Face folder, or the address of an "
        "OpenAI-compatible endpoint, such as http://localhost:8000/v1",
    )
    parser.add_argument("--model", help="name of the model at an endpoint")
    parser.add_argument("--key-variable", help=f"environment variable with an endpoint's key (default: {KEY_VARIABLE})")
    parser.add_argument("--workers", type=int, help=f"questions to an endpoint at a time (default: {WORKERS})")
    parser.add_argument("--timeout", type=float, help=f"seconds for an endpoint's answer (default: {TIMEOUT:g})")
    parser.add_argument("--extra", help="JSON object added to an endpoint's requests; null takes a key out")
    parser.add_argument(
        "--answers", type=path_argument, help=f"file that keeps all answers (default: {ANSWERS_FILE} in --out)"
    )
    parser.add_argument("--replay", action="store_true", help="ask nobody: every answer has to be in --answers")
    parser.add_argument(
        "--price", type=float, nargs=2, metavar=("IN", "OUT"), help="of a million tokens read and written"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what it would cost, and ask nothing")


def model_name(arguments: argparse.Namespace) -> str:
    """The name that answers are kept under, and that records have as `model:NAME`.

    Raises:
        UserError: an endpoint without a model, or an argument that is for endpoints without one.
    """
    is_address = _ADDRESS.match(arguments.llm) is not None
    if is_address and not arguments.model:
        raise UserError(f"--llm {arguments.llm}: an endpoint has several models; name one as --model")
    for flag in () if is_address else ("model", "key_variable", "workers", "timeout", "extra"):
        if (value := getattr(arguments, flag)) is not None:
            name = f"--{flag.replace('_', '-')}"
            raise UserError(f"{name} {value}: is for endpoints; --llm {arguments.llm} is a model that runs here")
    return arguments.model or arguments.llm


def open_llm(arguments: argparse.Namespace, system_text: str, max_tokens: int) -> Recorded:
    """The LLM of the arguments, with its memory.

    Raises:
        UserError: an argument that cannot be used, or an LLM that cannot be loaded.
    """
    from ieat_jax.preparation.asking.endpoint import Endpoint
    from ieat_jax.preparation.asking.recorded import Recorded

    name = model_name(arguments)
    for flag in ("workers", "timeout"):
        if getattr(arguments, flag) is not None and not getattr(arguments, flag) > 0:
            raise UserError(f"--{flag} {getattr(arguments, flag)}: has to be above 0")
    if max_tokens < 1:
        raise UserError(f"--max-tokens {max_tokens}: has to be above 0")
    extra = {} if arguments.extra is None else _extra(arguments.extra)
    path = arguments.answers or arguments.out / ANSWERS_FILE
    settings: dict[str, Any] = {"max_tokens": max_tokens} | ({"extra": extra} if extra else {})
    if arguments.replay and not path.is_file():
        raise UserError(f"--replay: there is no file of answers {path}; give it as --answers")
    if arguments.replay or arguments.dry_run:
        return Recorded(None, path, name, system_text, settings)
    if not _ADDRESS.match(arguments.llm):
        return Recorded(Local(arguments.llm, system_text, max_tokens), path, name, system_text, settings)
    endpoint = Endpoint(
        arguments.llm,
        name,
        system_text,
        max_tokens,
        key=os.environ.get(arguments.key_variable or KEY_VARIABLE),
        timeout=arguments.timeout or TIMEOUT,
        workers=arguments.workers or WORKERS,
        extra=extra,
    )
    return Recorded(endpoint, path, name, system_text, settings)


def _extra(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--extra {text}: is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"--extra {text}: has to be an object, such as {{'seed': 1}}")
    return value


class Local:
    """An LLM that runs here. It is loaded at once, so that a name that is wrong is told before the work."""

    def __init__(self, spec: str, system_text: str, max_tokens: int):
        """Args:
        spec: as `interop.llm.load_llm` takes it.
        system_text: its system prompt.
        max_tokens: longest answer.
        """
        from ieat_jax.preparation.responses import text_generator

        self._generator = text_generator(spec, system_text, max_response=max_tokens)

    def each(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[int, Answer | UserError]]:
        """As `Asked.each`."""
        from ieat_jax.preparation.asking.recorded import Answer
        from ieat_jax.preparation.responses import replies

        # Of equal lengths together: prompts are padded to few lengths, each is compiled once.
        order = sorted(range(len(dialogues)), key=lambda number: sum(len(turn.text) for turn in dialogues[number]))
        size = self._generator.batch_size
        for first in range(0, len(order), size):
            numbers = order[first : first + size]
            for number, reply in zip(numbers, replies(self._generator, [dialogues[n] for n in numbers]), strict=True):
                yield number, reply if isinstance(reply, UserError) else Answer(reply.text, reply.response_ended)
