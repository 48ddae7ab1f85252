"""A headless Chromium, driven over its DevTools protocol; its microphone is a sound file."""

import asyncio
import base64
import contextlib
import re
import shutil
import subprocess
import time

from aiohttp import ClientSession

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--remote-debugging-port=0",
         "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # fmt: skip


class Tab:
    """A tab. `wrong` is what its console complains of, `asked` the addresses that it asked for."""

    def __init__(self, socket):
        self.socket, self.number, self.wrong, self.asked = socket, 0, [], []

    async def call(self, method, **parameters):
        """The result of a command."""
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while True:
            told = await self.socket.receive_json(timeout=300)
            if told.get("id") == self.number:
                assert "error" not in told, told
                return told["result"]
            if told["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.wrong.append(told["params"])
            elif told["method"] == "Network.requestWillBeSent":
                self.asked.append(told["params"]["request"]["url"])

    async def run(self, script):
        """The value of a script, as if a person had pressed a button."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        found = await self.call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script, seconds=300):
        """Wait until a script says true."""
        end = time.monotonic() + seconds
        while not await self.run(script):
            assert time.monotonic() < end, f"never: {script}"
            await asyncio.sleep(0.05)

    async def look(self, width, *, dark=False):
        """The page at a width, as a PNG."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


@contextlib.asynccontextmanager
async def open_tab(address, microphone, profile):
    """Open a page in a browser of its own, whose files lie in the folder `profile`."""
    flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen([CHROMIUM, *flags], stderr=subprocess.PIPE, text=True)
    try:
        found = (re.search(r"DevTools listening on ws://([\d.:]+)/", line) for line in process.stderr)
        place = next(filter(None, found))[1]
        async with ClientSession() as session:
            async with session.put(f"http://{place}/json/new?about:blank") as answer:
                socket = (await answer.json())["webSocketDebuggerUrl"]
            async with session.ws_connect(socket, max_msg_size=0) as connection:
                tab = Tab(connection)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await tab.call(f"{domain}.enable")
                await tab.call("Page.navigate", url=address)
                await tab.until("document.readyState === 'complete' && location.href !== 'about:blank'")
                yield tab
    finally:
        process.kill()
        process.communicate()
