"""A tiny model with a vocabulary of bytes, and a server of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import torch
import uvicorn

from langwright.generate import Engine, EngineConfig, LanguageModel
from langwright.model import ModelConfig, build_model
from langwright.serve import ServeConfig, create_app
from langwright.tokenizer import CHAT_SPECIALS, PATTERNS, BytePairTokenizer, Specials

SPECIALS = ("<|endoftext|>", *CHAT_SPECIALS)


def tokenizer(*more: str) -> BytePairTokenizer:
    """All bytes, and the marks of a chat."""
    names = dict.fromkeys((*SPECIALS, *more))
    specials = Specials(
        {name: 256 + index for index, name in enumerate(names)}, eos="<|endoftext|>"
    )
    return BytePairTokenizer({bytes([one]): one for one in range(256)}, PATTERNS["gpt2"], specials)


def language_model(context: int = 1024, *more: str) -> LanguageModel:
    """Random weights, far from uniform."""
    words = tokenizer(*more)
    config = ModelConfig.parse(
        {
            "vocab_size": words.vocab_size,
            "context_length": context,
            "width": 32,
            "layers": 2,
            "heads": 4,
            "kv_heads": 2,
        }
    )
    model = build_model(config, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return LanguageModel(model, words)


def engine(context: int = 1024, **settings: Any) -> Engine:
    """A small engine."""
    return Engine(language_model(context), EngineConfig(**{"max_running": 8, **settings}))


@contextmanager
def listening(one: Engine, config: ServeConfig) -> Iterator[str]:
    """A server on a free port, in a thread; its address."""
    app = create_app(one, config)
    process = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="on")
    )
    thread = threading.Thread(target=process.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not process.started and time.monotonic() < until:
        time.sleep(0.01)
    port = process.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


LONG = {"max_tokens": 500, "ignore_eos": True}


def ask(url: str, **fields: Any) -> httpx.Response:
    body = {"prompt": "x", "max_tokens": 5, **fields}
    return httpx.post(url + "/v1/completions", json=body, timeout=30)


def events(url: str, **fields: Any) -> Iterator[Any]:
    """The chunks of a stream; [DONE] as a string."""
    body = {"prompt": "x", "stream": True, **fields}
    with httpx.stream("POST", url + "/v1/completions", json=body, timeout=30) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


def slow_down(one: Engine, seconds: float = 0.02) -> None:
    """Every step takes so much longer."""
    step = one.step

    def slow() -> Any:
        time.sleep(seconds)
        return step()

    one.step = slow  # type: ignore[method-assign]
