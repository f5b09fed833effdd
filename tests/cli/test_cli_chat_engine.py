"""The words and settings of ``langwright chat``, without a talk."""

from __future__ import annotations

from pathlib import Path

import pytest

from langwright.base import UserError
from langwright.cli import main
from langwright.cli.answering import Answer
from langwright.cli.chat import engine_config
from langwright.cli.talk_commands import COMMANDS, help_text, is_command
from langwright.generate import LanguageModel
from langwright.tokenizer import CharTokenizer


def test_what_is_a_command() -> None:
    assert is_command("/retry") and is_command("/set a b") and is_command("/")
    assert not is_command("/etc/hosts is what?") and not is_command("retry /now")
    assert not is_command("") and not is_command(" \n")
    assert len(help_text().splitlines()) == len(COMMANDS) + 3


def test_figures_by_hand() -> None:
    answer = Answer("x", "length", 9, 30, 16, 0.5, 2.5)
    assert answer.tokens_per_second == 4.0
    assert answer.told(9) == (
        "(9 tokens; 4.0 tokens/s; first after 0.50 s; prompt of 30, 16 of them known; "
        "cut at max_tokens = 9)"
    )
    assert answer.told(10).endswith("the context is full)")
    assert Answer("", "stop", 1, 3, 0, 0.25, 0.25).told(9) == (
        "(1 token; first after 0.25 s; prompt of 3)"
    )
    assert Answer("", "cancelled", 0, 3, 0, None, 0.1).tokens_per_second is None


def test_engine_settings() -> None:
    assert engine_config([]).max_running == 1
    chosen = engine_config(["engine.block_tokens=8", "engine.cache_dtype=bf16"])
    assert (chosen.block_tokens, chosen.cache_dtype) == (8, "bf16")
    assert engine_config([], draft=True).speculate == "draft"
    assert engine_config([]).threads == "auto"
    assert engine_config(["engine.threads=1"]).threads == 1
    for wrong in ("serve.port=1", "engine.size=3", "block_tokens=8", "engine"):
        with pytest.raises(UserError):
            engine_config([wrong])


def test_a_model_that_cannot_talk_says_so(
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import langwright

    model = langwright.load(finished_run).model
    tokenizer = CharTokenizer.train(["abc"], ["<|endoftext|>"], eos="<|endoftext|>", unknown="unk")
    for without, told in ((None, "no tokenizer"), (tokenizer, "langwright generate")):
        other = LanguageModel(model, without)
        monkeypatch.setattr(langwright, "load", lambda *_, one=other, **__: one, raising=False)
        assert main(["chat", str(finished_run)]) == 2
        assert told in capsys.readouterr().err
