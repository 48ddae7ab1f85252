"""A request for a chat completion in OpenAI's words, checked, as turns of our own."""

import base64
import binascii
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ieat_jax.audio.files import AudioError
from ieat_jax.errors import UserError
from ieat_jax.inference.prompt import UserTurn, load_audio
from ieat_jax.text.checks import check_text

SOUNDS = ("wav", "flac", "mp3")  # that are heard
SPOKEN = ("wav", "pcm16")  # that are said
# Labels for the caller's own books: they change no answer, anywhere.
LABELS = {"user", "metadata", "safety_identifier", "prompt_cache_key"}
# Of assistants' messages that come back as they were sent: later turns do not see earlier thinking.
REPLY_KEYS = {"reasoning_content", "reasoning", "refusal", "annotations"}


class RequestError(UserError):
    """A request that cannot be answered; `param` names the part of it, `status` is HTTP's."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


@dataclass(frozen=True)
class Served:
    """What the server answers with."""

    model: str  # its name
    clip_seconds: float
    system_text: str
    thinks: bool
    speaks: bool
    temperature: float
    top_p: float


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    turns: tuple[UserTurn, ...]
    think: bool
    sound: str | None  # 'wav' or 'pcm16'; None = no speech
    stream: bool
    usage: bool  # a stream ends with the count of tokens
    max_response: int | None


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        RequestError: it is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON ({str(error)[:200]}); send one JSON object") from error
    if not isinstance(found, dict):
        raise RequestError(f"the body is {_kind(found)}; send one JSON object")
    return {name: value for name, value in found.items() if value is not None}


def parse_request(body: Mapping[str, Any], served: Served, said: Callable[[str], str | None]) -> Asked:
    """Read what `parse_body` returns. `said`: the words of a spoken reply of before by its id, None = not known.

    Raises:
        RequestError: names the field.
    """
    known = {"model", "messages", "modalities", "audio", "stream", "stream_options", "max_tokens", "n", "store"}
    known |= {"max_completion_tokens", "reasoning_effort", "temperature", "top_p"} | LABELS
    for name in body:
        if name not in known:
            raise RequestError(f"{name!r:.60} is not supported here; leave it out", f"{name:.60}")
    _check_model(body, served)
    _check_fixed(body, "temperature", served.temperature)
    if served.temperature:  # a greedy choice knows no nucleus
        _check_fixed(body, "top_p", served.top_p)
    if body.get("n", 1) != 1:
        raise RequestError(f"n is {body['n']!r:.40}; one answer is given at a time", "n")
    if body.get("store", False) is not False:
        raise RequestError("store: nothing is stored here; leave it out", "store")
    stream = _boolean(body, "stream")
    options = body.get("stream_options", {})
    if not isinstance(options, dict) or set(options) - {"include_usage"} or (options and not stream):
        message = 'it is {"include_usage": true} or false, beside "stream": true'
        raise RequestError(f"stream_options is {options!r:.60}; {message}", "stream_options")
    return Asked(
        turns=_turns(body.get("messages"), served, said),
        think=_thinks(body, served),
        sound=_sound(body, served),
        stream=stream,
        usage=_boolean(options, "include_usage", "stream_options."),
        max_response=_max_response(body),
    )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _boolean(body: Mapping[str, Any], name: str, before: str = "") -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"{before}{name} is {value!r:.40}; it must be true or false", before + name)
    return value


def _check_model(body: Mapping[str, Any], served: Served) -> None:
    if body.get("model", served.model) != served.model:
        message = f"there is no model {body['model']!r:.60} here; there is {served.model!r}"
        raise RequestError(message, "model", status=404, code="model_not_found")


def _check_fixed(body: Mapping[str, Any], name: str, value: float) -> None:
    """Sampling is compiled into the model's program: the server has one."""
    if body.get(name, value) != value:
        flag = f"--{name.replace('_', '-')}"
        raise RequestError(f"{name} is {body[name]!r:.40}; this server answers with {value:g} ({flag})", name)


def _thinks(body: Mapping[str, Any], served: Served) -> bool:
    efforts = ("none", "minimal", "low", "medium", "high")
    effort = body.get("reasoning_effort")
    if effort is None:
        return served.thinks
    if effort not in efforts:
        message = f"reasoning_effort is {effort!r:.40}; it is one of {', '.join(efforts)}: 'none' does not think"
        raise RequestError(message, "reasoning_effort")
    if effort != "none" and not served.thinks:
        raise RequestError(f"reasoning_effort is {effort!r}; this model does not think", "reasoning_effort")
    return effort != "none"


def _sound(body: Mapping[str, Any], served: Served) -> str | None:
    modalities = body.get("modalities", ["text"])
    if modalities not in (["text"], ["text", "audio"], ["audio", "text"]):
        message = f'modalities is {modalities!r:.60}; it is ["text"] or ["text", "audio"]'
        raise RequestError(message, "modalities")
    options = body.get("audio", {})
    if not isinstance(options, dict) or set(options) - {"format", "voice"}:
        message = f'audio is {options!r:.60}; it is {{"format": "wav", "voice": "default"}}'
        raise RequestError(message, "audio")
    if "audio" not in modalities:
        if options:
            raise RequestError('audio is given, but modalities has no "audio"; add it', "modalities")
        return None
    if options.get("voice", "default") != "default":
        message = f"audio.voice is {options['voice']!r:.40}; this model has one voice, 'default'"
        raise RequestError(message, "audio.voice")
    sound = options.get("format", "wav")
    if sound not in SPOKEN:
        raise RequestError(f"audio.format is {sound!r:.40}; it is one of {', '.join(SPOKEN)}", "audio.format")
    if not served.speaks:
        raise RequestError('this model writes but cannot speak; ask for modalities ["text"]', "modalities")
    return str(sound)


