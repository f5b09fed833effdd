"""The talk in the terminal, without a terminal: a tiny model and its engine."""

from __future__ import annotations

import json
import os
import signal
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from typed_lines import reader

from langwright.cli import main
from langwright.cli.answering import draw_answer
from langwright.cli.chat import converse
from langwright.cli.talk import Talk
from langwright.cli.talk_commands import COMMANDS
from langwright.cli.terminal import TornError, interrupts, visible
from langwright.generate import Engine, EngineConfig, LanguageModel, Sampling
from langwright.model import ModelConfig, build_model
from langwright.tokenizer import CharTokenizer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    tokenizer = CharTokenizer.train(
        [string.printable], SPECIALS, eos="<|endoftext|>", unknown="unk"
    )
    values = {"vocab_size": tokenizer.vocab_size, "context_length": 256, "width": 16}
    model = build_model(ModelConfig.parse({**values, "layers": 1, "heads": 2}), seed=4)
    with torch.no_grad():  # sharper than at the start of training, so greedy texts are not a tie
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return LanguageModel(model, tokenizer)


class OneTalk:
    """A talk whose questions come from a list."""

    def __init__(self, lm: LanguageModel, **options: Any) -> None:
        self.prompts: list[list[int]] = []
        engine = Engine(lm, EngineConfig(max_running=1))
        plain = engine.submit

        def submit(prompt: list[int], *rest: Any, **named: Any) -> Any:
            self.prompts.append(list(prompt))
            return plain(prompt, *rest, **named)

        engine.submit = submit  # type: ignore[method-assign]
        sampling = {"max_tokens": 6, "temperature": 0.0, "ignore_eos": True}
        self.talk = Talk(engine, {**sampling, **options.pop("sampling", {})}, **options)

    def say(self, *lines: Any) -> None:
        converse(self.talk, reader(*lines))

    def contents(self) -> list[str]:
        return [message["content"] for message in self.talk.messages]


@pytest.fixture
def one(lm: LanguageModel) -> OneTalk:
    return OneTalk(lm)


def test_answers_are_those_of_the_plain_loop(one: OneTalk, lm: LanguageModel) -> None:
    one.talk.system = "be kind"
    one.say("hello there", "", "   ", "and you")
    assert [m["role"] for m in one.talk.messages] == ["user", "assistant"] * 2
    messages: list[dict[str, str]] = [{"role": "system", "content": "be kind"}]
    for question, answer in (("hello there", 1), ("and you", 3)):
        messages.append({"role": "user", "content": question})
        plain = lm.chat(messages, max_tokens=6, temperature=0.0, ignore_eos=True)
        assert one.contents()[answer] == plain != ""
        messages.append({"role": "assistant", "content": plain})


def test_the_talk_before_is_not_read_again(
    one: OneTalk, capsys: pytest.CaptureFixture[str]
) -> None:
    one.say("a question that is longer than two blocks of the cache", "another", "/stats")
    first, second = one.talk.answers
    assert first.known_tokens == 0 and first.prompt_tokens == len(one.prompts[0])
    # All of the first prompt and answer but what does not fill a block, or was rendered otherwise.
    assert second.known_tokens >= len(one.prompts[0]) - 16 and second.known_tokens % 16 == 0
    out = capsys.readouterr().out
    assert f"{second.known_tokens} of them known" in out
    assert "2 answers, 12 tokens" in out and "of the context's 256 tokens" in out


def test_commands(one: OneTalk, capsys: pytest.CaptureFixture[str]) -> None:
    one.say("/retry", "/undo", "/history", "first", "/help", "/dance", "/clear now", "/retri")
    out = capsys.readouterr().out
    for told in ("nothing to answer yet", "nothing to take back", "nothing said yet", "tokens/s"):
        assert told in out
    assert "no command /dance" in out and "takes nothing after it" in out
    assert "did you mean /retry?" in out and all(word in out for word in COMMANDS)
    one.say("second", "/history", "/undo")
    out = capsys.readouterr().out
    assert f"you> first\nmodel> {visible(one.contents()[1])}\nyou> second" in out
    assert "taken back: second" in out
    assert one.contents()[0] == "first" and len(one.talk.messages) == 2
    one.say("/clear", "next", "/quit", "never")
    assert one.contents()[0] == "next" and len(one.talk.messages) == 2


