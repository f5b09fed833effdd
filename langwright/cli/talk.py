"""A conversation, its settings, and what can be done to it. Nothing here reads the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langwright.base import UserError, read_json, seed_for, write_json
from langwright.cli.answering import Answer, draw_answer
from langwright.cli.terminal import visible
from langwright.generate import Engine, Sampling

Message = dict[str, str]
ROLES = ("system", "user", "assistant")
# A talk has one answer to each question, and nobody reads its log-probabilities.
FIXED = ("n", "best_of", "logprobs", "logprobs_mode")
SETTINGS = tuple(name for name in Sampling.model_fields if name not in FIXED)


@dataclass
class Talk:
    """A conversation with an engine. What fails leaves it as it was.

    Attributes:
        engine: nobody else steps it.
        sampling: the settings that are not at their defaults, by the names of `Sampling`.
        system: what stands before the talk, or None.
        messages: questions and answers in turn, without the system prompt.
        file: the file that the talk was saved to or loaded from.
    """

    engine: Engine
    sampling: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    file: Path | None = None
    tries: int = 0  # answers to the last question that were thrown away
    answers: list[Answer] = field(default_factory=list)  # their figures, for `figures`

    @property
    def params(self) -> Sampling:
        """The settings as the engine takes them."""
        return Sampling.parse(self.sampling, where="chat")

    def whole(self, messages: Sequence[Message]) -> list[Message]:
        """Messages as the model reads them: after the system prompt."""
        head = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*head, *messages]

    def ask(self, question: str) -> None:
        """Put a question, show the answer, keep both."""
        if self._answer([*self.messages, {"role": "user", "content": question}], 0):
            self.tries = 0

    def retry(self) -> None:
        """Another answer to the last question, in place of the one there is."""
        if not self.messages:
            raise UserError("nothing to answer yet")
        question = self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages
        if self.params.temperature == 0:
            print("(at temperature 0 the same answer comes again)")
        if self._answer(question, self.tries + 1):
            self.tries += 1

    def _answer(self, messages: Sequence[Message], tries: int) -> bool:
        """Show an answer to the last message and keep both; whether there was one."""
        params = self.params
        if params.seed is not None and tries:  # the same seed would give the same answer again
            params = params.replace(seed=seed_for(params.seed, "retry", tries))
        prompt = self.engine.lm.encode_conversation(self.whole(messages), params)
        sys.stdout.write("\nmodel> ")
        sys.stdout.flush()
        try:
            answer = draw_answer(self.engine, prompt, params, _show)
        finally:
            print()
        self.answers.append(answer)
        print(answer.told(params.max_tokens))
        if answer.reason == "cancelled" and not answer.text:
            print("(nothing had been written: the question is not kept)")
            return False
        self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        return True

    def undo(self) -> Message:
        """Take back the last question and its answer; gives the question."""
        asked = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not asked:
            raise UserError("nothing to take back")
        question = self.messages[asked[-1]]
        self.messages, self.tries = self.messages[: asked[-1]], 0
        return question

    def clear(self) -> None:
        """Forget everything but the system prompt and the settings."""
        self.messages, self.tries = [], 0

    def change(self, name: str, value: Any) -> None:
        """Set one of `SETTINGS`; None puts it back to its default.

        Raises:
            UserError: no such setting, or a value that it cannot have.
        """
        if name in FIXED:
            raise UserError(f"{name} is fixed in a talk", expected="one answer to each question")
        changed = {key: one for key, one in self.sampling.items() if key != name}
        if value is not None:
            changed[name] = value
        Sampling.parse(changed if name in SETTINGS else {name: value}, where="/set")
        self.sampling = changed

    def save(self, path: Path) -> None:
        """Write the talk as JSON: ``{"messages": [{"role": ..., "content": ...}, ...]}``.

        Raises:
            UserError: a file is there that this talk does not come from, or it cannot be written.
        """
        if path.exists() and (self.file is None or not path.samefile(self.file)):
            raise UserError("there is such a file already", where=path, fix="take another name")
        try:
            write_json(path, {"messages": self.whole(self.messages)})
        except OSError as error:
            raise UserError(f"cannot write: {error.strerror}", where=path) from None
        self.file = path

    def load(self, path: Path) -> None:
        """Go on with a talk that `save` wrote; its system prompt comes with it.

        Raises:
            UserError: the file cannot be read or holds no talk.
        """
        try:
            content = read_json(path)
        except OSError as error:
            raise UserError(f"cannot read: {error.strerror}", where=path) from None
        messages = _messages(content, path)
        first = 1 if messages and messages[0]["role"] == "system" else 0
        self.system = messages[0]["content"] if first else None
        self.messages, self.tries, self.file = messages[first:], 0, path

    def figures(self) -> str:
        """What the talk has taken so far, and how full the context is."""
        lm, drawn = self.engine.lm, sum(answer.tokens for answer in self.answers)
        timed = [one for one in self.answers if one.first_seconds is not None and one.tokens > 1]
        seconds = sum(one.seconds - (one.first_seconds or 0.0) for one in timed)
        lines = [f"{len(self.answers)} answers, {drawn:,} tokens"]
        if seconds > 0:
            rate = sum(one.tokens - 1 for one in timed) / seconds
            lines[0] += f", {rate:,.1f} tokens/s"
        read = sum(answer.prompt_tokens for answer in self.answers)
        known = sum(answer.known_tokens for answer in self.answers)
        lines.append(f"prompts: {read:,} tokens, {known:,} of them found in the cache")
        used = 0
        if whole := self.whole(self.messages):
            used = len(lm.text_tokenizer.encode_chat(whole).ids)
        lines.append(f"the talk: {used:,} of the context's {lm.config.context_length:,} tokens")
        return "\n".join(lines)


def _show(text: str) -> None:
    sys.stdout.write(visible(text))
    sys.stdout.flush()


def _messages(content: Any, path: Path) -> list[Message]:
    """The messages of a saved talk, checked."""
    found = content.get("messages") if isinstance(content, Mapping) else None
    if not isinstance(found, list):
        raise UserError("no talk in it", where=path, expected='{"messages": [...]}')
    messages: list[Message] = []
    for number, one in enumerate(found):
        where = f"{path} messages[{number}]"
        role, text = (one.get("role"), one.get("content")) if isinstance(one, Mapping) else (0, 0)
        if not isinstance(role, str) or not isinstance(text, str):
            raise UserError("not a message", where=where, expected='{"role": ..., "content": ...}')
        if role not in ROLES or (role == "system" and number):
            expected = "user and assistant in turn, system at most at the beginning"
            raise UserError("a role out of place", where=where, found=role, expected=expected)
        previous = messages[-1]["role"] if messages else "assistant"
        if role == previous or (role == "assistant" and previous == "system"):
            expected = "user and assistant in turn"
            raise UserError("a role out of place", where=where, found=role, expected=expected)
        messages.append({"role": role, "content": text})
    return messages