def _max_response(body: Mapping[str, Any]) -> int | None:
    given = [name for name in ("max_completion_tokens", "max_tokens") if name in body]
    for name in given:
        value = body[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise RequestError(f"{name} is {value!r:.40}; it must be a whole number of at least 1", name)
    return body[given[0]] if given else None


def _turns(messages: Any, served: Served, said: Callable[[str], str | None]) -> tuple[UserTurn, ...]:
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages has to be a list with at least one message", "messages")
    turns: list[UserTurn] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise RequestError(f"{where} is {_kind(message)}; it must be an object", where)
        message = {name: value for name, value in message.items() if value is not None}
        role = message.get("role")
        keys = {"role", "content"} | ({"audio"} | REPLY_KEYS if role == "assistant" else set())
        if strange := [name for name in message if name not in keys and message[name] != []]:
            raise RequestError(f"{where}.{strange[0]:.60} is not supported here; leave it out", where)
        open_turn = bool(turns) and turns[-1].response is None
        if role in ("system", "developer"):
            _check_system(message, where, served)
        elif role == "user":
            if open_turn:
                raise RequestError(f"{where}: two user messages in a row; put them into one", where)
            turns.append(_user_turn(message.get("content"), f"{where}.content", served))
        elif role == "assistant":
            if not open_turn:
                raise RequestError(f"{where}: an assistant message answers a user message, which is missing", where)
            turns[-1] = turns[-1].answered(_answer(message, where, said))
        else:
            raise RequestError(f"{where}.role is {role!r:.40}; it is 'user', 'assistant' or 'system'", f"{where}.role")
    if not turns or turns[-1].response is not None:
        raise RequestError("the last message has to be the user's", "messages")
    return tuple(turns)


def _check_system(message: Mapping[str, Any], where: str, served: Served) -> None:
    if _words(message.get("content"), f"{where}.content") != served.system_text:
        raise RequestError(
            f"{where}: this model was trained with one system text and follows no other; leave the message out",
            f"{where}.content",
        )


def _answer(message: Mapping[str, Any], where: str, said: Callable[[str], str | None]) -> str:
    """What the assistant said, by its words or by the id of its sound."""
    if message.get("content"):
        return _words(
            message["content"], f"{where}.content", ours=True
        ).strip()  # as replies are given out in one piece
    audio = message.get("audio")
    identity = audio.get("id") if isinstance(audio, dict) else None
    if identity is None:
        if "content" in message:
            return ""
        raise RequestError(f"{where} has neither content nor audio.id", where)
    words = said(identity) if isinstance(identity, str) else None
    if words is None:
        sentence = f"{where}.audio.id: {identity!r:.60} is not known, or no longer; send the reply's words as content"
        raise RequestError(sentence, f"{where}.audio.id")
    return words


def _parts(content: Any, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Content as (where, part)."""
    if isinstance(content, str):
        return [(where, {"type": "text", "text": content})]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RequestError(f"{where} is {_kind(content)}; it must be a text or a list of parts", where)
    return [(f"{where}[{number}]", part) for number, part in enumerate(content)]


def _words(content: Any, where: str, *, ours: bool = False) -> str:
    """The text of content that has nothing else; `ours`: what the model said comes back as it was."""
    found = []
    for place, part in _parts(content, where):
        if part.get("type") != "text":
            raise RequestError(f"{place}.type is {part.get('type')!r:.40}; it must be 'text' here", place)
        found.append(_text(part, place, nul=ours))
    return "\n".join(found)


def _text(part: Mapping[str, Any], where: str, *, nul: bool = False) -> str:
    text: Any = part.get("text")
    try:
        check_text(text.replace("\0", " ") if nul and isinstance(text, str) else text, f"{where}.text")
        return str(text)
    except UserError as error:
        raise RequestError(str(error), f"{where}.text") from error


def _user_turn(content: Any, where: str, served: Served) -> UserTurn:
    texts, sounds = [], []
    for place, part in _parts(content, where):
        if part.get("type") == "text":
            texts.append(_text(part, place))
        elif part.get("type") == "input_audio":
            sounds.append(_heard(part.get("input_audio"), f"{place}.input_audio", served))
        else:
            message = f"{place}.type is {part.get('type')!r:.40}; it is 'text' or 'input_audio'"
            raise RequestError(message, f"{place}.type")
    text = "\n".join(texts)
    if len(sounds) > 1:
        raise RequestError(f"{where} has {len(sounds)} sounds; a turn has at most one", where)
    if not sounds and not text.strip():
        raise RequestError(f"{where} is empty; say something", where)
    return UserTurn(sounds[0] if sounds else None, text)


def _heard(sound: Any, where: str, served: Served) -> Any:
    """The waveform of an input_audio part."""
    if not isinstance(sound, dict) or not isinstance(sound.get("data"), str):
        raise RequestError(f'{where} has to be {{"data": base64, "format": "wav"}}', where)
    if sound.get("format") not in SOUNDS:
        message = f"{where}.format is {sound.get('format')!r:.40}; it is one of {', '.join(SOUNDS)}"
        raise RequestError(message, f"{where}.format")
    try:
        data = base64.b64decode(sound["data"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{where}.data is not base64 ({error})", f"{where}.data") from error
    with tempfile.NamedTemporaryFile(suffix=f".{sound['format']}") as file:
        file.write(data)
        file.flush()
        try:
            return load_audio(file.name, served.clip_seconds)
        except AudioError as error:
            raise RequestError(f"{where}.data: {error.message} [{error.code}]", f"{where}.data") from error
