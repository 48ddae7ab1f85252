"""The page, in a real browser whose microphone is a sound file."""

import asyncio
import base64
import io

import numpy as np
import pytest
import soundfile
from helpers import tiny_run
from helpers.browser import CHROMIUM, open_tab
from helpers.served import serve

import ieat_jax
from ieat_jax.audio.files import write_wav

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
WATCH = """window.seen = []; new MutationObserver(() =>
    window.seen.push(document.querySelector(".thought")?.textContent ?? "")
).observe(document.getElementById("log"), {subtree: true, childList: true, characterData: true})"""
SAD = "The user feels sad. <b>I lost my keys.</b>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_wav(folder / "voice.wav", tiny_run.voice(0, 3.0))
    return tiny_run.save_run(folder / "run")


@pytest.fixture(scope="module")
def server(run):
    with serve(run) as running:
        yield running
        assert running.stop() == (0, "")


@pytest.fixture
def visit(run, server, tmp_path):
    def go(steps):
        async def visiting():
            async with open_tab(f"{server.address}/", run.parent / "voice.wav", tmp_path / "profile") as tab:
                await steps(tab)
                assert tab.wrong == []
                assert all(url.startswith((server.address, "blob:", "data:", "about:")) for url in tab.asked)

        asyncio.run(visiting())

    return go


def press(name):
    return f"document.getElementById('{name}').click()"


async def write(tab, text):
    await tab.run(f"document.getElementById('words').value = {text!r}, document.getElementById('form').requestSubmit()")


async def answered(tab, messages):
    await tab.until(f"answering === null && messages.length === {messages}")


def test_a_conversation_by_voice_and_in_writing(run, visit):
    async def steps(tab):
        await tab.run(WATCH)
        await tab.run(press("mic"))
        await tab.until("recording !== null")
        assert await tab.run("document.getElementById('mic').textContent") == "Done"
        await answered(tab, 2)  # a second is all that it hears: it ends by itself
        await write(tab, SAD)
        await answered(tab, 4)
        sent = await tab.run("messages")
        waveform, rate = soundfile.read(
            io.BytesIO(base64.b64decode(sent[0]["content"][0]["input_audio"]["data"])), dtype="float32"
        )
        assert (rate, waveform.ndim) == (16000, 1)
        assert 0.9 < len(waveform) / rate <= 1
        assert abs(np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform) - 150) < 5  # the voice's tone
        model = ieat_jax.load(run, limits=tiny_run.LIMITS)
        first = model.reply(waveform)
        second = model.reply(text=SAD, history=first.history)
        # What JavaScript and Python take for blank at the end differs.
        assert [each["content"].strip() for each in sent[1:]] == [first.text, SAD, second.text]
        thoughts = await tab.run("[...document.querySelectorAll('.thought')].map((each) => each.textContent)")
        assert [each.strip() for each in thoughts] == [first.thinking, second.thinking]
        assert len({text for text in await tab.run("window.seen") if text}) > 2  # thinking was shown as it came
        lengths = "[...document.querySelectorAll('.reply audio')].map((each) => each.duration)"
        await tab.until(f"{lengths}.every((seconds) => seconds > 0)")
        said = [len(reply.sound) / 16000 for reply in (first, second)]
        assert await tab.run(lengths) == pytest.approx(said, abs=1e-3)
        assert await tab.run("player.state") == "running"
        for width in (390, 1280):
            for dark in (False, True):
                assert (await tab.look(width, dark=dark)).startswith(b"\x89PNG")
                sizes = "[document.documentElement, document.getElementById('main')].map((e) => e.scrollWidth)"
                assert max(await tab.run(sizes)) <= width
                paper = await tab.run("getComputedStyle(document.body).backgroundColor")
                assert paper == ("rgb(21, 23, 28)" if dark else "rgb(251, 250, 248)")
        await tab.run(press("fresh"))
        assert await tab.run("messages.length + document.getElementById('log').children.length") == 0

    visit(steps)


def test_mistakes_are_told_and_the_page_goes_on(visit):
    async def steps(tab):
        await tab.run(press("mic"))
        await tab.until("recording !== null")
        await tab.run(press("stop"))  # discarded
        await tab.until("recording === null")
        assert await tab.run("document.getElementById('log').children.length") == 0
        choose = ("(async () => {{ const made = new DataTransfer(); made.items.add(new File([{}], 'a.wav'));"
                  "const input = document.getElementById('file'); input.files = made.files; await input.onchange();"
                  "return document.getElementById('state').textContent; }})()")  # fmt: skip
        assert "cannot read it" in await tab.run(choose.format("'no sound'"))
        long = "wav(new Int16Array(20000).fill(1), RATE)"
        assert "at most 1 s of a clip" in await tab.run(choose.format(long))
        await tab.run("facts.model = 'another'")
        await write(tab, "Hm.")
        await tab.until("answering === null && document.querySelector('.failed') !== null")
        told = await tab.run("document.querySelector('.failed').textContent")
        assert told == "there is no model 'another' here; there is 'run'. This turn is forgotten."
        assert await tab.run("messages.length") == 0
        await tab.run("facts.model = 'run'")
        await write(tab, "Hm.")
        await answered(tab, 2)
        tab.wrong = [each for each in tab.wrong if "404" not in str(each)]  # the browser's own note of it

    visit(steps)
