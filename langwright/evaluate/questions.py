"""Answers to questions that were held out of fine-tuning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from langwright.dataset import IGNORE, Batch
from langwright.evaluate.answering import complete_prompts
from langwright.evaluate.intervals import bootstrap_interval
from langwright.evaluate.loss import Loss, row_sums, tokens_at_once
from langwright.generate import LanguageModel, Sampling
from langwright.model import Transformer
from langwright.tokenizer import Tokenizer

Conversation = Mapping[str, Any]
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Answer:
    """One question, what was expected and what came."""

    prompt: list[dict[str, str]]
    reference: str
    answer: str
    ended: bool  # with an end token, not by running into the limit
    f1: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"question": self.prompt[-1]["content"], **vars(self)}


def split_conversation(
    conversation: Conversation,
) -> tuple[list[dict[str, str]], str] | None:
    """(messages before the last answer, that answer); None where the assistant says nothing."""
    messages = list(conversation["messages"])
    for index in range(len(messages) - 1, 0, -1):
        if messages[index]["role"] == "assistant":
            return messages[:index], messages[index]["content"]
    return None


def answer_questions(
    lm: LanguageModel, conversations: Sequence[Conversation], *, max_tokens: int = 128
) -> list[Answer]:
    """Greedy answers to each conversation's last question; the too long ones are left out."""
    room = lm.config.context_length - max_tokens
    asked, prompts = [], []
    for conversation in conversations:
        parts = split_conversation(conversation)
        if parts is None:
            continue
        ids = lm.text_tokenizer.encode_chat(parts[0], add_generation_prompt=True).ids
        if len(ids) <= room:
            asked.append(parts)
            prompts.append(ids)
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    completions = complete_prompts(lm, prompts, sampling)
    return [
        Answer(
            prompt, reference, done.text, done.stop_id is not None, token_f1(done.text, reference)
        )
        for (prompt, reference), done in zip(asked, completions, strict=True)
    ]


def summarise_answers(answers: Sequence[Answer], seed: int = 0) -> dict[str, Any]:
    """Mean F1 with a 95 % bootstrap interval, chance level, and how many ended properly.

    Chance is the F1 of each answer against another question's reference: what the style of the
    answers is worth without knowing anything about the question.
    """
    if not answers:
        return {"count": 0}
    scores = np.array([answer.f1 for answer in answers])
    ended = np.array([float(answer.ended) for answer in answers])
    others = [answer.reference for answer in answers[1:]] + [answers[0].reference]
    chance = [token_f1(answer.answer, other) for answer, other in zip(answers, others, strict=True)]
    result: dict[str, Any] = {"count": len(answers)}
    for name, values in (("f1", scores), ("chance_f1", np.array(chance)), ("ended", ended)):
        low, high = bootstrap_interval(values, seed=seed)
        result[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return result


def token_f1(answer: str, reference: str) -> float:
    """Overlap of words as in SQuAD (Rajpurkar et al. 2016): harmonic mean of precision and recall.

    Words are runs of letters, digits and underscores, in lower case. Two empty texts agree.
    """
    found, wanted = Counter(_words(answer)), Counter(_words(reference))
    if not found or not wanted:
        return float(found == wanted)
    common = sum((found & wanted).values())
    return 2 * common / (sum(found.values()) + sum(wanted.values()))


def assistant_loss(
    model: Transformer, tokenizer: Tokenizer, conversations: Sequence[Conversation]
) -> Loss | None:
    """Loss on what the assistant says, its end token included; None if no conversation fits.

    Conversations longer than the context are left out. Units of the error are conversations.
    """
    context = model.config.context_length
    device = next(model.parameters()).device
    encoded = [tokenizer.encode_chat(conversation["messages"]) for conversation in conversations]
    chats = [chat for chat in encoded if len(chat.ids) <= context + 1 and any(chat.mask[1:])]
    if not chats:
        return None
    longest = max(len(chat.ids) for chat in chats) - 1
    inputs = np.zeros((len(chats), longest), dtype=np.int64)
    targets = np.full((len(chats), longest), IGNORE, dtype=np.int64)
    for row, chat in enumerate(chats):
        ids, counted = np.array(chat.ids), np.array(chat.mask)
        inputs[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = np.where(counted[1:], ids[1:], IGNORE)
    batch = Batch(torch.from_numpy(inputs), torch.from_numpy(targets))
    rows = max(1, tokens_at_once(device) // longest)
    sums = [row_sums(model, part.to(device)) for part in batch.split(rows)]
    return Loss.from_sums(
        np.concatenate([nats for nats, _ in sums]), np.concatenate([count for _, count in sums])
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
