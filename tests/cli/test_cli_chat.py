"""The talk in the terminal, without a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langwright.cli import main
from langwright.cli.chat import Talk


class FakeTokenizer:
    chat_template = "yes"

    def encode(self, text: str) -> list[int]:
        return [0] * len(text.split())


class FakeModel:
    """Answers with the last question in capitals, word by word."""

    tokenizer = FakeTokenizer()

    def __init__(self, stop_after: int | None = None) -> None:
        self.seen: list[list[dict[str, str]]] = []
        self.sampling: list[dict[str, Any]] = []
        self.stop_after = stop_after

    def chat_stream(self, messages: list[dict[str, str]], **sampling: Any) -> Iterator[str]:
        self.seen.append([dict(m) for m in messages])
        self.sampling.append(sampling)
        for i, word in enumerate(messages[-1]["content"].upper().split()):
            if i == self.stop_after:
                raise KeyboardInterrupt
            yield word + " "


def talk(
    lines: list[str], model: FakeModel | None = None, **options: Any
) -> tuple[Talk, FakeModel]:
    model = model or FakeModel()
    rest = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    one = Talk(model, {"max_tokens": 9}, read=read, **options)  # type: ignore[arg-type]
    one.run()
    return one, model


def test_history_goes_along() -> None:
    one, model = talk(["hello there", "", "and you"], system="be kind")
    assert [m["role"] for m in model.seen[1]] == ["system", "user", "assistant", "user"]
    assert model.seen[1][2]["content"] == "HELLO THERE "
    assert len(one.messages) == 5


def test_a_backslash_takes_another_line() -> None:
    _, model = talk(["one\\", "two\\", "three"])
    assert model.seen[0][0]["content"] == "one\ntwo\nthree"


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "talk.json"
    typed = ["/retry", "first", "/temperature 0.5", "/retry", f"/save {path}", "/help", "/dance"]
    typed += ["/temperature hot", "/temperature -1", "/save", "/clear", "next", "/quit", "never"]
    one, model = talk(typed)
    out = capsys.readouterr().out
    assert "nothing to answer yet" in out and "/temperature X" in out and "no command /dance" in out
    assert "not a number" in out and "greater than or equal to 0" in out and "which file?" in out
    assert [s.get("temperature") for s in model.sampling] == [None, 0.5, 0.5]
    saved = json.loads(path.read_text())["messages"]
    assert [m["content"] for m in saved] == ["first", "FIRST "]
    assert [m["content"] for m in one.messages] == ["next", "NEXT "]
    assert "tokens/s" in out


def test_ctrl_c_ends_an_answer_not_the_talk() -> None:
    one, model = talk(["a b c d", "more"], FakeModel(stop_after=2))
    assert one.messages[1]["content"] == "A B "
    assert len(model.seen) == 2


def test_ctrl_c_at_the_prompt_does_not_leave() -> None:
    model = FakeModel()
    actions: Iterator[Any] = iter([KeyboardInterrupt, "hello", "/quit"])

    def read(prompt: str) -> str:
        action = next(actions)
        if action is KeyboardInterrupt:
            raise KeyboardInterrupt
        return str(action)

    Talk(model, {}, read=read).run()  # type: ignore[arg-type]
    assert len(model.seen) == 1


def test_a_real_model_talks(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["Where is the cat?", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert main(["chat", str(finished_run), "--max-tokens", "4", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "parameters" in out and "tokens/s" in out


def test_a_model_that_cannot_talk_says_so(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import langwright

    model = FakeModel()
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    monkeypatch.setattr(langwright, "load", lambda *_, **__: model, raising=False)
    assert main(["chat", str(finished_run)]) == 2
    assert "langwright generate" in capsys.readouterr().err
