"""Making a conversation fit the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langwright.base import UserError
from langwright.tokenizer import Tokenizer

Message = Mapping[str, Any]


def conversation_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], most_tokens: int
) -> tuple[list[int], int]:
    """Ids of a conversation up to where the assistant answers, and how many messages were dropped.

    Where it is longer than `most_tokens`, the oldest turns go first (a question together with its
    answer); a system message at the beginning and the last message always stay.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "this model has no chat template: it continues text, it does not answer",
            fix="use generate, or fine-tune it on conversations (langwright sft)",
        )
    if not messages:
        raise UserError("an empty conversation", expected='[{"role": "user", "content": "..."}]')
    first = 1 if messages[0].get("role") == "system" else 0
    head, turns = list(messages[:first]), list(messages[first:])
    dropped = 0
    while True:
        ids = tokenizer.encode_chat([*head, *turns], add_generation_prompt=True).ids
        if len(ids) <= most_tokens:
            return ids, dropped
        cut = next((i for i in range(1, len(turns)) if turns[i].get("role") == "user"), None)
        if cut is None:
            raise UserError(
                "the last message does not fit the model's context",
                found=f"{len(ids)} tokens with the markers",
                expected=f"at most {most_tokens} (the rest is kept for the answer)",
                fix="shorten the message" + (" or the system message" if head else ""),
            )
        turns, dropped = turns[cut:], dropped + cut
