"""An answer's text, cut into what was thought, what is said and what is called, as it comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
MARKS = (THINK, END_THINK, CALL, END_CALL)

Kind = Literal["reasoning", "content", "call"]


@dataclass(frozen=True)
class Part:
    """A stretch of an answer. A call comes whole: what stood between its marks."""

    kind: Kind
    text: str


class Splitter:
    """Takes text piece by piece; the parts do not depend on how it was cut.

        begin ─▶ reasoning ─▶ content ─▶ call ─▶ content ...

    Args:
        thinks: look for <think> at the beginning.
        open_thought: the prompt has opened it already.
        calls: look for <tool_call>.
    """

    def __init__(self, *, thinks: bool, open_thought: bool = False, calls: bool = False) -> None:
        self._calls = calls
        self._held = ""
        self._state = "reasoning" if thinks and open_thought else "begin" if thinks else "content"
        self._fresh = False  # blanks that follow a mark are dropped

    @property
    def thinking(self) -> bool:
        """Whether what comes now is reasoning."""
        return self._state == "reasoning"

    def push(self, text: str) -> list[Part]:
        """The parts that have become certain."""
        self._held += text
        parts: list[Part] = []
        while self._state != self._step(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """The rest, now that no more comes."""
        self._state, state = "content", self._state
        rest, self._held = self._held, ""
        if state == "call":
            whole = rest.strip()
            return [Part("call", whole)] if whole.endswith("}") else [Part("content", CALL + rest)]
        if self._fresh:
            rest = rest.lstrip()
        return [Part("reasoning" if state == "reasoning" else "content", rest)] if rest else []

    def _step(self, parts: list[Part]) -> str:
        """Go as far as the next mark; the state then."""
        if self._state == "begin":
            self._begin()
        elif self._state == "reasoning":
            self._until(END_THINK, "reasoning", "content", parts)
        elif self._state == "call":
            before, mark, after = self._held.partition(END_CALL)
            if mark:
                parts.append(Part("call", before.strip()))
                self._held, self._state, self._fresh = after, "content", True
        elif self._calls:
            self._until(CALL, "content", "call", parts)
        else:
            self._give("content", self._held, parts)
            self._held = ""
        return self._state

    def _begin(self) -> None:
        start = self._held.lstrip()
        if start.startswith(THINK):
            self._held, self._state, self._fresh = start[len(THINK) :], "reasoning", True
        elif not THINK.startswith(start):
            self._state = "content"

    def _until(self, mark: str, kind: Kind, then: str, parts: list[Part]) -> None:
        before, found, after = self._held.partition(mark)
        if found:
            self._give(kind, before.rstrip(), parts)
            self._held, self._state, self._fresh = after, then, True
            return
        # What may belong to the mark, and the blanks before it, wait.
        keep = max(n for n in range(len(mark)) if self._held.endswith(mark[:n]))
        sure = self._held[: len(self._held) - keep].rstrip()
        self._give(kind, sure, parts)
        self._held = self._held[len(sure) :]

    def _give(self, kind: Kind, text: str, parts: list[Part]) -> None:
        if self._fresh:
            text = text.lstrip()
        if text:
            self._fresh = False
            parts.append(Part(kind, text))
