"""A server that speaks OpenAI's protocol of chat completions and answers by a function of the test."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Served:
    """What was asked: `requests` are (headers, body) in the order of their arrival."""

    def __init__(self, answer):
        self.answer, self.requests, self.address = answer, [], ""
        self._lock = threading.Lock()

    def next(self, headers, body):
        with self._lock:
            self.requests.append((headers, body))
            return len(self.requests)

    @property
    def bodies(self):
        return [body for _, body in self.requests]


@contextlib.contextmanager
def endpoint(answer):
    """Serve `answer(body, number)`: a text, (HTTP status, headers, bytes), or None to hang up without a word."""
    served = Served(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = served.next({"path": self.path, **self.headers}, body)
            said = served.answer(body, number)
            if said is None:
                self.close_connection = True
                return
            status, headers, data = said if isinstance(said, tuple) else (200, {}, completion(said))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield served
        finally:
            server.shutdown()


def completion(text, finish_reason="stop", usage=(10, 5)):
    """The bytes of a chat completion."""
    value = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}]}
    if usage is not None:
        value["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return json.dumps(value).encode()
