"""``langwright serve``, and what the server tells of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from serve_small import language_model, listening, tokenizer

import langwright
from langwright.cli import main
from langwright.generate import Engine, EngineConfig
from langwright.serve import ServeConfig
from langwright.serve.metrics import Histogram


@pytest.fixture
def own_threads() -> Iterator[None]:
    """What a command sets is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("own_threads")
def test_the_command_hands_its_options_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    seen: dict[str, Any] = {}

    def run(engine: Engine, config: ServeConfig, ready: Any) -> None:
        seen.update(engine=engine, config=config)
        ready("http://127.0.0.1:1")

    monkeypatch.setattr("langwright.cli.serve.run", run)
    monkeypatch.setattr(langwright, "load", lambda *_, **__: language_model(), raising=False)
    options = ["--port", "0", "--set", "serve.queue_requests=3", "--set", "engine.max_running=5"]
    assert main(["serve", str(folder), *options, "--origin", "https://a.example"]) == 0
    config = seen["config"]
    assert (config.name, config.port, config.queue_requests) == ("my-model", 0, 3)
    assert config.origins == ("https://a.example",)
    one = seen["engine"]
    assert one.config.max_running == 5 and one.config.threads == "auto"
    told = capsys.readouterr().err
    assert "http://127.0.0.1:1/v1" in told and one.threads.told() in told
    assert one.stats().calibrations == 1
    assert main(["serve", str(folder), "--set", "engine.threads=1"]) == 0
    assert "1 thread: as set" in capsys.readouterr().err
    for wrong in (
        ["--host", "0.0.0.0"],
        ["--set", "serve.nonsense=1"],
        ["--set", "model.width=1"],
        ["--port", "99999"],
        ["--api-keys", str(tmp_path / "none"), "--set", "engine.max_running=0"],
    ):
        assert main(["serve", str(folder), *wrong]) == 2
    assert "give a file of API keys" in capsys.readouterr().err


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    out = capsys.readouterr().out
    assert "drain_seconds" in out and "max_running" in out


def test_what_it_tells_of_itself(address: str) -> None:
    info = httpx.get(address + "/tokenizer_info").json()
    assert info["vocab_size"] == tokenizer().vocab_size and info["eos_token"] == "<|endoftext|>"
    assert "<|im_start|>" in info["additional_special_tokens"]
    assert httpx.get(address + "/health").json() == {"status": "ok"}
    assert httpx.get(address + "/ready").json() == {"status": "ready"}
    lost = httpx.get(address + "/v2/nothing")
    assert lost.status_code == 404 and lost.json()["error"]["code"] == "not_found"
    wrong = httpx.get(address + "/v1/completions")
    assert wrong.status_code == 405 and "error" in wrong.json() and wrong.headers["allow"] == "POST"
    tokens = httpx.post(
        address + "/tokenize", json={"prompt": "hé", "return_token_strs": True}
    ).json()
    assert tokens == {
        "count": 3,
        "max_model_len": 1024,
        "tokens": [104, 195, 169],
        "token_strs": ["h", "bytes:\\xc3", "bytes:\\xa9"],
    }


def test_metrics_count(address: str) -> None:
    def numbers() -> dict[str, float]:
        reply = httpx.get(address + "/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = [one for one in reply.text.splitlines() if not one.startswith("#")]
        return {name: float(value) for name, value in (one.rsplit(" ", 1) for one in lines)}

    before = numbers()
    body = {"prompt": "hello", "max_tokens": 7, "ignore_eos": True}
    assert httpx.post(address + "/v1/completions", json=body).status_code == 200
    after = numbers()
    for name, more in (
        ("langwright_generated_tokens_total", 7),
        ("langwright_prompt_tokens_total", 5),
        ("langwright_first_token_seconds_count", 1),
        ("langwright_request_seconds_count", 1),
        ('langwright_requests_total{route="completions",outcome="done"}', 1),
    ):
        assert after[name] - before.get(name, 0) == more
    assert after["langwright_calibrations_total"] == 0 and after["langwright_threads"] >= 1
    assert after["langwright_open_answers"] == 0 and after["langwright_ready"] == 1


def test_histograms_are_cumulative() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)
    assert histogram.lines("x") == [
        'x_bucket{le="1"} 2',
        'x_bucket{le="2"} 3',
        'x_bucket{le="+Inf"} 4',
        "x_sum 12.000000",
        "x_count 4",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_kept_apart(stream: bool) -> None:
    pytest.importorskip("llguidance", reason="needs the extra `constrain`")
    openai = pytest.importorskip("openai", reason="needs the openai client")
    engine = Engine(language_model(), EngineConfig(max_running=2))
    with listening(engine, ServeConfig(name="tiny", reasoning="on")) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        request: dict[str, Any] = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 60,
            "extra_body": {"guided_choice": ["<think>\nhm\n</think>\n\nYes."]},
        }
        if stream:
            thought = said = ""
            request["stream_options"] = {"include_usage": True}
            for chunk in client.chat.completions.create(stream=True, **request):
                for choice in chunk.choices:
                    said += choice.delta.content or ""
                    thought += getattr(choice.delta, "reasoning", None) or ""
            usage = chunk.usage
        else:
            done = client.chat.completions.create(**request)
            message, usage = done.choices[0].message, done.usage
            said, thought = message.content, message.reasoning
            assert message.reasoning_content == thought
        assert (thought, said) == ("hm", "Yes.")
        assert 5 <= usage.completion_tokens_details.reasoning_tokens <= 15


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "\x0c", "\x1e", "\r", '"', "é"])
def test_a_stream_is_cut_at_its_own_ends_only(address: str, mark: str) -> None:
    pytest.importorskip("llguidance", reason="needs the extra `constrain`")
    body = {"prompt": "x", "max_tokens": 20, "stream": True, "guided_choice": [f"a{mark}b"]}
    text = httpx.post(address + "/v1/completions", json=body).content.decode()
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert "".join(one["choices"][0]["text"] for one in chunks) == f"a{mark}b"


def test_one_text_alone_or_among_others() -> None:
    """With `deterministic`, over HTTP too."""
    from concurrent.futures import ThreadPoolExecutor

    engine = Engine(language_model(), EngineConfig(max_running=8, deterministic=True))
    with listening(engine, ServeConfig()) as url:

        def ask(seed: int) -> str:
            body = {"prompt": "Once", "seed": seed, "max_tokens": 20}
            found = httpx.post(url + "/v1/completions", json=body, timeout=30).json()
            return str(found["choices"][0]["text"])

        alone = [ask(seed) for seed in range(4)]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(ask, [*range(4), *range(4), 9, 8]))
        assert together[:8] == alone * 2
