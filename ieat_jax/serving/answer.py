"""Replies in OpenAI's words: a chat completion in one piece, or its chunks as they come."""

import base64
import io
import struct
import threading
import time
import uuid
from collections import OrderedDict
from typing import Any

import numpy as np
import soundfile
import soxr

from ieat_jax.data.injection import parse_thinking
from ieat_jax.inference.generator import Reply
from ieat_jax.inference.live import Event
from ieat_jax.serving.request import Asked
from ieat_jax.serving.sinks import pcm16

PCM_RATE = 24_000  # of OpenAI's pcm16
REMEMBERED, KEPT_SECONDS = 1000, 3600  # spoken replies that a later request may name by their id


class Said:
    """The words of the newest spoken replies, by id."""

    def __init__(self) -> None:
        self._words: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, identity: str, words: str) -> int:
        """Remember a reply; until when, in seconds since 1970."""
        until = int(time.time()) + KEPT_SECONDS
        with self._lock:
            self._words[identity] = until, words
            while len(self._words) > REMEMBERED:
                self._words.popitem(last=False)
        return until

    def find(self, identity: str) -> str | None:
        """The words, if they are still known."""
        with self._lock:
            until, words = self._words.get(identity, (0, ""))
        return words if until > time.time() else None


class Sound:
    """Sound as bytes, piece by piece: all pieces joined are one WAV, or OpenAI's pcm16 (24 kHz, no header)."""

    def __init__(self, kind: str, rate: int):
        self.kind, self.begun = kind, False
        self.rate = rate if kind == "wav" else PCM_RATE
        self._resample = soxr.ResampleStream(rate, PCM_RATE, 1, dtype="float32") if self.rate != rate else None

    def piece(self, waveform: np.ndarray, *, last: bool = False) -> bytes:
        """The next bytes. The head of a WAV that streams says that its length is not known."""
        head = b"" if self.begun or self.kind != "wav" else _stream_head(self.rate)
        self.begun = True
        if self._resample is not None:
            waveform = self._resample.resample_chunk(np.ascontiguousarray(waveform, np.float32), last=last)
        return head + pcm16(waveform)

    def whole(self, waveform: np.ndarray) -> bytes:
        """All of a sound that is known."""
        if self.kind != "wav":
            return self.piece(waveform, last=True)
        file = io.BytesIO()
        soundfile.write(file, np.clip(waveform, -1.0, 1.0), self.rate, format="WAV", subtype="PCM_16")
        return file.getvalue()


def _stream_head(rate: int) -> bytes:
    unknown = 0xFFFFFFFF
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return b"RIFF" + struct.pack("<I", unknown) + b"WAVE" + form + b"data" + struct.pack("<I", unknown)


class Answer:
    """One answer to one request, as it is told to the client."""

    def __init__(self, asked: Asked, model: str, prompt_tokens: int, rate: int | None, said: Said):
        """`rate`: of the model's sound, None where it does not speak."""
        self.asked, self.model, self.prompt_tokens, self.said = asked, model, prompt_tokens, said
        self.id, self.audio_id = f"chatcmpl-{uuid.uuid4().hex}", f"audio_{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.sound = Sound(asked.sound, rate) if asked.sound and rate else None

    def completion(self, reply: Reply) -> dict[str, Any]:
        """The whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if self.asked.think:
            message["reasoning_content"] = reply.think_text
        if self.sound is not None and reply.waveform is not None:
            message["audio"] = {
                "id": self.audio_id,
                "data": base64.b64encode(self.sound.whole(reply.waveform)).decode(),
                "expires_at": self.said.add(self.audio_id, reply.text),
                "transcript": reply.text,
            }
        choice = {"index": 0, "message": message, "logprobs": None, **self._end(reply)}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(reply)}

    def begin(self) -> dict[str, Any]:
        """The first chunk of a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, event: Event) -> dict[str, Any]:
        """The chunk of new thinking, text or sound."""
        if event.kind == "think":
            return self._chunk({"reasoning_content": event.text})
        if event.kind == "text":
            spoken = {} if self.sound is None else {"audio": {"id": self.audio_id, "transcript": event.text}}
            return self._chunk({"content": event.text, **spoken})
        assert self.sound is not None
        assert event.waveform is not None
        data = base64.b64encode(self.sound.piece(event.waveform)).decode()
        return self._chunk({"audio": {"id": self.audio_id, "data": data}})

    def finish(self, reply: Reply) -> list[dict[str, Any]]:
        """The last chunks."""
        chunks = []
        if self.sound is not None:
            rest = self.sound.piece(np.zeros(0, np.float32), last=True)
            audio = {"id": self.audio_id, "expires_at": self.said.add(self.audio_id, reply.text)}
            chunks.append(self._chunk({"audio": audio | ({"data": base64.b64encode(rest).decode()} if rest else {})}))
        chunks.append(self._chunk({}, **self._end(reply)))
        if self.asked.usage:
            chunks.append({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(reply)})
        return chunks

    def _chunk(self, delta: dict[str, Any], **end: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **end}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _end(self, reply: Reply) -> dict[str, Any]:
        """How it ended; under a name of ours the emotion that the thinking names, and what was cut at its limit."""
        whole = {"thinking": reply.think_closed or not self.asked.think, "text": reply.response_ended}
        if self.sound is not None:
            whole["sound"] = reply.speech_ended
        emotion = parse_thinking(reply.think_text)["emotion"]
        ours = {"emotion": emotion, "cut": [name for name, ended in whole.items() if not ended]}
        return {"finish_reason": "stop" if reply.response_ended else "length", "ieat": ours}

    def _usage(self, reply: Reply) -> dict[str, Any]:
        made = len(reply.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }
