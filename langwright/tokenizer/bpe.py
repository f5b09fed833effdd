"""Byte-level byte-pair encoding: any text, no unknown tokens, exact round trip."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from langwright.base import UserError
from langwright.tokenizer.base import Tokenizer
from langwright.tokenizer.byte_alphabet import to_characters
from langwright.tokenizer.encoders import Encoder, make_encoder
from langwright.tokenizer.hf_json import added_tokens, byte_level_decoder, byte_level_splitter
from langwright.tokenizer.merging import merges_of
from langwright.tokenizer.patterns import named_pattern
from langwright.tokenizer.special import CHAT_SPECIALS, Specials, repair

LARGEST_ID = 2**22  # of a file from a stranger: tables of tokens are as long as the largest id


class BytePairTokenizer(Tokenizer):
    """Byte-level BPE as in GPT-2 (Radford et al. 2019) and all that came after it.

    Args:
        ranks: token bytes to id. Holds all 256 single bytes; the ids of longer tokens grow in the
            order of the merges that made them.
        pattern: the split pattern (a regular expression, see `patterns`).
        specials: the special tokens, with ids that `ranks` leaves free.
        chat_template: Jinja; ChatML if None and the marks of ChatML are there.
        encoder: ``"tiktoken"``, ``"tokenizers"`` or ``"regex"``; the fastest installed if None.
    """

    kind: str = "bpe"

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        pattern: str,
        specials: Specials | None = None,
        *,
        chat_template: str | None = None,
        encoder: str | None = None,
    ) -> None:
        specials = specials or Specials()
        self.ranks = dict(ranks)
        self.pattern = pattern
        missing = [value for value in range(256) if bytes([value]) not in self.ranks]
        if missing:
            raise UserError("a byte-level vocabulary holds all 256 bytes", found=f"no {missing[0]}")
        self.merges = merges_of(self.ranks)
        by_id = {number: token for token, number in self.ranks.items()}
        by_id.update({number: name.encode("utf-8") for name, number in specials.ids.items()})
        size = max(by_id) + 1
        if len(by_id) != len(self.ranks) + len(specials.ids) or min(by_id) < 0:
            raise UserError("two tokens share one id, or an id is negative")
        if size > LARGEST_ID + 1:
            raise UserError("a token's id is far too large", found=size - 1, expected=LARGEST_ID)
        super().__init__(size, specials, chat_template)
        # An id that no token has (some vocabularies leave gaps) stands for nothing.
        self._bytes = [by_id.get(number, b"") for number in range(size)]
        self._encoder_name = encoder

    @classmethod
    def from_merges(
        cls,
        merges: Sequence[tuple[bytes, bytes]],
        pattern: str = "qwen2",
        special_tokens: Collection[str] = CHAT_SPECIALS,
        *,
        pad_to_multiple: int = 1,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
    ) -> BytePairTokenizer:
        """From trained merges: ids are the 256 bytes, the merges, then the special tokens.

        The vocabulary is filled up to a multiple of `pad_to_multiple` with reserved special
        tokens, free for later use.
        """
        ranks = {bytes([value]): value for value in range(256)}
        for left, right in merges:
            ranks[left + right] = len(ranks)
        names = list(special_tokens)
        names += reserved(len(ranks) + len(names), pad_to_multiple)
        specials = Specials.numbered(names, len(ranks), bos=bos, eos=eos, pad=pad)
        return cls(ranks, named_pattern(pattern), specials)

    @cached_property
    def encoder(self) -> Encoder:
        """The engine that encodes; built at first use."""
        return make_encoder(self.ranks, self.pattern, self.to_json(), self._encoder_name)

    def encode_ordinary(self, text: str) -> list[int]:
        return self.encoder.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self.encoder.encode_batch([repair(text) for text in texts])

    def token_bytes(self, token_id: int) -> bytes:
        self.check_id(token_id)
        return self._bytes[token_id]

    def truncated(self, size: int) -> BytePairTokenizer:
        """The vocabulary of `size` ids that the same training would have stopped at before.

        Byte-pair vocabularies are nested: a smaller one is the beginning of a larger one. The
        special tokens are kept, so `size` counts them.
        """
        keep = size - len(self.special_tokens)
        if not 256 <= keep <= len(self.ranks):
            raise UserError(
                "cannot cut the vocabulary to this size",
                found=size,
                expected=f"{256 + len(self.special_tokens)} to "
                f"{len(self.ranks) + len(self.special_tokens)}",
            )
        kept = sorted(self.ranks.items(), key=lambda item: (len(item[0]) > 1, item[1]))[:keep]
        ranks = {token: number for number, (token, _) in enumerate(kept)}
        ids = {name: keep + index for index, name in enumerate(self.special_tokens)}
        old = self.specials
        specials = Specials(ids, bos=old.bos, eos=old.eos, pad=old.pad)
        return BytePairTokenizer(ranks, self.pattern, specials, chat_template=self.chat_template)

    def to_json(self) -> dict[str, Any]:
        vocabulary = {to_characters(token): number for token, number in self.ranks.items()}
        if any(number < len(vocabulary) for number in self.special_tokens.values()):
            # The library numbers a special token after all others unless it stands here too.
            vocabulary |= self.special_tokens
        merges = [[to_characters(left), to_characters(right)] for left, right in self.merges]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added_tokens(self.special_tokens),
            "normalizer": None,
            "pre_tokenizer": byte_level_splitter(self.pattern),
            "post_processor": None,
            "decoder": byte_level_decoder(),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": vocabulary,
                "merges": merges,
            },
        }


def reserved(size: int, multiple: int) -> list[str]:
    """Names of the special tokens that fill `size` ids up to a multiple."""
    return [f"<|reserved_{index}|>" for index in range(-size % multiple)]
