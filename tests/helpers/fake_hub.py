"""A Hugging Face hub on loopback: the paths that `huggingface_hub` asks for, over folders of the test."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_this_test"


class Hub:
    """What is served, and what was asked: `requests` are (method, path) in the order of their arrival."""

    def __init__(self, repositories, private):
        self.repositories, self.private, self.requests, self.address = repositories, private, [], ""

    def fetched(self):
        """Names of the files whose content was sent."""
        return {path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/resolve/" in path}


@contextlib.contextmanager
def fake_hub(repositories, private=()):
    """Serve {ORG/NAME: folder}, each with the branch main at COMMIT; those of `private` to who has TOKEN."""
    hub = Hub({name: Path(folder) for name, folder in repositories.items()}, private)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            parts = path.strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            name = "/".join(parts[2:4] if api else parts[:2])
            rest = parts[4:] if api else parts[2:]
            folder = hub.repositories.get(name)
            known = name not in hub.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if folder is None or not known:
                return self.answer(401, {"X-Error-Code": "RepoNotFound"})
            if rest[1:2] not in ([], ["main"], [COMMIT]):
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            if api and rest[0] == "revision":
                return self.answer(200, {}, {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]})
            if api and rest[0] == "tree":
                assert parse_qs(urlsplit(self.path).query)["recursive"][0].lower() == "true"
                return self.answer(200, {}, [entry(folder / file, file) for file in files])
            file = folder / "/".join(rest[2:])
            if rest[0] != "resolve" or not file.is_file():
                return self.answer(404, {"X-Error-Code": "EntryNotFound"})
            content = file.read_bytes()
            etag = entry(file, "")["oid"]
            return self.answer(200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, content)

        do_HEAD = do_GET

        def answer(self, status, headers, content=b""):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
            for key, value in {"Content-Length": str(len(data)), "Content-Type": kind, **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield hub
        finally:
            server.shutdown()


def entry(file, name):
    content = file.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "oid": oid, "size": len(content), "path": name}
