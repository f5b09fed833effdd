"""Answers to held-out questions and their scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from langwright.evaluate import (
    Answer,
    answer_questions,
    assistant_loss,
    summarise_answers,
    token_f1,
)
from langwright.evaluate.questions import split_conversation
from langwright.generate import LanguageModel
from langwright.model import Transformer
from langwright.tokenizer import CharTokenizer


def chat(*turns: tuple[str, str]) -> dict:
    messages = []
    for question, answer in turns:
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    return {"messages": messages}


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Return the path.", "return the path", 1.0),
        ("the the the", "the path", 2 / 5),
        ("a b c d", "c d e f", 0.5),
        ("nothing", "shared here", 0.0),
        ("", "", 1.0),
        ("", "word", 0.0),
        ("os_path join", "os.path join", 0.4),
    ],
)
def test_token_f1(answer: str, reference: str, expected: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(expected)
    assert token_f1(reference, answer) == pytest.approx(expected)


def test_split_conversation() -> None:
    two = chat(("q1", "a1"), ("q2", "a2"))
    assert split_conversation(two) == (two["messages"][:3], "a2")
    unfinished = {"messages": [*two["messages"], {"role": "user", "content": "q3"}]}
    assert split_conversation(unfinished) == (two["messages"][:3], "a2")
    assert split_conversation({"messages": [{"role": "user", "content": "q"}]}) is None


def test_assistant_loss_by_hand(
    tiny_model: Callable[..., Transformer], tokenizer: CharTokenizer
) -> None:
    model = tiny_model(context_length=128)
    model.eval()
    chats = [chat(("hi", "yo")), chat(("a", "bc"), ("d", "efg")), chat(("x" * 200, "too long"))]
    nats, count = 0.0, 0
    for one in chats[:2]:
        text = "".join(
            f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in one["messages"]
        )
        ids = tokenizer.encode(text, allowed_special="all")
        with torch.no_grad():
            logprobs = model(torch.tensor([ids]))[0].log_softmax(-1)
        place = 0
        for message in one["messages"]:
            head = tokenizer.encode(f"<|im_start|>{message['role']}\n", allowed_special="all")
            body = tokenizer.encode(message["content"] + "<|im_end|>", allowed_special="all")
            place += len(head)
            if message["role"] == "assistant":
                for offset, target in enumerate(body):
                    nats -= logprobs[place + offset - 1, target].item()
                    count += 1
            place += len(body) + 1
    found = assistant_loss(model, tokenizer, chats)
    assert found is not None
    assert (found.tokens, found.units) == (count, 2) == (3 + 3 + 4, 2)
    assert found.nats_per_token == pytest.approx(nats / count, rel=1e-5)
    assert assistant_loss(model, tokenizer, chats[2:]) is None


def test_answers_are_the_greedy_ones(
    tiny_model: Callable[..., Transformer], tokenizer: CharTokenizer
) -> None:
    lm = LanguageModel(tiny_model(context_length=128), tokenizer)
    chats = [chat(("hi", "yo")), chat(("x" * 200, "too long")), chat(("what", "that"))]
    answers = answer_questions(lm, chats, max_tokens=16)
    assert [answer.reference for answer in answers] == ["yo", "that"]
    for answer in answers:
        assert answer.answer == lm.chat(answer.prompt, temperature=0.0, max_tokens=16)
        assert answer.f1 == token_f1(answer.answer, answer.reference)
        assert answer.to_json()["question"] == answer.prompt[-1]["content"]


def test_summary_tells_knowledge_from_style() -> None:
    """Right answers score 1 and beat chance; one answer for everything scores as chance does."""
    prompt = [{"role": "user", "content": "q"}]
    right = [Answer(prompt, f"word{i}", f"word{i}", True, 1.0) for i in range(20)]
    found = summarise_answers(right)
    assert found["f1"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["chance_f1"]["mean"] == 0.0 and found["ended"]["mean"] == 1.0
    same = [
        Answer(
            prompt, f"Return w{i}", "Return it", i % 2 == 0, token_f1(f"Return w{i}", "Return it")
        )
        for i in range(20)
    ]
    found = summarise_answers(same)
    assert found["f1"]["mean"] == pytest.approx(found["chance_f1"]["mean"]) == pytest.approx(0.5)
    assert found["ended"]["low"] < 0.5 < found["ended"]["high"]
    assert summarise_answers([]) == {"count": 0}
