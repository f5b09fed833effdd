"""``langwright chat``: a talk in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langwright.base import UserError, human_count, write_json
from langwright.cli.generate import chosen, open_model
from langwright.generate import LanguageModel, Sampling

HELP = """\
/temperature X   0: always the likeliest word; higher: more varied
/retry           another answer to the last question
/clear           forget the talk so far
/save FILE       write the talk as JSON (`messages`)
/help            this list
/quit            leave (Ctrl-D does too; Ctrl-C stops an answer)
A line that ends with \\ goes on in the next one."""


def chat(arguments: argparse.Namespace) -> None:
    """Open the model and talk until the person leaves."""
    lm = open_model(arguments)
    if lm.tokenizer is None:
        raise UserError("this model has no tokenizer: it only takes ids", where=arguments.folder)
    if lm.tokenizer.chat_template is None:
        raise UserError(
            "this model has no chat template: it has not learnt to talk",
            where=arguments.folder,
            fix="use `langwright generate`",
        )
    sampling = {"max_tokens": 256, **chosen(arguments)}
    Sampling.parse(sampling, where="chat")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input())
    count = sum(p.numel() for p in lm.model.parameters())
    print(f"A model of {human_count(count)} parameters. /help lists commands, /quit leaves.")
    Talk(lm, sampling, arguments.system).run()


@dataclass
class Talk:
    """A conversation and the settings of its answers."""

    lm: LanguageModel
    sampling: dict[str, Any]
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    read: Callable[[str], str] = lambda prompt: input(prompt)  # looked up when it is called

    def __post_init__(self) -> None:
        self.clear()

    def run(self) -> None:
        """Read and answer until the end of the input or /quit."""
        while True:
            try:
                text = self.question()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n(Ctrl-D or /quit leaves)")
                continue
            if text.startswith("/"):
                if not self.command(text):
                    return
            elif text:
                self.messages.append({"role": "user", "content": text})
                self.answer()

    def question(self) -> str:
        """What the person types; a trailing backslash takes one more line."""
        lines = [self.read("\nyou> ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self.read("...> "))
        return "\n".join(lines).strip()

    def answer(self) -> None:
        """Stream an answer to the last question and keep it; Ctrl-C ends it early."""
        started, first, tokens, parts = time.perf_counter(), None, 0, []
        sys.stdout.write("\nmodel> ")
        try:
            for piece in self.lm.chat_stream(self.messages, **self.sampling):
                first = first or time.perf_counter()
                parts.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            sys.stdout.write(" ...")
        text = "".join(parts)
        self.messages.append({"role": "assistant", "content": text})
        assert self.lm.tokenizer is not None  # `chat` saw to that
        tokens = len(self.lm.tokenizer.encode(text))
        seconds = time.perf_counter() - started
        wait = (first or time.perf_counter()) - started
        rate = tokens / seconds if seconds > 0 else 0.0
        print(f"\n({tokens} tokens, {rate:,.0f} tokens/s, first after {wait:.2f} s)")

    def command(self, text: str) -> bool:
        """Do what a line starting with / asks; False to leave."""
        word, _, rest = text.partition(" ")
        rest = rest.strip()
        if word in ("/quit", "/exit", "/q"):
            return False
        actions: dict[str, Callable[[str], None]] = {
            "/help": lambda _: print(HELP),
            "/clear": lambda _: self.clear(),
            "/retry": lambda _: self.retry(),
            "/temperature": self.set_temperature,
            "/save": self.save,
        }
        try:
            actions.get(word, lambda _: print(f"no command {word}; /help lists them"))(rest)
        except UserError as error:
            print(error.render())
        return True

    def clear(self) -> None:
        """Forget everything but the system prompt."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def retry(self) -> None:
        """Answer the last question once more."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if not self.messages or self.messages[-1]["role"] != "user":
            print("nothing to answer yet")
            return
        self.sampling.pop("seed", None)  # with a fixed seed the answer would be the same
        self.answer()

    def set_temperature(self, text: str) -> None:
        """``/temperature 0.7``; without a number it tells the present one."""
        if text:
            try:
                value = float(text)
            except ValueError:
                raise UserError("not a number", found=text, expected="/temperature 0.7") from None
            Sampling.parse({**self.sampling, "temperature": value}, where="/temperature")
            self.sampling["temperature"] = value
        now = self.sampling.get("temperature", Sampling().temperature)
        print(f"temperature {now}")

    def save(self, text: str) -> None:
        """``/save FILE``."""
        if not text:
            raise UserError("which file?", expected="/save talk.json")
        try:
            write_json(Path(text), {"messages": self.messages})
        except OSError as error:
            raise UserError(f"cannot write: {error.strerror}", where=text) from None
        print(f"saved to {text}")
