"""The web server: OpenAI's endpoint before one model, health, and the page.

aiohttp is an extra, so that it is imported where it is needed.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from ieat_jax.errors import UserError
from ieat_jax.inference.generator import Generator
from ieat_jax.inference.live import Event, stream_prompt
from ieat_jax.inference.prompt import HostPrompt
from ieat_jax.pages.frame import STYLE
from ieat_jax.serving.answer import Answer, Said
from ieat_jax.serving.request import Asked, RequestError, Served, parse_body, parse_request
from ieat_jax.serving.worker import BusyError, Worker

MAX_BODY = 32 << 20  # bytes: half an hour of a conversation's clips at 16 kHz, as FLAC
BODY_SECONDS = 60.0  # that a client may take to send it
PAGE = Path(__file__).with_name("talk.html")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; worker-src blob:"
POLICY += "; connect-src 'self'; media-src blob: data:; img-src data:; base-uri 'none'; frame-ancestors 'none'"


class Endpoint:
    """What the routes answer, with one model."""

    def __init__(self, generator: Generator, served: Served, *, most_waiting: int, max_prompt: int):
        self.generator, self.served, self.max_prompt = generator, served, max_prompt
        self.worker, self.said = Worker(most_waiting), Said()
        self.page = _fill_page(served)

    async def talk(self, _: Any) -> Any:
        """The page."""
        from aiohttp import web

        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
        return web.Response(text=self.page, content_type="text/html", headers=headers)

    async def health(self, _: Any) -> Any:
        """That it is alive, and how many requests are open."""
        from aiohttp import web

        return web.json_response({"status": "ok", "model": self.served.model, "open": self.worker.open})

    async def models(self, request: Any) -> Any:
        """The one model, in a list or by its name.

        Raises:
            RequestError: there is no model of that name.
        """
        from aiohttp import web

        model = {"id": self.served.model, "object": "model", "created": 0, "owned_by": "ieat_jax"}
        name = request.match_info.get("name")
        if name is None:
            return web.json_response({"object": "list", "data": [model]})
        if name != self.served.model:
            raise RequestError(f"there is no model {name!r:.60} here", "model", status=404, code="model_not_found")
        return web.json_response(model)

    async def complete(self, request: Any) -> Any:
        """A chat completion, in one piece or as it comes.

        Raises:
            UserError: what was asked cannot be answered.
            BusyError: too many wait.
        """
        from aiohttp import web

        if request.content_type != "application/json":  # which no form of another site's page can send
            message = f"the content type is {request.content_type!r:.60}; send application/json"
            raise RequestError(message, status=415)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except TimeoutError as error:
            raise RequestError("the body did not come within a minute", status=408) from error
        asked, prompt = await asyncio.to_thread(self._read, body)
        rate = self.generator.sample_rate if asked.sound else None
        answer = Answer(asked, self.served.model, len(prompt.tokens), rate, self.said)
        async with contextlib.aclosing(self._events(asked, prompt)) as events:
            if asked.stream:
                return await _send_stream(request, answer, events)
            async for event in events:
                if event.reply is not None:
                    return web.json_response(answer.completion(event.reply))
        raise AssertionError("a reply is the last event")

    def _read(self, body: bytes) -> tuple[Asked, HostPrompt]:
        asked = parse_request(parse_body(body), self.served, self.said.find)
        prompt = self.generator.prompts.build(asked.turns, think=asked.think, speech=asked.sound is not None)
        if len(prompt.tokens) > self.max_prompt:
            message = f"the conversation takes {len(prompt.tokens)} tokens; this server reads {self.max_prompt}"
            raise RequestError(message, "messages", code="context_length_exceeded")
        return asked, prompt

    async def _events(self, asked: Asked, prompt: HostPrompt) -> AsyncGenerator[Event, None]:
        """What the model does; closing this frees it."""
        loop, told = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def begin() -> Iterator[Event]:
            speech = asked.sound is not None
            return stream_prompt(self.generator, prompt, speech=speech, max_response=asked.max_response)

        def tell(item: Any) -> None:
            loop.call_soon_threadsafe(told.put_nowait, item)

        job = self.worker.submit(begin, tell)
        try:
            while True:
                item = await told.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.kind == "reply":
                    return
        finally:
            job.cancel()


async def _send_stream(request: Any, answer: Answer, events: AsyncIterator[Event]) -> Any:
    """Server-sent events. What fails before the first is an ordinary error, later an event that says so."""
    from aiohttp import web

    response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"

    async def send(value: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    try:
        async for event in events:
            if not response.prepared:
                await response.prepare(request)
                await send(answer.begin())
            for chunk in answer.finish(event.reply) if event.reply is not None else [answer.chunk(event)]:
                await send(chunk)
        await response.write(b"data: [DONE]\n\n")
    except ConnectionError:  # the client is gone
        pass
    except Exception as error:
        if not response.prepared:
            raise
        await send(_error(error)[1])
    return response


def _error(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP's status and OpenAI's body of an error."""
    param, code, kind = None, None, "invalid_request_error"
    if isinstance(error, BusyError):
        status, kind, message = 503, "server_error", str(error)
    elif isinstance(error, RequestError):
        status, param, code, message = error.status, error.param, error.code, str(error)
    elif isinstance(error, UserError):
        status, message = 400, str(error)
    else:
        status, kind, message = 500, "server_error", "the server failed at this request; its log says how"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def make_app(endpoint: Endpoint) -> Any:
    """The aiohttp application of an endpoint."""
    from aiohttp import web

    @web.middleware
    async def tell(request: Any, handler: Any) -> Any:
        """Errors are JSON with a sentence."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            sentences = {
                404: f"there is nothing at {request.path:.100}; the endpoint is /v1/chat/completions",
                405: f"{request.method} is not answered at {request.path:.100}",
                413: f"the body is larger than {MAX_BODY >> 20} MiB; send shorter clips, or fewer",
            }
            sentence = sentences.get(error.status, error.reason)
            return web.json_response(_error(RequestError(sentence))[1], status=error.status)
        except Exception as error:
            status, body = _error(error)
            if status == 500:
                print(f"{request.method} {request.path}: {error!r}", file=sys.stderr, flush=True)
            return web.json_response(body, status=status, headers={"Retry-After": "5"} if status == 503 else {})

    async def start(_: Any) -> None:
        endpoint.worker.start()

    async def stop(_: Any) -> None:
        await asyncio.to_thread(endpoint.worker.stop)

    app = web.Application(middlewares=[tell], client_max_size=MAX_BODY)
    app.add_routes(
        [
            web.get("/", endpoint.talk),
            web.get("/health", endpoint.health),
            web.get("/v1/models", endpoint.models),
            web.get("/v1/models/{name}", endpoint.models),
            web.post("/v1/chat/completions", endpoint.complete),
        ]
    )
    app.on_startup.append(start)
    app.on_shutdown.append(stop)
    return app


def _fill_page(served: Served) -> str:
    facts = {
        "model": served.model,
        "seconds": served.clip_seconds,
        "thinks": served.thinks,
        "speaks": served.speaks,
    }
    safe = json.dumps(facts).replace("<", "\\u003c")
    return PAGE.read_text(encoding="utf-8").replace("/*STYLE*/", STYLE).replace("/*FACTS*/", safe)
