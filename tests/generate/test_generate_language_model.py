"""The object a person talks to."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from langwright.base import UserError
from langwright.generate import LanguageModel, Sampling, load
from langwright.model import Transformer
from langwright.tokenizer import CharTokenizer, load_tokenizer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def chat_lm(tiny_model: Callable[..., Transformer]) -> LanguageModel:
    tokenizer = CharTokenizer.train([string.printable + "é"], SPECIALS, eos=SPECIALS[0])
    model = tiny_model(vocab_size=tokenizer.vocab_size, context_length=128)
    return LanguageModel(model, tokenizer, notice=pytest.fail)


def test_generate_one_and_many(chat_lm: LanguageModel) -> None:
    one = chat_lm.generate("import os", max_tokens=12, seed=1)
    assert isinstance(one, str) and one
    both = chat_lm.generate(["import os", "x"], max_tokens=12, seed=1)
    assert both == [one, chat_lm.generate("x", max_tokens=12, seed=1)]
    assert "".join(chat_lm.stream("import os", max_tokens=12, seed=1)) == one
    assert isinstance(chat_lm.generate("", max_tokens=3), str)
    assert chat_lm.config.context_length == 128


def test_unknown_setting(chat_lm: LanguageModel) -> None:
    with pytest.raises(UserError, match="max_tokens"):
        chat_lm.generate("x", max_token=3)
    with pytest.raises(UserError, match="max_tokens"):
        next(chat_lm.stream("x", max_tokens=0))


def test_special_tokens_in_a_prompt_are_text(chat_lm: LanguageModel) -> None:
    ids = chat_lm.encode_prompt("<|im_end|>")
    assert len(ids) == len("<|im_end|>")
    assert not set(ids) & set(chat_lm.tokenizer.special_tokens.values())


def test_chat_prompt_ends_where_the_assistant_speaks(chat_lm: LanguageModel) -> None:
    messages = [{"role": "user", "content": "hi"}]
    ids = chat_lm.encode_conversation(messages, Sampling(max_tokens=20))
    assert chat_lm.tokenizer.decode(ids).endswith("<|im_start|>assistant\n")
    answer = chat_lm.chat(messages, max_tokens=20, seed=4)
    assert answer == "".join(chat_lm.chat_stream(messages, max_tokens=20, seed=4))
    assert answer == chat_lm.complete_ids([ids], Sampling(max_tokens=20, seed=4))[0].text


def test_long_conversation_loses_its_oldest_turns(chat_lm: LanguageModel) -> None:
    told: list[str] = []
    chat_lm.notice = told.append
    messages = [{"role": "system", "content": "be kind"}]
    for number in range(4):
        messages.append({"role": "user", "content": f"question {number}"})
        messages.append({"role": "assistant", "content": f"answer {number}"})
    messages.append({"role": "user", "content": "last"})
    text = chat_lm.tokenizer.decode(chat_lm.encode_conversation(messages, Sampling(max_tokens=8)))
    assert "be kind" in text and "last" in text and "question 0" not in text
    assert text.count("<|im_start|>user") == text.count("<|im_start|>assistant")  # whole turns
    assert len(told) == 1 and "oldest messages" in told[0]
    full = len(messages) * 30
    assert len(text) < full


def test_message_that_cannot_fit(chat_lm: LanguageModel) -> None:
    with pytest.raises(UserError, match="last message"):
        chat_lm.chat([{"role": "user", "content": "x" * 500}])
    with pytest.raises(UserError, match="empty conversation"):
        chat_lm.chat([])


def test_model_without_template(lm: LanguageModel) -> None:
    tokenizer = CharTokenizer.train(["ab"], ["<|endoftext|>"], eos="<|endoftext|>")
    plain = LanguageModel(lm.model, tokenizer)
    with pytest.raises(UserError, match="no chat template"):
        plain.chat([{"role": "user", "content": "a"}])


def test_long_prompt_is_cropped_with_a_notice(chat_lm: LanguageModel) -> None:
    told: list[str] = []
    chat_lm.notice = told.append
    text = "abc" * 100
    cropped = chat_lm.generate(text, max_tokens=5, seed=0)
    streamed = "".join(chat_lm.stream(text, max_tokens=5, seed=0))
    assert cropped == streamed
    assert len(told) == 2 and all("177 tokens were left out" in line for line in told)
    lone = LanguageModel(chat_lm.model, chat_lm.tokenizer)
    with pytest.warns(UserWarning, match="left out"):
        lone.generate(text, max_tokens=2)


def test_an_answer_that_the_context_cuts_short_is_told(chat_lm: LanguageModel) -> None:
    for text, left_out in (("abc" * 100, True), ("a" * 64, False)):
        told: list[str] = []
        chat_lm.notice = told.append
        drawn = {"max_tokens": 100, "seed": 0, "ignore_eos": True}
        chat_lm.generate(text, **drawn)
        assert [("left out" in line) for line in told] == [True, False][not left_out :]
        assert "after 64 of at most 100 tokens" in told[-1] and "128 is full" in told[-1]
        whole = told.copy()
        told.clear()
        assert "".join(chat_lm.stream(text, **drawn)) and told == whole
    told.clear()
    chat_lm.generate(["a", "a" * 100], **drawn)
    assert len(told) == 1 and "answer 2 was cut short after 28" in told[0]


def test_what_is_no_text_is_said(chat_lm: LanguageModel) -> None:
    for wrong in (5, None, [5], ["a", b"b"]):
        with pytest.raises(UserError, match="must be a text"):
            chat_lm.generate(wrong, max_tokens=2)  # type: ignore[call-overload]
    with pytest.raises(UserError, match="must be a text"):
        chat_lm.stream(5)  # type: ignore[arg-type]
    for wrong in (5, ["hi"], {"role": "user", "content": "hi"}):
        with pytest.raises(UserError, match="no conversation"):
            chat_lm.chat(wrong)  # type: ignore[arg-type]
    for nothing in (5, None):
        with pytest.raises(UserError, match="by its path"):
            load(nothing)  # type: ignore[arg-type]


def test_a_text_alone_is_one_message(chat_lm: LanguageModel) -> None:
    drawn = {"max_tokens": 20, "seed": 4}
    answer = chat_lm.chat([{"role": "user", "content": "hi"}], **drawn)
    assert chat_lm.chat("hi", **drawn) == answer == "".join(chat_lm.chat_stream("hi", **drawn))


def test_load_from_a_run(chat_lm: LanguageModel, tmp_path: Path) -> None:
    """The fine-tuned model of a run goes before its base model, as on the command line."""
    from langwright.formats import model_in, save_model

    run = tmp_path / "run"
    (run / "corpus").mkdir(parents=True)
    with pytest.raises(UserError, match="no model in this folder"):
        load(run)
    for part in ("pretrain/model", "sft/model"):
        save_model(run / part, chat_lm.model, chat_lm.tokenizer)
        assert model_in(run) == run / part
        ids = load(run, device="cpu").encode_prompt("import")
        assert ids == chat_lm.encode_prompt("import")
    with pytest.raises(UserError, match="did you mean"):
        load(tmp_path / "rum")
    file = tmp_path / "notes.txt"
    file.write_text("x")
    with pytest.raises(UserError, match="this file is no model"):
        load(file)


def test_load_from_a_folder(chat_lm: LanguageModel, tmp_path: Path) -> None:
    from langwright.formats import save_model

    save_model(tmp_path / "model", chat_lm.model, chat_lm.tokenizer)
    lm = load(tmp_path / "model", device="cpu")
    assert not any(module.training for module in lm.model.modules())
    ids = torch.tensor([lm.tokenizer.encode("import")])
    with torch.no_grad():
        chat_lm.model.eval()
        torch.testing.assert_close(lm.model(ids), chat_lm.model(ids))
    assert load_tokenizer(tmp_path / "model").vocab_size == lm.tokenizer.vocab_size
    text = lm.generate("import", max_tokens=10, seed=2)
    assert text == chat_lm.generate("import", max_tokens=10, seed=2)
    with pytest.raises(UserError, match="number type"):
        load(tmp_path / "model", dtype="fp99")
    with pytest.raises(UserError, match="no such device"):
        load(tmp_path / "model", device="gpu")