def test_retry_puts_another_answer_in_its_place(lm: LanguageModel) -> None:
    one = OneTalk(lm, sampling={"temperature": 1.0, "seed": 3, "top_p": 1.0})
    one.say("what", "/retry")
    assert len(one.talk.messages) == 2 and one.prompts[0] == one.prompts[1]
    second = one.contents()[1]
    one.say("/retry")
    third = one.contents()[1]
    again = OneTalk(lm, sampling={"temperature": 1.0, "seed": 3, "top_p": 1.0})
    again.say("what")
    assert len({again.contents()[1], second, third}) == 3  # each try draws otherwise
    again.say("/retry", "/retry")
    assert again.contents()[1] == third  # and the same seed gives the same tries


def test_retry_at_temperature_zero_says_that_nothing_changes(
    one: OneTalk, capsys: pytest.CaptureFixture[str]
) -> None:
    one.say("what")
    before = one.contents()
    one.say("/retry")
    assert "the same answer" in capsys.readouterr().out and one.contents() == before


def test_settings(one: OneTalk, capsys: pytest.CaptureFixture[str]) -> None:
    one.say("/temperature", "/temperature 0.5", "/temperature hot", "/temperature -1")
    out = capsys.readouterr().out
    assert "temperature 0\n" in out and "temperature 0.5\n" in out
    assert "not a number" in out and "greater than or equal to 0" in out
    assert one.talk.params.temperature == 0.5
    one.say("/set max_tokens 3", '/set stop ["x", "y"]', "/set top_k", "/set seed 7")
    assert (one.talk.params.max_tokens, one.talk.params.stop) == (3, ["x", "y"])
    assert "top_k = 0" in capsys.readouterr().out
    one.say("/set seed default", "/set max_tokens many", "/set topk 3", "/set topk", "/set n 2")
    assert one.talk.params.seed is None and one.talk.params.max_tokens == 3
    out = capsys.readouterr().out
    assert "valid integer" in out and "fixed in a talk" in out
    assert out.count("did you mean 'top_k'?") == 1 and out.count("did you mean top_k?") == 1
    one.say("/set")
    out = capsys.readouterr().out
    assert "max_tokens = 3" in out and "seed = " not in out
    one.say("what")
    assert one.talk.answers[-1].tokens <= 3


def test_a_system_prompt_may_change(one: OneTalk, capsys: pytest.CaptureFixture[str]) -> None:
    one.say("/system", "/system be brief", "what", "/system off", "and", "/clear")
    assert "system prompt: none" in capsys.readouterr().out
    encode = one.talk.engine.lm.text_tokenizer.encode_ordinary
    brief, first, second = encode("be brief"), *one.prompts

    def holds(ids: list[int]) -> bool:
        return any(ids[i : i + len(brief)] == brief for i in range(len(ids)))

    assert holds(first) and not holds(second) and one.talk.system is None


def test_save_and_load(
    one: OneTalk, lm: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = tmp_path / "talk.json", tmp_path / "other"
    other.write_text("precious")
    one.talk.system = "be kind"
    one.say("/save", f"/save {other / 'x'}", "first", f"/save {path}", "more", "/save")
    one.say(f"/save {other}", f"/save {tmp_path}")
    out = capsys.readouterr().out
    assert "which file?" in out and "cannot write" in out and out.count("such a file already") == 2
    assert other.read_text() == "precious"
    one.say("/save ~nobody-of-this-name/x", "/load a\0b")
    out = capsys.readouterr().out
    assert "~nobody-of-this-name" in out and "not a file name" in out
    saved = json.loads(path.read_text())["messages"]
    assert saved[0] == {"role": "system", "content": "be kind"}
    assert [m["content"] for m in saved[1:]] == one.contents() and len(saved) == 5
    two = OneTalk(lm)
    two.say(f"/load {path}", "/retry")
    assert two.talk.messages == one.talk.messages and two.talk.system == "be kind"
    assert two.prompts[0] == one.prompts[1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ("[1]", "no talk in it"),
        ('{"messages": 3}', "no talk in it"),
        ('{"messages": ["hi"]}', "not a message"),
        ('{"messages": [{"role": "user", "content": null}]}', "not a message"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "a role out of place"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "a role out of place"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
            "a role out of place",
        ),
    ],
)
def test_a_file_that_holds_no_talk(
    one: OneTalk, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, told: str
) -> None:
    path = tmp_path / "talk.json"
    path.write_text(content)
    one.say("first", f"/load {path}", f"/load {tmp_path / 'none'}", f"/load {tmp_path}")
    out = capsys.readouterr().out
    assert told in out and str(path) in out and "file not found" in out and "cannot read" in out
    assert one.contents()[0] == "first"


