"""One answer of a chat, from the engine's events to what clients read."""

from __future__ import annotations

from collections.abc import Sequence

from langwright.generate import Event
from langwright.serve.openai_types import Tool
from langwright.serve.replies import CalledTool, ChatLogprobs, ChatToken, Delta, Finish
from langwright.serve.split import CALL, END_CALL, MARKS, Part, Splitter
from langwright.serve.token_texts import TokenTexts
from langwright.serve.tools import called, parse_call


class ChatAnswer:
    """Streams and whole answers are both made of its deltas, so they agree.

    Args:
        texts: of the tokens.
        tools: the functions that may be called.
        thinks: whether the answer may begin with reasoning.
        open_thought: whether the prompt has opened it.
        logprobs: whether they were asked for.
        most_calls: further calls are left out; none = no limit.
    """

    def __init__(
        self,
        texts: TokenTexts,
        tools: Sequence[Tool],
        *,
        thinks: bool,
        open_thought: bool,
        logprobs: bool,
        most_calls: int | None,
    ) -> None:
        self._texts, self._tools, self._most = texts, tools, most_calls
        self._splitter = Splitter(thinks=thinks, open_thought=open_thought, calls=bool(tools))
        self._marks = set(MARKS) if thinks or tools else set()
        self._logprobs: list[ChatToken] | None = [] if logprobs else None
        self._reasoning_tokens = 0
        self._calls = 0
        self.finish: Finish | None = None

    def take(self, event: Event) -> Delta:
        """One event; what it adds to the answer, often nothing."""
        text = event.text
        if event.token is not None:
            self._reasoning_tokens += self._splitter.thinking
            name = self._texts.special(event.token)
            if name in self._marks:  # control tokens have no text; these are read here
                text = name + text
            self._note_logprob(event)
        parts = self._splitter.push(text)
        if event.finish_reason is not None:
            parts += self._splitter.finish()
        delta = self._delta(parts)
        if event.finish_reason is not None:
            self.finish = "stop" if event.finish_reason == "stop" else "length"
            if self._calls and self.finish == "stop":
                self.finish = "tool_calls"
        return delta

    def take_logprobs(self) -> ChatLogprobs | None:
        """Those of the tokens since the last call; None where they were not asked for."""
        if self._logprobs is None:
            return None
        taken, self._logprobs = self._logprobs, []
        return ChatLogprobs(content=taken, refusal=None)

    def take_reasoning_tokens(self) -> int:
        """How many tokens were reasoning since the last call."""
        taken, self._reasoning_tokens = self._reasoning_tokens, 0
        return taken

    def _note_logprob(self, event: Event) -> None:
        """The end token is no part of the content."""
        assert event.token is not None
        ended = event.finish_reason == "stop" and self._texts.special(event.token) is not None
        if self._logprobs is not None and event.logprob is not None and not ended:
            top = event.top or []
            self._logprobs.append(self._texts.chat_token(event.token, event.logprob, top))

    def _delta(self, parts: Sequence[Part]) -> Delta:
        said, thought, calls = "", "", []
        for part in parts:
            if part.kind == "reasoning":
                thought += part.text
            elif part.kind == "content":
                said += part.text
            else:
                function = parse_call(part.text, self._tools)
                if function is None:  # not a call after all: nothing of it is hidden
                    said += f"{CALL}{part.text}{END_CALL}"
                elif self._most is None or self._calls < self._most:
                    calls.append(called(function, self._calls))
                    self._calls += 1
        return _delta(said, thought, calls)


def _delta(said: str, thought: str, calls: list[CalledTool]) -> Delta:
    delta = Delta()
    if thought:
        delta.reasoning = delta.reasoning_content = thought
    if said:
        delta.content = said
    if calls:
        delta.tool_calls = calls
    return delta
