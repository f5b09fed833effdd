"""Texts the model writes: from nothing, and after a beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langwright.evaluate.answering import complete_prompts
from langwright.evaluate.config import EvaluateConfig
from langwright.evaluate.heldout import HeldOut
from langwright.generate import LanguageModel, Sampling

PROMPT_CHARACTERS = 60


def draw_samples(
    config: EvaluateConfig, lm: LanguageModel, held: Sequence[HeldOut]
) -> list[dict[str, Any]]:
    """`config.samples` texts from nothing and as many from prompts, all in one batch.

    Each is a table with kind ("unprompted" or "prompted"), prompt, text, tokens, finish_reason.
    """
    prompts = config.prompts or beginnings(held, config.samples)
    begin = (
        lm.text_tokenizer.eos_id
        if lm.text_tokenizer.eos_id is not None
        else lm.text_tokenizer.bos_id
    )
    lead = [] if begin is None else [begin]
    texts = [""] * (config.samples if lead else 0) + prompts
    if not texts:
        return []
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.sample_tokens,
        seed=config.seed,
    )
    room = max(1, lm.config.context_length // 2 - 1)  # a prompt takes half the context at most
    prompt_ids = [lm.text_tokenizer.encode(text)[:room] for text in texts]
    ids = [[*lead, *prompt] for prompt in prompt_ids]
    return [
        {
            "kind": "prompted" if prompt else "unprompted",
            "prompt": lm.text_tokenizer.decode(prompt),
            "text": done.text,
            "tokens": len(done.ids),
            "finish_reason": done.finish_reason,
        }
        for prompt, done in zip(prompt_ids, complete_prompts(lm, ids, sampling), strict=True)
    ]


def beginnings(held: Sequence[HeldOut], count: int) -> list[str]:
    """The first words of `count` held-out documents, the sources in turn, spread over each."""
    found: list[str] = []
    heads = [[head for text in one.texts if (head := _beginning(text))] for one in held]
    heads = [some for some in heads if some]
    for number in range(count if heads else 0):
        turn, source = divmod(number, len(heads))
        some = heads[source]
        turns = -(-count // len(heads))
        found.append(some[turn * len(some) // turns])
    return found


def _beginning(text: str) -> str:
    """About 60 characters, at most half the text, cut at a blank; nothing of a very short text."""
    head = text[: min(PROMPT_CHARACTERS, len(text) // 2)]
    if len(head) < PROMPT_CHARACTERS // 3:
        return ""
    cut = max(head.rfind(" "), head.rfind("\n"))
    return head[:cut] if cut > len(head) // 2 else head