def test_what_does_not_fit_leaves_the_talk_as_it_was(
    one: OneTalk, capsys: pytest.CaptureFixture[str]
) -> None:
    one.say("first", "x" * 300, '/set constraint {kind = "regex", value = "("}', "what")
    out = capsys.readouterr().out
    assert "does not fit the model's context" in out
    assert one.contents()[0] == "first" and len(one.talk.messages) == 2
    one.say("/set constraint default", "second")
    assert len(one.talk.messages) == 4


def test_a_failing_model_is_told_and_the_talk_goes_on(
    one: OneTalk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory, say")

    one.say("first")
    with monkeypatch.context() as patch:
        patch.setattr(one.talk.engine._stepper, "hidden", broken)
        one.say("second")
    assert "out of memory, say" in capsys.readouterr().out and len(one.talk.messages) == 2
    one.say("third")
    assert one.contents()[2] == "third"


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_an_answer_not_the_talk(
    one: OneTalk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = one.talk.engine
    plain, steps, begun = engine.step, [], []

    def step() -> list[Any]:
        if len(steps) in begun:
            interrupt()  # amid the step: it is done all the same
        steps.append(1)
        return plain()

    monkeypatch.setattr(engine, "step", step)
    one.talk.change("max_tokens", 50)
    begun.append(3)
    one.say("a b c d")
    assert "interrupted" in capsys.readouterr().out
    assert one.talk.answers[-1].tokens == 4 and len(one.contents()[1]) > 0
    assert engine.stats().running == 0 and engine.stats().cache_used_pages == 0
    before = one.contents()
    one.talk.change("max_tokens", 6)
    one.say("more")
    assert one.contents()[:2] == before and one.talk.answers[-1].tokens == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_before_the_first_token_keeps_no_question(
    one: OneTalk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = one.talk.engine.submit

    def submit(*rest: Any, **named: Any) -> Any:
        request = plain(*rest, **named)
        one.talk.engine.cancel(request)
        return request

    one.say("first")
    with monkeypatch.context() as patch:
        patch.setattr(one.talk.engine, "submit", submit)
        one.say("second", "/retry")
    assert "the question is not kept" in capsys.readouterr().out
    assert one.contents()[0] == "first" and len(one.talk.messages) == 2


def test_ctrl_c_at_the_prompt_does_not_leave(one: OneTalk) -> None:
    one.say(KeyboardInterrupt, "hello", "/quit")
    assert one.contents()[0] == "hello"


def test_ctrl_c_three_times_leaves_even_amid_a_step() -> None:
    with interrupts() as pressed:
        assert not pressed()
        interrupt()
        interrupt()
        assert pressed()
        with pytest.raises(TornError):
            interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_an_engine_that_was_torn_is_not_used_again(
    one: OneTalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one.talk.engine, "step", lambda: [interrupt() for _ in range(3)])
    with pytest.raises(TornError):
        one.say("what", "never")


def test_a_reader_that_went_away_ends_the_request(one: OneTalk) -> None:
    def show(text: str) -> None:
        raise BrokenPipeError

    engine = one.talk.engine
    prompt = engine.lm.text_tokenizer.encode_chat([{"role": "user", "content": "hi"}]).ids
    with pytest.raises(BrokenPipeError):
        draw_answer(engine, prompt, Sampling(max_tokens=50, temperature=0, ignore_eos=True), show)
    engine.step()
    assert engine.stats().running == 0


def test_the_models_control_characters_are_shown_not_sent(
    one: OneTalk, capsys: pytest.CaptureFixture[str]
) -> None:
    escape = one.talk.engine.lm.text_tokenizer.encode("\x0b")[0]
    one.say(f"/set logit_bias {{{escape} = 900}}", "what", "/history")
    assert one.contents()[1] == "\x0b" * 6  # kept as it came
    out = capsys.readouterr().out
    assert "\x0b" not in out and out.count("\u240b" * 6) == 2


def test_a_real_model_talks(
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "talk.json"
    options = ["--max-tokens", "4", "--device", "cpu"]
    monkeypatch.setattr("builtins.input", reader("Where is the cat?", f"/save {path}", "/quit"))
    assert main(["chat", str(finished_run), *options, "--system", "be kind"]) == 0
    out = capsys.readouterr().out
    assert "parameters" in out and "first after" in out
    monkeypatch.setattr("builtins.input", reader("/history", "And the dog?"))
    options += ["--load", str(path), "--draft", str(finished_run), "--set", "engine.block_tokens=8"]
    assert main(["chat", str(finished_run), *options]) == 0
    out = capsys.readouterr().out
    assert "system> be kind\nyou> Where is the cat?" in out and "first after" in out
    assert main(["chat", str(finished_run), "--set", "engine.nothing=1"]) == 2
