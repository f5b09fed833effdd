"""Soak: mixed requests at four times the server's capacity, with clients that leave at random.

    python benchmarks/soak.py [--requests 10000] [--seed 0]

A server of a tiny random model in a process of its own; capacity is what it writes at a time and
what may wait. As many clients as four times that ask at once, each after the other: chats and
completions, whole and streamed, several answers, echo with log-probabilities, constrained JSON,
embeddings, tokens, mistakes, endless answers that are cut off. One in five leaves early.

Required: every request has an answer (or its client left); no 5xx; 429 only with Retry-After;
streams come in order and end as they should; greedy texts are those of an idle server; nothing is
held at the end; the process's memory is flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from common import finish

RUNNING, WAITING = 8, 8
LEAVE = 0.2
WORDS = ("alpha", "beta", "gamma", "delta")
Ask = tuple[str, str, dict[str, Any]]  # kind, path, body


@dataclass
class Tally:
    """What came of the requests."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    left: int = 0
    wrong: list[str] = field(default_factory=list)  # the first few things that must not be
    done: int = 0

    def fault(self, what: str) -> None:
        """Note something that must not be."""
        if len(self.wrong) < 20:
            self.wrong.append(what)


def greedy(word: str) -> dict[str, Any]:
    """A request whose answer is known."""
    return {"prompt": word, "max_tokens": 24, "temperature": 0, "ignore_eos": True}


def draw(dice: random.Random) -> Ask:
    """A request of any kind."""
    word = dice.choice(WORDS)
    text = " ".join(dice.choices(WORDS, k=dice.choice((1, 5, 40))))
    talk = {"messages": [{"role": "user", "content": text}], "max_tokens": dice.randint(1, 40)}
    writing, chat = "/v1/completions", "/v1/chat/completions"
    return dice.choice(
        [
            ("greedy", writing, greedy(word)),
            ("greedy stream", writing, {**greedy(word), "stream": True}),
            ("chat", chat, {**talk, "n": dice.randint(1, 3), "logprobs": True}),
            ("chat stream", chat, {**talk, "stream": True, "n": dice.randint(1, 3)}),
            ("best of", writing, {"prompt": text, "best_of": 3, "seed": 1, "stop": ["a", "\n"]}),
            ("several", writing, {"prompt": [text, word], "max_tokens": 8, "stream": True}),
            ("echo", writing, {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 2}),
            ("form", chat, {**talk, "guided_choice": ["yes", "no"], "max_tokens": 10}),
            ("embeddings", "/v1/embeddings", {"input": [text, word]}),
            ("tokens", "/tokenize", {"prompt": text}),
            ("endless stream", writing, {"prompt": text, "max_tokens": 900, "stream": True}),
            ("mistake", writing, {"prompt": text, "temperature": -1}),
            ("too long", chat, {"messages": [{"role": "user", "content": "x" * 9000}]}),
        ]
    )


async def drive(url: str, count: int, clients: int, seed: int = 0) -> Tally:
    """Send `count` requests, `clients` at a time."""
    tally, dice = Tally(), random.Random(seed)
    limits = httpx.Limits(max_connections=clients + 8, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        known = {}
        for word in WORDS:
            reply = await client.post("/v1/completions", json=greedy(word))
            known[word] = reply.json()["choices"][0]["text"]
        asks = [(draw(dice), dice.random()) for _ in range(count)]

        async def work() -> None:
            while asks:
                ask, chance = asks.pop()
                try:
                    await _one(client, ask, chance, known, tally)
                except httpx.HTTPError as error:
                    tally.fault(f"{ask[0]}: {type(error).__name__} {error}")
                tally.done += 1

        await asyncio.gather(*(work() for _ in range(clients)))
    return tally


async def _one(
    client: httpx.AsyncClient, ask: Ask, chance: float, known: dict[str, str], tally: Tally
) -> None:
    """One request until it is answered; where the queue is full, again a little later."""
    kind, path, body = ask
    leaves = chance < LEAVE
    while True:
        if body.get("stream"):
            status = await _stream(client, ask, chance if leaves else None, known, tally)
        elif leaves:
            status = await _leave(client, path, body, chance, tally)
        else:
            reply = await client.post(path, json=body)
            status = reply.status_code
            _check(kind, body, reply, known, tally)
        tally.statuses[kind, status] += 1
        if status != 429:
            return
        await asyncio.sleep(0.05 + 0.1 * chance)


async def _leave(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], chance: float, tally: Tally
) -> int:
    """Go away before the answer, if it is not there by then; status 0: left."""
    try:
        async with asyncio.timeout(chance / LEAVE * 0.2):
            return (await client.post(path, json=body)).status_code
    except TimeoutError:
        tally.left += 1
        return 0


def _check(
    kind: str, body: dict[str, Any], reply: httpx.Response, known: dict[str, str], tally: Tally
) -> None:
    wanted = 400 if kind in ("mistake", "too long") else 200
    if reply.status_code == 429:
        if "retry-after" not in reply.headers:
            tally.fault("429 without Retry-After")
        return
    if reply.status_code != wanted:
        tally.fault(f"{kind}: {reply.status_code} {reply.text[:200]}")
        return
    content = reply.json()
    if kind == "greedy" and content["choices"][0]["text"] != known[body["prompt"]]:
        tally.fault("greedy: another text under load")
    if kind == "form" and content["choices"][0]["message"]["content"] not in ("yes", "no"):
        tally.fault(f"form: {content['choices']}")
    if kind == "chat" and len(content["choices"]) != body["n"]:
        tally.fault("chat: not as many answers as asked for")


