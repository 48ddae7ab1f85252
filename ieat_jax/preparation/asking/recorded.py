"""Answers of an LLM in a file: what was answered once is never asked again, and can be replayed without the LLM."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from ieat_jax.errors import UserError
from ieat_jax.inference.generator import Reply
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.progress import counted
from ieat_jax.storage import local_path

Dialogue = tuple[UserTurn, ...]
HOPELESS = 20  # questions that fail before any is answered
BYTES_PER_TOKEN = 4  # English; a Chinese character has three bytes and is somewhat less than a token
OVERHEAD = 8  # tokens of a chat format, per message


class AskError(UserError):
    """Nothing can be asked any more; what was answered is kept."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an LLM says. `read`, `wrote`: tokens as it counts them, None where it does not say."""

    text: str
    ended: bool
    read: int | None = None
    wrote: int | None = None


class Asked(Protocol):
    """An LLM."""

    def each(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[int, Answer | UserError]]:
        """Yield (number of the dialogue, answer to its last turn or what is wrong with it), in any order.

        Raises:
            AskError: no further question can be asked.
        """


class Recorded:
    """An LLM with a memory on disk."""

    def __init__(self, asked: Asked | None, path: Path, model: str, system_text: str, settings: dict[str, Any]):
        """Args:
        asked: None = nobody, as in a replay, where nothing may be missing.
        path: the file of answers, a line of JSON each.
        model: its name; answers of another one are not taken.
        system_text: its system prompt.
        settings: what else the answers depend on, such as the most tokens.

        Raises:
            AskError: the file cannot be used.
        """
        self.asked, self.path, self.model = asked, path, model
        self._settings = {"model": model, "system": system_text, **settings}
        self._system_text, self._most = system_text, int(settings["max_tokens"])
        self._failed: dict[str, UserError] = {}
        self.new: list[Answer] = []
        self._file = None if asked is None else _locked(path)
        self._known = _read_answers(path)

    def close(self) -> None:
        """Let others use the file."""
        if self._file is not None:
            self._file.close()

    def answers(self, dialogues: Sequence[Dialogue], part: tuple[int, int] | None = None) -> list[Answer | UserError]:
        """The answer to the last turn of each dialogue, or what is wrong with it; equal ones are asked once.

        Args:
            dialogues: what is asked.
            part: (which, of how many) askings, for people who watch.

        Raises:
            AskError: nothing can be asked any more, or an answer of a replay is missing.
        """
        keys = [self._key(dialogue) for dialogue in dialogues]
        open_ones = {
            key: dialogue
            for key, dialogue in zip(keys, dialogues, strict=True)
            if key not in self._known and key not in self._failed
        }
        if open_ones and self.asked is None:
            first = next(iter(open_ones.values()))[-1].text
            raise AskError(
                f"{self.path} has no answer of {self.model} to {len(open_ones)} of {len(dialogues)} questions; the "
                f"first begins {first[:60]!r}. Ask them without --replay"
            )
        self._ask(open_ones, part)
        return [self._known.get(key) or self._failed[key] for key in keys]

    def replies(self, dialogues: Sequence[Dialogue], part: tuple[int, int] | None = None) -> list[Reply | UserError]:
        """The `answers` as replies of a `Generator`.

        Raises:
            AskError: as `answers`.
        """
        return [
            answer
            if isinstance(answer, UserError)
            else Reply("", answer.text, None, None, True, answer.ended, False, ())
            for answer in self.answers(dialogues, part)
        ]

    def forecast(self, dialogues: Sequence[Dialogue], price: Sequence[float] | None) -> str:
        """What asking will cost, for people: tokens are guessed by bytes, answers are as long as they may be."""
        unique = {self._key(dialogue): dialogue for dialogue in dialogues}
        new = [dialogue for key, dialogue in unique.items() if key not in self._known]
        read = sum(self._tokens(dialogue) for dialogue in new)
        known = f"{len(unique) - len(new)} answered before, " if len(new) < len(unique) else ""
        return f"{len(unique)} questions: {known}{len(new)} to ask; about {read} tokens to read, at most " + _costing(
            len(new) * self._most, "to write", read, price
        )

    def account(self, price: Sequence[float] | None) -> str:
        """What was asked, for people, as the LLM counted it."""
        read = sum(answer.read or 0 for answer in self.new)
        counted = [answer for answer in self.new if answer.wrote is not None]
        if not counted:
            return f"{len(self.new)} questions asked"
        wrote = sum(answer.wrote or 0 for answer in counted)
        return f"{len(self.new)} questions asked: {read} tokens read, " + _costing(wrote, "written", read, price)

    def _ask(self, dialogues: dict[str, Dialogue], part: tuple[int, int] | None) -> None:
        if not dialogues or self.asked is None:
            return
        keys = list(dialogues)
        failed = 0
        asked = counted(self.asked.each(list(dialogues.values())), "questions asked", len(keys), part=part)
        for count, (number, answer) in enumerate(asked, 1):
            key = keys[number]
            if isinstance(answer, UserError):
                self._failed[key], failed = answer, failed + 1
                if failed == count == HOPELESS and not self._known:
                    raise AskError(f"the first {HOPELESS} questions cannot be answered; the last: {answer}")
            else:
                self._write(key, dialogues[key], answer)
                self._known[key] = answer
                self.new.append(answer)

    def _write(self, key: str, dialogue: Dialogue, answer: Answer) -> None:
        turns = [[turn.text, turn.response] for turn in dialogue]
        line = {"key": key, **dataclasses.asdict(answer), "turns": turns, **self._settings}
        try:
            assert self._file is not None
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise AskError(f"{self.path}: cannot be written ({error.strerror}); nothing more is asked") from error

    def _key(self, dialogue: Dialogue) -> str:
        turns = [[turn.text, turn.response] for turn in dialogue]
        whole = json.dumps([self._settings, turns], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def _tokens(self, dialogue: Dialogue) -> int:
        said = [text for turn in dialogue for text in (turn.text, turn.response) if text is not None]
        texts = [self._system_text, *said] if self._system_text else said
        return sum(len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN + OVERHEAD for text in texts)


def _costing(wrote: int, what: str, read: int, price: Sequence[float] | None) -> str:
    if price is None:
        return f"{wrote} {what}"
    return f"{wrote} {what}: {(read * price[0] + wrote * price[1]) / 1e6:.2f} at the --price"


def _locked(path: Path) -> IO[bytes]:
    """The file, to add to, for this process alone; a last line that was cut in a crash is taken off."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = local_path(path, "--answers").open("ab+")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0)
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
    except BlockingIOError as error:
        raise AskError(f"{path}: another process writes answers there; wait, or give another file") from error
    except OSError as error:
        raise AskError(f"{path}: cannot be written ({error.strerror}); give another --answers") from error
    return file


def _read_answers(path: Path) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    try:
        data = local_path(path, "--answers").read_bytes() if path.exists() else b""
    except OSError as error:
        raise AskError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            answer = Answer(value["text"], value["ended"], value["read"], value["wrote"])
            well = isinstance(value["key"], str) and isinstance(answer.text, str) and isinstance(answer.ended, bool)
        except (ValueError, KeyError, TypeError, RecursionError):
            well = False
        if not well:
            raise AskError(f"{path}:{number}: is no recorded answer; take the line out, or give another file")
        found[value["key"]] = answer
    return found
