"""A small Hugging Face hub on this machine: repositories of files, with faults on demand."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories by name; `asked` lists (method, path, range) of every request.

    `cut_after`: a download breaks off after so many bytes, once. `lies`: files whose content is
    not what their checksum says. `ranges`: whether parts can be asked for.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.licences: dict[str, str] = {}
        self.extra: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.cut_after: int | None = None
        self.lies: set[str] = set()
        self.ranges = True
        self.url = ""

    def downloads(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [path.rsplit("/", 1)[1] for method, path, _ in self.asked
                if method == "GET" and "/resolve/" in path]  # fmt: skip

    def describe(self, name: str) -> dict[str, Any]:
        """What the hub's API tells of a repository."""
        siblings = [_sibling(file, data) for file, data in self.repositories[name].items()]
        siblings += self.extra.get(name, [])
        card = {"license": self.licences[name]} if name in self.licences else None
        return {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [],
                "downloads": 0, "likes": 0, "siblings": siblings, "cardData": card}  # fmt: skip


def _sibling(file: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": "0" * 40}
    if file.endswith((".safetensors", ".gguf", ".bin")):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
    return entry


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests in the name of `hub`."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/models/"):
            name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            revision = path.partition("/revision/")[2]
            if name not in self.hub.repositories or revision not in ("", "main", "v1", COMMIT):
                kind = "RevisionNotFound" if name in self.hub.repositories else "RepoNotFound"
                self.reply(404, b"{}", {"X-Error-Code": kind}, True)
                return
            self.reply(200, json.dumps(self.hub.describe(name)).encode(), {}, True)
            return
        name, _, rest = path[1:].partition("/resolve/")
        file = rest.partition("/")[2]
        data = self.hub.repositories.get(name, {}).get(file)
        if data is None:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
            return
        etag = hashlib.sha256(data).hexdigest()
        if file in self.hub.lies:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_file(data, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, with_body)

    def send_file(self, data: bytes, headers: dict[str, str], with_body: bool) -> None:
        status, start = 200, 0
        asked = self.headers.get("Range")
        if asked and self.hub.ranges and with_body:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                self.reply(416, b"", {"Content-Range": f"bytes */{len(data)}"}, with_body)
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        headers["Accept-Ranges"] = "bytes"
        self.reply(status, data[start:], headers, with_body)

    def reply(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not with_body:
            return
        if self.hub.cut_after is not None and len(body) > self.hub.cut_after:
            body, self.hub.cut_after = body[: self.hub.cut_after], None
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Serve a `FakeHub` on a free port."""
    hub = FakeHub()
    bound = type("Bound", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), bound) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
