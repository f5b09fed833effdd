"""How tokens are written in log-probabilities."""

from __future__ import annotations

from functools import lru_cache

from langwright.serve.replies import ChatToken, TopToken
from langwright.tokenizer import Tokenizer


class TokenTexts:
    """Texts of single tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._names = {number: name for name, number in tokenizer.special_tokens.items()}
        self.raw = lru_cache(maxsize=65_536)(self._raw)

    def _raw(self, token: int) -> bytes:
        """The bytes a token stands for; special ones by their name."""
        name = self._names.get(token)
        if name is not None:
            return name.encode()
        if token >= self._tokenizer.vocab_size:  # the output layer may be padded
            return b""
        return self._tokenizer.token_bytes(token)

    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(len(self._raw(token)) for token in range(self._tokenizer.vocab_size))

    def special(self, token: int) -> str | None:
        """The name of a special token; None for others."""
        return self._names.get(token)

    def text(self, token: int) -> str:
        """For people: pieces of characters as U+FFFD."""
        return self.raw(token).decode("utf-8", "replace")

    def unique(self, token: int) -> str:
        """As OpenAI's completions write it: pieces of characters as ``bytes:\\xe2\\x82``, so that
        different tokens stay different."""
        raw = self.raw(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chat_token(self, token: int, logprob: float, top: list[tuple[int, float]]) -> ChatToken:
        """A token with its log-probability, as in chats."""
        return ChatToken(
            token=self.text(token),
            bytes=list(self.raw(token)),
            logprob=finite(logprob),
            top_logprobs=[
                TopToken(token=self.text(one), bytes=list(self.raw(one)), logprob=finite(value))
                for one, value in top
            ],
        )


def finite(logprob: float) -> float:
    """JSON has no infinity: OpenAI writes -9999 for the impossible."""
    return max(logprob, -9999.0)
