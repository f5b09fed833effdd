"""Conversations to tokens.

A chat template (Jinja, run in a sandbox) says which marks stand around each message. It is
rendered with a placeholder in the place of each content, so the contents never pass through it:
the template's own text may hold control tokens, a content is always encoded as ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langwright.base import UserError
from langwright.tokenizer.special import repair, split_special

ROLES = ("system", "user", "assistant")

# The blanks around a content are cut off: so the tokens before an answer are those that the
# generation prompt ends with, whatever the answer begins with.
CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] | trim)"
    " + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- endif -%}"
)

_OPEN, _CLOSE = "\ue0a0", "\ue0a1"  # private use: around the number of a message
_PLACEHOLDER = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


@dataclass(frozen=True)
class ChatTokens:
    """A conversation as ids; `mask` is True where the assistant speaks (its end mark too)."""

    ids: list[int]
    mask: list[bool]


@dataclass(frozen=True)
class ChatPiece:
    """A stretch of a rendered conversation. `role` is None for the template's own text."""

    text: str
    role: str | None


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(role, content) of each message; the first mistake is a `UserError` that names its place."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise UserError(
            "a conversation is a list of messages",
            found=type(messages).__name__,
            expected='[{"role": "user", "content": "Hello"}]',
        )
    if not messages:
        raise UserError("the conversation is empty", expected="at least one message")
    checked = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise UserError(
                "a message is a table with role and content",
                where=f"messages[{index}]",
                found=repr(message)[:80],
            )
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or role not in ROLES:
            raise UserError(
                "unknown role",
                where=f"messages[{index}].role",
                found=repr(role),
                expected="one of " + ", ".join(ROLES),
            )
        if not isinstance(content, str):
            raise UserError(
                "the content of a message is text",
                where=f"messages[{index}].content",
                found=repr(content)[:80],
                expected="a string",
            )
        checked.append((role, repair(content)))
    return checked


class ChatTemplate:
    """A Jinja chat template, compiled once, run in a sandbox.

    Args:
        source: the template.
        variables: names it may use beside the messages (``eos_token`` ...).
    """

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        from langwright.tokenizer.template_sandbox import compile_template

        try:
            self._template = compile_template(source, {"raise_exception": _refuse})
        except Exception as error:  # Jinja's own, or Python's about code that is nested too deep
            raise UserError(f"the chat template cannot be read: {str(error)[:500]}") from None
        self._variables = {"tools": None, "documents": None, **(variables or {})}

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text, for reading. To encode it, use `pieces`."""
        checked = [{"role": role, "content": text} for role, text in check_messages(messages)]
        return self._render(checked, add_generation_prompt)

    def pieces(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> list[ChatPiece]:
        """The rendered conversation, cut into the template's text and the contents."""
        checked = check_messages(messages)
        roles = [role for role, _ in checked]
        contents = [_cut_blanks(content) for _, content in checked]
        bare = self._literals(roles, [("", "", "")] * len(roles), add_generation_prompt)
        if all(inner == whole for (_, inner, _), (_, whole) in zip(contents, checked)):
            literals = bare
        else:  # a second time, to see which of the outer blanks the template keeps
            literals = self._literals(roles, contents, add_generation_prompt)
        return list(_give_blanks_back(bare, literals, contents, roles))

    def _literals(
        self, roles: list[str], contents: list[tuple[str, str, str]], add_generation_prompt: bool
    ) -> list[str]:
        """The template's own text before, between and after the contents."""
        shells = [
            {"role": role, "content": f"{before}{_OPEN}{index}{_CLOSE}{after}"}
            for index, (role, (before, _, after)) in enumerate(zip(roles, contents))
        ]
        parts = _PLACEHOLDER.split(self._render(shells, add_generation_prompt))
        numbers = [int(number) for number in parts[1::2]]
        if numbers != list(range(len(roles))):
            raise UserError(
                "the chat template leaves out, repeats or reorders messages",
                found=f"messages {numbers} in its text",
                expected=f"messages 0 to {len(roles) - 1}, each once",
                fix="use a conversation of the form that this template knows",
            )
        return parts[0::2]

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                messages, {**self._variables, "add_generation_prompt": add_generation_prompt}
            )
        except UserError:
            raise
        except Exception as error:  # whatever a stranger's template runs into
            raise UserError(f"the chat template failed: {str(error)[:500]}") from None


def encode_pieces(
    pieces: Sequence[ChatPiece],
    encode: Callable[[str], list[int]],
    encode_inside: Callable[..., list[int]],
    special_tokens: Mapping[str, int],
    stop_ids: frozenset[int],
) -> ChatTokens:
    """Encode pieces: special tokens only from the template's text, mask on the assistant's.

    Args:
        encode: ordinary text at the beginning.
        encode_inside: ordinary text behind other tokens; told whether the last one is special.

    Neighbouring ordinary text is encoded together (as other programs do with the whole
    rendered text); an assistant's content begins and ends a token of its own.
    """
    ids: list[int] = []
    mask: list[bool] = []
    waiting = ""  # ordinary text not encoded yet
    after_special = False  # what was put last is a special token

    def put(new: list[int], counted: bool) -> None:
        ids.extend(new)
        mask.extend([counted] * len(new))

    def put_text(text: str, counted: bool) -> None:
        nonlocal after_special
        put(encode_inside(text, after_special=after_special) if ids else encode(text), counted)
        after_special = False

    def flush() -> None:
        nonlocal waiting
        if waiting:
            put_text(waiting, False)
            waiting = ""

    ended_by_template = False  # the next special token may end the assistant's turn
    for piece in pieces:
        if piece.role == "assistant":
            flush()
            if piece.text:
                put_text(piece.text, True)
            ended_by_template = True
        elif piece.role is not None:
            waiting += piece.text
            ended_by_template = False
        else:
            for part in split_special(piece.text, list(special_tokens), special_tokens):
                if isinstance(part, str):
                    waiting += part
                else:
                    flush()
                    put([part], ended_by_template and part in stop_ids)
                    after_special = True
                ended_by_template = False
    flush()
    return ChatTokens(ids, mask)


def _cut_blanks(content: str) -> tuple[str, str, str]:
    """A content as (blanks before, the rest, blanks after)."""
    inner = content.strip()
    start = content.index(inner)
    return content[:start], inner, content[start + len(inner) :]


def _give_blanks_back(
    bare: list[str],
    literals: list[str],
    contents: list[tuple[str, str, str]],
    roles: list[str],
) -> Iterator[ChatPiece]:
    """Join each content with those of its outer blanks that the template has kept.

    `bare` is the template's text around contents without outer blanks, `literals` with them.
    """
    kept: list[tuple[str, str]] = []  # around each literal: of the content before, of the next
    for index, (plain, text) in enumerate(zip(bare, literals)):
        after = contents[index - 1][2] if index else ""
        before = contents[index][0] if index < len(contents) else ""
        ways = [(after, before), (after, ""), ("", before)]
        kept.append(next((way for way in ways if text == way[0] + plain + way[1]), ("", "")))
    for index, text in enumerate(literals):
        left, right = kept[index]
        yield ChatPiece(text[len(left) : len(text) - len(right)], None)
        if index < len(contents):
            yield ChatPiece(right + contents[index][1] + kept[index + 1][0], roles[index])


def _refuse(message: str) -> None:
    """What a template calls to refuse a conversation."""
    raise UserError(f"the chat template refuses this conversation: {message}")
