"""A model and its tokenizer as one thing that a person can talk to."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch

from langwright.base import UserError, machine
from langwright.formats import load_parts, model_in
from langwright.generate.chat import Message, conversation_prompt
from langwright.generate.loop import cropped_tokens
from langwright.generate.output import Completion
from langwright.generate.sampling import Sampling
from langwright.model import ModelConfig, Transformer
from langwright.tokenizer import Tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


@dataclass
class LanguageModel:
    """A trained model: ids to logits, prompts to text, conversations to answers.

    All methods that draw text take the fields of `Sampling` as keywords and return the new text
    only, without the prompt. `notice` is told when a prompt or an answer was cut to fit the
    context.

    `tokenizer` is None if the model's files have none: then only ids go in and out.
    """

    model: Transformer
    tokenizer: Tokenizer | None
    notice: Callable[[str], None] = _warn

    @property
    def config(self) -> ModelConfig:
        """The model's architecture."""
        return self.model.config

    @property
    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer, for whoever cannot do without; a `UserError` if there is none."""
        if self.tokenizer is None:
            raise UserError(
                "this model has no tokenizer, so it cannot read or write text",
                expected="a tokenizer.json among its files",
                fix="put one there, or give token ids to `complete_ids`",
            )
        return self.tokenizer

    @overload
    def generate(self, prompt: str, **sampling: Any) -> str: ...
    @overload
    def generate(self, prompt: list[str], **sampling: Any) -> list[str]: ...

    def generate(self, prompt: str | list[str], **sampling: Any) -> str | list[str]:
        """Continue a text, or several at once. An empty prompt begins a new text."""
        if not isinstance(prompt, str | list | tuple):
            raise _no_text(prompt)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        texts = [done.text for done in self.complete(prompts, parse_sampling(sampling))]
        return texts[0] if isinstance(prompt, str) else texts

    def complete(
        self, prompts: Sequence[str], sampling: Sampling, *, logprobs: bool = False
    ) -> list[Completion]:
        """Like `generate`, with ids, reason of the end and, if asked, log-probabilities."""
        ids = [self.encode_prompt(text) for text in prompts]
        return self.complete_ids(ids, sampling, logprobs=logprobs)

    def complete_ids(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, logprobs: bool = False
    ) -> list[Completion]:
        """Continue prompts that are already token ids."""
        from langwright.generate import calls  # the engine knows this module

        if logprobs and sampling.logprobs is None:
            sampling = sampling.replace(logprobs=0)
        completions = calls.complete(self, prompts, sampling)
        for index, done in enumerate(completions):
            of = f" {index + 1}" if len(prompts) > 1 else ""
            self._tell_cropped(f"prompt{of}", len(prompts[index]), done.cropped)
            if done.finish_reason == "length":
                self._tell_short(f"answer{of}", len(done.ids), sampling)
        return completions

    def stream(self, prompt: str, **sampling: Any) -> Iterator[str]:
        """Like `generate`, giving the text as it comes, in whole characters."""
        return self._stream(self.encode_prompt(prompt), parse_sampling(sampling))

    def chat(self, messages: str | Sequence[Message], **sampling: Any) -> str:
        """The assistant's answer to ``[{"role": "user", "content": "..."}, ...]``.

        A text alone is one message of the user.
        """
        settings = parse_sampling(sampling)
        return self.complete_ids([self.encode_conversation(messages, settings)], settings)[0].text

    def chat_stream(self, messages: str | Sequence[Message], **sampling: Any) -> Iterator[str]:
        """Like `chat`, giving the text as it comes."""
        settings = parse_sampling(sampling)
        return self._stream(self.encode_conversation(messages, settings), settings)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt: ordinary text, after the beginning token where the tokenizer has one."""
        if not isinstance(text, str):
            raise _no_text(text)
        ids = self.text_tokenizer.encode(text)
        bos = self.text_tokenizer.bos_id
        return ids if bos is None else [bos, *ids]

    def encode_conversation(
        self, messages: str | Sequence[Message], sampling: Sampling
    ) -> list[int]:
        """Ids of a conversation, its oldest turns dropped where it does not fit the context.

        Room for the answer is kept free: max_tokens, but at most half the context.
        """
        context = self.config.context_length
        room = min(sampling.max_tokens, context // 2)
        ids, dropped = conversation_prompt(
            self.text_tokenizer, _conversation(messages), context - room
        )
        if dropped:
            self.notice(
                f"the {dropped} oldest messages were left out: the conversation is longer than the "
                f"model's context of {context} tokens"
            )
        return ids

    def _stream(self, ids: Sequence[int], sampling: Sampling) -> Iterator[str]:
        from langwright.generate import calls

        cropped = cropped_tokens(len(ids), sampling.max_tokens, self.config.context_length)
        self._tell_cropped("prompt", len(ids), cropped)
        for count, event in enumerate(calls.events(self, ids, sampling), start=1):
            if event.text:
                yield event.text
            if event.finish_reason == "length":
                self._tell_short("answer", count, sampling)

    def _tell_cropped(self, what: str, length: int, cropped: int) -> None:
        if cropped > 0:
            self.notice(
                f"the {what} of {length} tokens does not fit the model's context of "
                f"{self.config.context_length}: its first {cropped} tokens were left out"
            )

    def _tell_short(self, what: str, length: int, sampling: Sampling) -> None:
        if length < sampling.max_tokens:
            self.notice(
                f"the {what} was cut short after {length} of at most {sampling.max_tokens} tokens: "
                f"the model's context of {self.config.context_length} is full"
            )


def load(
    folder: str | Path, device: str | None = None, dtype: str | torch.dtype | None = None
) -> LanguageModel:
    """Open a model with its tokenizer.

    Args:
        folder: a Hugging Face model folder, OpenAI's files of a GPT-2, a .gguf file, or a run
            (its fine-tuned model, else its base model). Without a tokenizer among its files,
            `LanguageModel.tokenizer` is None.
        device: "cpu", "cuda", "mps"; None or "auto" takes the fastest there is.
        dtype: "fp32", "bf16", "fp16" or a torch dtype; None takes bf16 on CUDA, else fp32 (on a
            CPU one token at a time is bound by memory and small models lose nothing).
    """
    path = model_in(folder)
    device = resolve_device(device)
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise UserError("unknown number type", found=dtype, expected=", ".join(DTYPES))
        dtype = DTYPES[dtype]
    if dtype is None:
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    return LanguageModel(*load_parts(path, device=device, dtype=dtype))


def resolve_device(device: str | None) -> str:
    """The device that was asked for, if this machine has it; None or "auto": the fastest."""
    if device is None or device == "auto":
        return machine().device
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.partition(":")[0], False):
        usable = ", ".join(name for name, is_there in there.items() if is_there)
        raise UserError(
            "no such device on this machine", where="device", found=device, expected=usable
        )
    return device


def _conversation(messages: object) -> Sequence[Message]:
    """What was given as a conversation; a text alone is one message of the user."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, Sequence) and all(isinstance(each, Mapping) for each in messages):
        return messages
    raise UserError(
        "this is no conversation",
        found=repr(messages),
        expected='a text, or [{"role": "user", "content": "..."}, ...]',
    )


def _no_text(found: object) -> UserError:
    return UserError(
        "a prompt must be a text",
        found=repr(found),
        expected="a str, or a list of them",
        fix="token ids are for `complete_ids`",
    )


def parse_sampling(values: dict[str, Any]) -> Sampling:
    """Settings given as keywords; a wrong one is a `UserError` that names it."""
    return Sampling.parse(values, where="sampling")
