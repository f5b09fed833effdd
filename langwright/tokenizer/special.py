"""Special tokens: control marks that ordinary text can never become.

The string of a special token inside a text is ordinary text. It becomes the token's id only where
the caller names it as allowed; what a user typed is never given that permission.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from langwright.base import UserError

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
PAD = "<|pad|>"
UNKNOWN = "<|unk|>"

CHAT_SPECIALS = (END_OF_TEXT, IM_START, IM_END, PAD)

# Marks that end a turn in the chat formats in use; generation stops at those a tokenizer has.
END_OF_TURN = (IM_END, "<|eot_id|>", "<end_of_turn>", "<|end|>")

Allowed = Collection[str] | Literal["all"]


@dataclass(frozen=True)
class Specials:
    """Special tokens by name, and which of them play a part.

    `unknown` stands for what the vocabulary lacks (word and character kinds).
    """

    ids: Mapping[str, int] = field(default_factory=dict)
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unknown: str | None = None

    def __post_init__(self) -> None:
        for part in ("bos", "eos", "pad", "unknown"):
            name = getattr(self, part)
            if name is not None and name not in self.ids:
                raise UserError(
                    f"the {part} token is not among the special tokens",
                    found=name,
                    expected=", ".join(self.ids) or "no special tokens",
                )
        if "" in self.ids:
            raise UserError("a special token must not be the empty string")

    @classmethod
    def numbered(
        cls,
        names: Collection[str],
        first_id: int,
        *,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        unknown: str | None = None,
    ) -> Specials:
        """Number `names` from `first_id` on. Parts not named take the usual mark if it is there."""
        names = list(names)
        if len(set(names)) != len(names):
            raise UserError("a special token is listed twice", found=", ".join(names))
        ids = {name: first_id + index for index, name in enumerate(names)}
        eos = eos if eos is not None else (END_OF_TEXT if END_OF_TEXT in ids else None)
        pad = pad if pad is not None else (PAD if PAD in ids else None)
        return cls(ids, bos=bos, eos=eos, pad=pad, unknown=unknown)

    def id_of(self, name: str | None) -> int | None:
        """The id of the special token called `name`."""
        return None if name is None else self.ids[name]


def allowed_names(allowed: Allowed, known: Mapping[str, int]) -> list[str]:
    """The special tokens a caller allows; a name we do not have is a `UserError`."""
    if allowed == "all":
        return list(known)
    if isinstance(allowed, str):
        raise UserError(
            "allowed_special is a collection of names or 'all'",
            found=repr(allowed),
            fix=f"write allowed_special={{{allowed!r}}}",
        )
    for name in allowed:
        if name not in known:
            raise UserError(
                "no such special token", found=name, expected=", ".join(known) or "there are none"
            )
    return list(allowed)


def split_special(text: str, names: Collection[str], ids: Mapping[str, int]) -> Iterator[str | int]:
    """Cut `text` at the allowed special tokens: ordinary stretches (str) and ids (int)."""
    if not names:
        if text:
            yield text
        return
    longest_first = sorted(names, key=len, reverse=True)
    finder = re.compile("|".join(map(re.escape, longest_first)))
    start = 0
    for match in finder.finditer(text):
        if match.start() > start:
            yield text[start : match.start()]
        yield ids[match.group()]
        start = match.end()
    if start < len(text):
        yield text[start:]


def repair(text: str) -> str:
    """`text` with lone surrogates replaced by U+FFFD and surrogate pairs joined.

    Such code units have no UTF-8 form, so no tokenizer could give them back.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
