"""`python -m ieat_jax.serve` as a process of its own, and requests to it."""

import base64
import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
from urllib.parse import urlsplit

LIMITS = ["--max-think", "7", "--max-response", "6", "--max-speech-seconds", "0.64"]


class Server:
    """A running server: its address, its process, what it printed before it answered."""

    def __init__(self, process):
        self.process = process
        self.said = process.stdout.readline()
        self.address = re.search(r"http://[\d.]+:\d+", self.said)[0] if self.said else process.stderr.read()

    def send(self, method, path, body=None, content_type="application/json"):
        """(status, bytes)."""
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=300)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": content_type} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def ask(self, messages, **options):
        """(status, JSON) of a chat completion; `messages` may be a body of bytes."""
        body = messages if isinstance(messages, bytes) else json.dumps({"messages": messages, **options}).encode()
        status, said = self.send("POST", "/v1/chat/completions", body)
        return status, json.loads(said)

    def stream(self, messages, **options):
        """The JSON of every chunk."""
        body = json.dumps({"messages": messages, "stream": True, **options}).encode()
        status, said = self.send("POST", "/v1/chat/completions", body)
        assert status == 200, said
        *events, done, rest = said.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def stop(self):
        """SIGTERM; (exit code, what stderr holds)."""
        self.process.send_signal(signal.SIGTERM)
        _, told = self.process.communicate(timeout=300)
        return self.process.returncode, told


@contextlib.contextmanager
def serve(run, *options):
    """Serve a run at a free port."""
    command = [sys.executable, "-m", "ieat_jax.serve", "--checkpoint", str(run), "--port", "0", *LIMITS, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Server(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def user(text="", sound=None, kind="wav"):
    """A user's message of words, or of the bytes of a sound file and words."""
    if sound is None:
        return {"role": "user", "content": text}
    heard = {"data": base64.b64encode(sound).decode(), "format": kind}
    words = [{"type": "text", "text": text}] if text else []
    return {"role": "user", "content": [*words, {"type": "input_audio", "input_audio": heard}]}
