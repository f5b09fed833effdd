"""From OpenAI's messages to turns that any chat template knows: system, user, assistant."""

from __future__ import annotations

from collections.abc import Sequence

from langwright.serve.errors import ApiError
from langwright.serve.openai_types import ChatMessage, Tool
from langwright.serve.tools import call_text, instructions, response_text

Turns = list[dict[str, str]]


def plain_messages(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> Turns:
    """The conversation in text, with the functions told in the system message.

    Raises:
        ApiError: 400 for what is not text.
    """
    turns: Turns = []
    answering = False  # the last turn holds answers of functions
    for index, message in enumerate(messages):
        text = _text(message, f"messages.{index}")
        role = "system" if message.role == "developer" else message.role
        if role == "tool":
            if answering:
                turns[-1]["content"] += "\n" + response_text(text)
            else:
                turns.append({"role": "user", "content": response_text(text)})
            answering = True
            continue
        answering = False
        calls = message.tool_calls or []
        if calls and role != "assistant":
            raise ApiError(
                400, "only the assistant calls functions", param=f"messages.{index}.tool_calls"
            )
        parts = [text] if text else []
        parts += [call_text(call.function.name, call.function.arguments) for call in calls]
        turns.append({"role": role, "content": "\n".join(parts)})
    if tools:
        told = instructions(tools)
        if turns and turns[0]["role"] == "system":
            turns[0] = {"role": "system", "content": f"{turns[0]['content']}\n\n{told}".strip()}
        else:
            turns.insert(0, {"role": "system", "content": told})
    return turns


def _text(message: ChatMessage, where: str) -> str:
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise ApiError(400, f"{where}.content: missing", param=f"{where}.content")
        return ""
    if isinstance(content, str):
        return content
    for index, part in enumerate(content):
        if part.type != "text" or part.text is None:
            place = f"{where}.content.{index}"
            raise ApiError(
                400, f"{place}: this model reads text only, not {part.type[:40]!r}", param=place
            )
    return "".join(part.text or "" for part in content)
