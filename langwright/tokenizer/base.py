"""What every kind of tokenizer offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from langwright.base import UserError
from langwright.tokenizer.chat import CHATML, ChatTemplate, ChatTokens, encode_pieces
from langwright.tokenizer.special import (
    END_OF_TURN,
    IM_END,
    IM_START,
    Allowed,
    Specials,
    allowed_names,
    repair,
    split_special,
)


class Tokenizer(ABC):
    """Text to ids and back. Ids are 0..vocab_size-1, special tokens included.

    Lone surrogates in a text are replaced by U+FFFD, in every kind.
    """

    #: ``"bpe"``, ``"char"``, ``"word"``, ``"unigram"``, ``"wordpiece"`` or ``"library"``.
    kind: str
    #: True if decoding joins the bytes of the tokens, so that nothing depends on the neighbours.
    joins_bytes: ClassVar[bool] = True

    def __init__(
        self, vocab_size: int, specials: Specials, chat_template: str | None = None
    ) -> None:
        self.vocab_size = vocab_size
        self.specials = specials
        self.special_tokens: dict[str, int] = dict(specials.ids)
        self._special_ids = {number: name for name, number in specials.ids.items()}
        has_chat_marks = IM_START in specials.ids and IM_END in specials.ids
        self.chat_template = chat_template or (CHATML if has_chat_marks else None)

    @abstractmethod
    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of `text` (already free of lone surrogates); no special token comes out."""

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that stand for one id (part of a character, perhaps)."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The content of ``tokenizer.json``."""

    # Special tokens

    @property
    def bos_id(self) -> int | None:
        """Id of the mark at the beginning of a document, if there is one."""
        return self.specials.id_of(self.specials.bos)

    @property
    def eos_id(self) -> int | None:
        """Id of the mark between documents, if there is one."""
        return self.specials.id_of(self.specials.eos)

    @property
    def pad_id(self) -> int | None:
        """Id of the padding mark, if there is one."""
        return self.specials.id_of(self.specials.pad)

    @property
    def stop_ids(self) -> list[int]:
        """Ids at which generation ends: the document separator and the ends of a turn."""
        ends = [self.special_tokens[name] for name in END_OF_TURN if name in self.special_tokens]
        eos = [] if self.eos_id is None else [self.eos_id]
        return list(dict.fromkeys(eos + ends))

    # Text to ids

    def encode(self, text: str, *, allowed_special: Allowed = ()) -> list[int]:
        """Ids of `text`. Special tokens written in it are ordinary text unless allowed."""
        names = allowed_names(allowed_special, self.special_tokens)
        ids: list[int] = []
        for part in split_special(repair(text), names, self.special_tokens):
            if isinstance(part, int):
                ids.append(part)
            elif ids:
                ids.extend(self.encode_inside(part, after_special=True))
            else:
                ids.extend(self.encode_ordinary(part))
        return ids

    def encode_inside(self, text: str, *, after_special: bool) -> list[int]:
        """Ids of ordinary text that does not begin the whole, but follows a special token or
        other text. Only vocabularies that mark a beginning (SentencePiece) tell the difference."""
        return self.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of many texts, as uint32 arrays; special tokens are ordinary text."""
        return [np.asarray(self.encode_ordinary(repair(text)), dtype=np.uint32) for text in texts]

    # Ids to text

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """The bytes that `ids` stand for."""
        skip = self._special_ids if skip_special else {}
        return b"".join(self.token_bytes(int(one)) for one in ids if int(one) not in skip)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text that `ids` stand for; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")

    def check_id(self, token_id: int) -> None:
        """Raise a `UserError` unless `token_id` is one of ours."""
        if not 0 <= token_id < self.vocab_size:
            raise UserError(
                "no such token id", found=token_id, expected=f"0 to {self.vocab_size - 1}"
            )

    # Conversations

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> ChatTokens:
        """Ids of a conversation, and which of them the assistant wrote.

        Args:
            messages: ``{"role": "system" | "user" | "assistant", "content": str}`` each.
            add_generation_prompt: end with the beginning of an assistant's turn.

        Contents are ordinary text: nothing written in them becomes a control token. ``mask`` is
        True on the assistant's tokens, the end of its turn included.
        """
        pieces = self._chat.pieces(messages, add_generation_prompt=add_generation_prompt)
        return encode_pieces(
            pieces,
            self.encode_ordinary,
            self.encode_inside,
            self.special_tokens,
            frozenset(self.stop_ids),
        )

    @cached_property
    def _chat(self) -> ChatTemplate:
        if self.chat_template is None:
            raise UserError(
                "this tokenizer has no chat template",
                found="special tokens " + (", ".join(self.special_tokens) or "none"),
                expected=f"a template, or the special tokens {IM_START} and {IM_END}",
                fix="train it with special_tokens that hold these two",
            )
        names = {"bos_token": self.specials.bos, "eos_token": self.specials.eos}
        return ChatTemplate(self.chat_template, {key: name or "" for key, name in names.items()})

    # Files

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` into `folder`."""
        from langwright.tokenizer.files import save_tokenizer

        save_tokenizer(self, Path(folder))

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kind={self.kind!r}, vocab_size={self.vocab_size})"

    def __getstate__(self) -> dict[str, Any]:
        """State for other processes: what is built at first use (encoders) stays behind."""
        built = [
            name
            for cls in type(self).__mro__
            for name, value in vars(cls).items()
            if isinstance(value, cached_property)
        ]
        return {name: value for name, value in self.__dict__.items() if name not in built}
