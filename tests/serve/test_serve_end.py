"""How a server begins and ends: signals, answers that are waited for, connections, mistakes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serve_small import LONG, ask, engine, events, language_model, listening, slow_down, until

from langwright.base import UserError
from langwright.generate import Engine
from langwright.serve import ServeConfig, run
from langwright.serve.process import Serving


@contextmanager
def serving(one: Engine, config: ServeConfig) -> Iterator[tuple[Serving, str]]:
    """A server as `run` has it, in a thread; it must be ended inside."""
    place: list[str] = []
    life = Serving(one, config)
    thread = threading.Thread(target=life.run, args=(place.append,), daemon=True)
    thread.start()
    until(lambda: bool(place))
    yield life, place[0]
    thread.join(10)
    assert not thread.is_alive()


def test_the_end_waits_for_answers() -> None:
    one = engine()
    slow_down(one)
    with serving(one, ServeConfig(port=0, drain_seconds=20)) as (life, url):
        chunks = events(url, max_tokens=60, ignore_eos=True)
        next(chunks)
        life.end()
        refused = []
        with pytest.raises(httpx.TransportError):  # nobody listens any more
            for _ in range(100):
                refused.append(ask(url, max_tokens=1).status_code)
                time.sleep(0.01)
        assert len(refused) < 50
        rest = list(chunks)
        assert rest[-1] == "[DONE]" and len(rest) > 40
        assert rest[-2]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("again", [False, True])
def test_the_end_cuts_what_takes_too_long(again: bool) -> None:
    one = engine()
    slow_down(one)
    with serving(one, ServeConfig(port=0, drain_seconds=30 if again else 0.3)) as (life, url):
        chunks = events(url, **LONG)
        next(chunks)
        life.end()
        if again:
            life.end()
        rest = list(chunks)
        assert rest[-1] == "[DONE]" and len(rest) < 100
        assert rest[-2]["choices"][0]["finish_reason"] == "length"


def test_connections_that_bring_nothing_are_closed() -> None:
    config = ServeConfig(port=0, body_seconds=0.2, drain_seconds=0)
    with serving(engine(), config) as (life, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as line:
            line.sendall(b"GET /health HTTP/1.1\r\nHost: local")
            assert line.recv(100) == b""  # closed, not timed out
        with httpx.Client() as client:  # one that works is kept
            first = client.get(url + "/health").extensions["network_stream"]
            time.sleep(0.7)
            again = client.get(url + "/health").extensions["network_stream"]
            assert again is first
        with socket.create_connection((host, int(port)), timeout=5) as line:
            line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            found = b""
            while not found.endswith(b"}"):
                found += line.recv(1000)
            line.sendall(b"GET /hea")  # and no more
            assert line.recv(1000) == b""
        life.end()


SERVE = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from serve_small import engine
from langwright.serve import ServeConfig, run
run(engine(), ServeConfig(port=0), ready=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


def test_sigterm_ends_with_code_0() -> None:
    here = Path(__file__).resolve().parent
    code = SERVE.format(tests=str(here), root=str(here.parents[1]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            chunks = events(url, **LONG)
            next(chunks)
            process.send_signal(signal.SIGTERM)
            assert list(chunks)[-1] == "[DONE]"
            assert process.wait(20) == 0
            assert process.stdout.read() == "ended\n"
        finally:
            process.kill()


def test_what_cannot_be_served_is_told() -> None:
    with listening(engine(), ServeConfig()) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(UserError, match="cannot listen"):
            run(engine(), ServeConfig(port=port))
    lm = language_model()
    lm.tokenizer = None
    with pytest.raises(UserError, match="no tokenizer"):
        run(Engine(lm), ServeConfig(port=0))