async def _stream(
    client: httpx.AsyncClient,
    ask: Ask,
    chance: float | None,
    known: dict[str, str],
    tally: Tally,
) -> int:
    """Read a stream; with a chance, leave after some chunks."""
    kind, path, body = ask
    texts: Counter[int] = Counter()
    text, ended, chunks = "", False, 0
    async with client.stream("POST", path, json=body) as reply:
        if reply.status_code != 200:
            await reply.aread()
            _check(kind, body, reply, known, tally)
            return reply.status_code
        async for line in reply.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                ended = True
                break
            chunk = json.loads(line[6:])
            if "error" in chunk:
                tally.fault(f"{kind}: {chunk['error']}")
                return 200
            for choice in chunk["choices"]:
                if texts[choice["index"]] < 0:
                    tally.fault(f"{kind}: text after the end of an answer")
                text += choice.get("text") or ""
                texts[choice["index"]] = -1 if choice["finish_reason"] else 1
            chunks += 1
            if chance is not None and chunks > 20 * chance / LEAVE:
                tally.left += 1
                return 0
    if not ended or any(state > 0 for state in texts.values()):
        tally.fault(f"{kind}: a stream that did not end")
    if kind == "greedy stream" and text != known[body["prompt"]]:
        tally.fault("greedy stream: another text than that of an idle server")
    return 200


def serve() -> None:
    """The server's process."""
    from langwright.generate import Engine, EngineConfig, LanguageModel
    from langwright.model import ModelConfig, build_model
    from langwright.serve import ServeConfig, run
    from langwright.tokenizer import CHAT_SPECIALS, PATTERNS, BytePairTokenizer, Specials

    names = ("<|endoftext|>", *CHAT_SPECIALS)
    specials = Specials({name: 256 + i for i, name in enumerate(names)}, eos=names[0])
    words = BytePairTokenizer({bytes([i]): i for i in range(256)}, PATTERNS["gpt2"], specials)
    shape = {"context_length": 1024, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2}
    model = build_model(ModelConfig.parse({"vocab_size": words.vocab_size, **shape}), seed=3)
    engine = Engine(LanguageModel(model, words), EngineConfig(max_running=RUNNING, threads=1))
    config = ServeConfig(port=0, queue_requests=WAITING)
    run(engine, config, ready=lambda url: print(url, flush=True))


def memory(process: int) -> float:
    """MB that a process holds (Linux)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmRSS")


def gauges(url: str) -> dict[str, float]:
    """The server's numbers."""
    lines = httpx.get(url + "/metrics").text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def held(url: str, seconds: float = 20.0) -> dict[str, float]:
    """What the idle server still holds; nothing, soon after the last request."""
    names = ("running", "waiting", "cache_used_pages", "open_answers", "waiting_prompt_tokens")
    end = time.monotonic() + seconds
    while True:
        now = gauges(url)
        left = {name: now[f"langwright_{name}"] for name in names if now[f"langwright_{name}"]}
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


def main() -> int:
    """Run it; 1 if something was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help="be the server (internal)")
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            return soak(url, process, arguments.requests, arguments.seed)
        finally:
            process.terminate()


def soak(url: str, process: subprocess.Popen[str], count: int, seed: int) -> int:
    """All requests in ten parts, with the memory after each; then the verdict."""
    clients, faults, sizes = 4 * (RUNNING + WAITING), [], []
    began, statuses, left = time.monotonic(), Counter[int](), 0
    for part in range(10):
        tally = asyncio.run(drive(url, count // 10, clients, seed * 1000 + part))
        faults += tally.wrong
        left += tally.left
        for (_, status), number in tally.statuses.items():
            statuses[status] += number
        holds = held(url)
        if holds:
            faults.append(f"held by an idle server: {holds}")
        sizes.append(memory(process.pid))
        print(
            f"{(part + 1) * (count // 10):6} requests, {time.monotonic() - began:5.0f} s, "
            f"server {sizes[-1]:.0f} MB, {dict(sorted(statuses.items()))}, {left} left",
            flush=True,
        )
    growth = sizes[-1] - sizes[2]
    print(f"memory from the third part to the last: {growth:+.1f} MB")
    if growth > 0.05 * sizes[2]:
        faults.append(f"memory grew by {growth:.0f} MB")
    if httpx.get(url + "/health").status_code != 200:
        faults.append("the server is not healthy")
    process.terminate()
    if process.wait(30) != 0:
        faults.append(f"ended with code {process.returncode}")
    print("\n".join(faults) or "nothing wrong")
    finish(
        "soak",
        {
            "requests": count // 10 * 10,
            "seconds": round(time.monotonic() - began),
            "statuses": dict(sorted(statuses.items())),
            "left": left,
            "memory_mb": [round(size) for size in sizes],
            "faults": len(faults),
        },
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
