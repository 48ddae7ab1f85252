"""The queue before the model, and clients that go: with a model that is as slow as a test wants it."""

import asyncio
import contextlib
import json
import threading
import time

import pytest
from aiohttp import ClientSession, web
from helpers import tiny_run

from ieat_jax.inference.live import Event
from ieat_jax.inference.prompt import UserTurn
from ieat_jax.serving import app as app_module
from ieat_jax.serving.app import Endpoint, make_app
from ieat_jax.serving.request import Served

SERVED = Served("tiny", 1.0, "You are kind.", thinks=True, speaks=True, temperature=0.0, top_p=1.0)


class Model:
    """Says a word whenever the test lets it; `running` answers are not closed yet."""

    def __init__(self, reply):
        self.reply, self.go = reply, threading.Semaphore(0)
        self.begun, self.running, self.fails = [], 0, None

    def stream(self, generator, prompt, *, speech, max_response):
        self.begun.append(len(prompt.tokens))
        self.running += 1
        try:
            while self.go.acquire(timeout=200):
                if self.fails is not None:
                    raise self.fails
                yield Event("text", text="word ")
                if self.go.acquire(blocking=False):
                    yield Event("reply", reply=self.reply)
                    return
        finally:
            self.running -= 1


@pytest.fixture(scope="module")
def generator():
    return tiny_run.make_generator()


@pytest.fixture
def model(generator, monkeypatch):
    (reply,) = generator.reply([[UserTurn(text="Hm.")]], think=False)
    made = Model(reply)
    monkeypatch.setattr(app_module, "stream_prompt", made.stream)
    return made


@contextlib.asynccontextmanager
async def serving(generator, most_waiting=2):
    runner = web.AppRunner(
        make_app(Endpoint(generator, SERVED, most_waiting=most_waiting, max_prompt=500)),
        handler_cancellation=True,
        shutdown_timeout=50,
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        try:
            yield client, runner
        finally:
            await runner.cleanup()


def ask(client, text="Hm.", **options):
    body = {"messages": [{"role": "user", "content": text}], **options}
    return client.post("/v1/chat/completions", json=body)


async def until(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        await asyncio.sleep(0.01)


async def open_requests(client):
    return (await (await client.get("/health")).json())["open"]


async def status_and_sentence(request):
    async with request as answer:
        body = await answer.json()
        return answer.status, body.get("error", {}).get("message")


def test_a_client_that_hangs_up_frees_the_model(generator, model):
    async def go():
        async with serving(generator) as (client, _):
            for options in ({"stream": True}, {}):
                gone = asyncio.create_task(ask(client, **options).__aenter__())
                await until(lambda: model.running == 1)
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone
                await client.get("/health")
                while await open_requests(client):
                    await asyncio.sleep(0.01)
                model.go.release()
                await until(lambda: model.running == 0)
            model.go.release(2)
            assert await status_and_sentence(ask(client)) == (200, None)

    asyncio.run(go())


def test_one_that_hangs_up_while_waiting_never_reaches_the_model(generator, model):
    async def go():
        async with serving(generator) as (client, _):
            first = asyncio.create_task(status_and_sentence(ask(client, "a")))
            await until(lambda: model.running == 1)
            second = asyncio.create_task(ask(client, "b " * 20).__aenter__())
            third = asyncio.create_task(status_and_sentence(ask(client, "c " * 40)))
            while await open_requests(client) < 3:
                await asyncio.sleep(0.01)
            second.cancel()
            while await open_requests(client) > 2:
                await asyncio.sleep(0.01)
            model.go.release(2)
            assert await first == (200, None)
            await until(lambda: model.running == 1)
            model.go.release(2)
            assert await third == (200, None)
        assert len(model.begun) == 2
        assert model.begun[1] > model.begun[0] + 30

    asyncio.run(go())


def test_more_than_the_queue_holds_are_asked_to_come_again(generator, model):
    async def go():
        async with serving(generator, most_waiting=1) as (client, _):
            waiting = [asyncio.create_task(status_and_sentence(ask(client))) for _ in range(2)]
            while await open_requests(client) < 2:
                await asyncio.sleep(0.01)
            status, sentence = await status_and_sentence(ask(client, stream=True))
            assert (status, sentence) == (503, "1 requests wait already; ask again later")
            model.go.release(2)
            await until(lambda: len(model.begun) == 2)
            model.go.release(2)
            assert await asyncio.gather(*waiting) == [(200, None)] * 2

    asyncio.run(go())


def test_a_bug_is_no_traceback_for_the_client_and_the_next_is_answered(generator, model, capfd):
    async def go():
        async with serving(generator) as (client, _):
            model.fails = ZeroDivisionError("secret")
            model.go.release(1)
            status, sentence = await status_and_sentence(ask(client))
            assert status == 500
            assert "secret" not in sentence
            model.go.release(1)
            assert (await status_and_sentence(ask(client, stream=True)))[0] == 500
            model.fails = None
            model.go.release(2)
            assert await status_and_sentence(ask(client)) == (200, None)

    asyncio.run(go())
    assert "ZeroDivisionError: secret" in capfd.readouterr().err


def test_a_stream_that_fails_midway_says_so(generator, model):
    async def go():
        model.go.release(1)
        async with serving(generator) as (client, _), ask(client, stream=True) as answer:
            assert b"assistant" in await answer.content.readuntil(b"\n\n")
            assert b"word " in await answer.content.readuntil(b"\n\n")
            model.fails = RuntimeError("x")
            model.go.release(1)
            last = json.loads((await answer.content.read()).decode().removeprefix("data: "))
            assert last["error"]["type"] == "server_error"

    asyncio.run(go())


def test_a_server_that_ends_tells_those_who_wait(generator, model):
    async def go():
        async with serving(generator) as (client, runner):
            waiting = [asyncio.create_task(status_and_sentence(ask(client))) for _ in range(2)]
            while await open_requests(client) < 2:
                await asyncio.sleep(0.01)
            ending = asyncio.create_task(runner.cleanup())
            await asyncio.sleep(0.05)
            model.go.release(1)
            assert await asyncio.gather(*waiting) == [(503, "the server is about to end; ask again later")] * 2
            await asyncio.wait_for(ending, 100)
        assert model.running == 0

    asyncio.run(go())
