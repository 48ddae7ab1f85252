"""An LLM behind an address that speaks OpenAI's protocol of chat completions, as vLLM and llama.cpp do."""

from __future__ import annotations

import dataclasses
import http.client
import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ieat_jax.errors import UserError
from ieat_jax.preparation.asking.recorded import Answer, AskError, Dialogue

MOST_BYTES = 1 << 24  # of an answer
LONGEST_PAUSE = 60.0  # seconds
REFUSED = (400, 413, 422)  # this question cannot be answered; others may be
BUSY = (408, 409, 425, 429)  # and all from 500 on


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Again(Exception):
    """A fault that may pass, and how many seconds to wait if the other side says so."""

    def __init__(self, message: str, pause: float | None = None):
        super().__init__(message)
        self.pause = pause


@dataclasses.dataclass
class Endpoint:
    """Asks over HTTP, several questions at a time.

    Attributes:
        address: such as http://localhost:8000/v1.
        model: its name there.
        system_text: the system prompt; '' = none.
        max_tokens: longest answer.
        key: sent as a bearer token; it stands in no file and no message.
        timeout: seconds for one answer.
        tries: how often a question is asked when the other side is busy or away.
        pause: seconds before the second try; doubled every time.
        workers: questions at a time.
        extra: further keys of the request; None takes one out.
    """

    address: str
    model: str
    system_text: str
    max_tokens: int
    key: str | None = dataclasses.field(default=None, repr=False)
    timeout: float = 120.0
    tries: int = 6
    pause: float = 1.0
    workers: int = 8
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._stop = threading.Event()

    def each(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[int, Answer | UserError]]:
        """As `Asked.each`. Answers that are on their way when another question ends everything are still given.

        Raises:
            AskError: the address, the model or the key is wrong, or nobody answers there.
        """
        self._stop.clear()
        final: AskError | None = None
        with ThreadPoolExecutor(self.workers) as pool:
            waiting = {pool.submit(self._or_stop, dialogue): number for number, dialogue in enumerate(dialogues)}
            try:
                for done in as_completed(waiting):
                    answer = done.result()
                    if isinstance(answer, AskError):
                        final = final or answer
                    elif answer is not None:
                        yield waiting[done], answer
            finally:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
        if final is not None:
            raise final

    def _or_stop(self, dialogue: Dialogue) -> Answer | UserError | None:
        answer = self._answer(dialogue)
        if isinstance(answer, AskError):  # here, before this thread takes the next question
            self._stop.set()
        return answer

    def _answer(self, dialogue: Dialogue) -> Answer | UserError | None:
        """The answer, or what is wrong; None: everything ended before it was asked."""
        pause = self.pause
        for number in range(1, self.tries + 1):
            if self._stop.is_set():
                return None
            try:
                return self._once(dialogue)
            except UserError as error:
                return error
            except _Again as error:
                if number == self.tries:
                    return AskError(
                        f"{self.address}: no answer in {self.tries} tries; the last time {error}. What was answered is "
                        "kept: give the command again when it can be reached"
                    )
                self._stop.wait(min(LONGEST_PAUSE, pause if error.pause is None else error.pause))
                pause *= 2
        return None

    def _once(self, dialogue: Dialogue) -> Answer:
        messages = [{"role": "system", "content": self.system_text}] if self.system_text else []
        for turn in dialogue:
            messages.append({"role": "user", "content": turn.text})
            if turn.response is not None:
                messages.append({"role": "assistant", "content": turn.response})
        body: dict[str, Any] = {"model": self.model, "messages": messages, "temperature": 0.0}
        body |= {"max_tokens": self.max_tokens} | dict(self.extra)
        data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.address.rstrip('/')}/chat/completions", data, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                received = response.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:  # away, too slow, or the line broke
            reason = getattr(error, "reason", None) or error
            raise _Again(f"it could not be reached ({reason})") from error
        return _read(received)

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        try:
            said = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            said = ""
        if self.key:  # services have been seen to quote it
            said = said.replace(self.key, "...")
        what = f"HTTP {error.code}: {' '.join(_message(said).split())[:300] or error.reason}"
        if error.code in REFUSED:
            return UserError(f"{self.model} refuses a question ({what})")
        if error.code in BUSY or error.code >= 500:
            return _Again(what, _seconds(error.headers.get("Retry-After")))
        return AskError(f"{self.address}: {what}. Look at the address, --model and the key")


def _message(said: str) -> str:
    """The message of an error's body."""
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        return said
    error = value.get("error", value) if isinstance(value, dict) else value
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _seconds(header: str | None) -> float | None:
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _read(received: bytes) -> Answer:
    """The answer in a response; what a model thinks aloud before it is left out."""
    if len(received) > MOST_BYTES:
        raise UserError(f"an answer is longer than {MOST_BYTES >> 20} MiB")
    try:
        value = json.loads(received)
        choice = value["choices"][0]
        text = choice["message"]["content"]
        if text is not None and not isinstance(text, str):
            raise TypeError
        usage = value.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _Again(f"it sent no chat completion, but {received[:80]!r}") from error
    read, wrote = (count if isinstance(count, int) and not isinstance(count, bool) else None for count in counts)
    said = (text or "").rpartition("</think>")[2].strip()
    return Answer(said, choice.get("finish_reason") != "length", read, wrote)
