"""Reading: three kinds of transformer, told apart by who may see whom; and why ours is one of them.

Encoder (BERT, Devlin et al. 2018, arXiv:1810.04805): every token sees every token. Some words of a
text are hidden, usually 15 %, and the model fills them in. Good for classifying and for searching;
it cannot write a text from left to right.

Encoder-decoder (Vaswani et al. 2017; T5, arXiv:1910.10683): the source is read both ways, the
answer is written from left to right and looks at all of the source. Made for translation. Two
stacks; a conversation has to be cut into "source" and "answer" at each turn.

Decoder only (GPT): one text, each token sees what came before. Every token is a lesson, question
and answer are parts of one row, and the cache of keys and values stays valid as the text grows.
One simple shape serves pretraining, chat and tools; that is why GPT, Llama, Qwen, Gemma and
Langwright have it.

    python docs/learn/reading_decoder_only.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from torch import Tensor

from langwright.model import attend, causal_mask

LENGTH, SOURCE = 6, 3  # tokens in a row; of them the source's, in an encoder-decoder
HIDDEN_SHARE = 0.15


def masks() -> dict[str, Tensor]:
    """Who (row) sees whom (column): bool (T, T) each."""
    both_ways = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    prefix = causal_mask(LENGTH, LENGTH).clone()
    prefix[:, :SOURCE] = True  # all see the source
    return {"encoder": both_ways, "encoder-decoder": prefix, "decoder": causal_mask(LENGTH, LENGTH)}


def picture(mask: Tensor) -> str:
    """The mask as text: # sees, . does not."""
    return "\n".join("    " + " ".join("#" if one else "." for one in row) for row in mask.tolist())


def sees_what_it_should_name(mask: Tensor) -> list[bool]:
    """For each position t < T: does its attention output depend on token t + 1?"""
    torch.manual_seed(0)
    x = torch.randn(1, 1, LENGTH, 8)
    before, leaks = attend(x, x, x, mask[None, None]), []
    for position in range(LENGTH - 1):
        changed = x.clone()
        changed[..., position + 1, :] += 1.0
        after = attend(changed, changed, changed, mask[None, None])
        difference = (after - before)[0, 0, position].abs().max()
        leaks.append(bool(difference > 1e-6))
    return leaks


def lessons(kind: str, tokens: int) -> float:
    """Predictions that a text of `tokens` tokens trains, half of it source where there is one."""
    return tokens * {"encoder": HIDDEN_SHARE, "encoder-decoder": 0.5, "decoder": 1.0}[kind]


def figures() -> Iterator[Figure]:
    """The three masks, what they leak, and what a text of 1000 tokens teaches."""
    expected_pairs = {"encoder": 36, "encoder-decoder": 24, "decoder": 21}
    expected_leaks = {
        "encoder": [True] * 5,
        "encoder-decoder": [True, True, False, False, False],
        "decoder": [False] * 5,
    }
    for kind, mask in masks().items():
        print(f"{kind}:\n{picture(mask)}")
        yield close(f"{kind}: pairs that see each other", mask.sum(), expected_pairs[kind])
        leaks = sees_what_it_should_name(mask)
        yield close(f"{kind}: sees the token it would have to name", leaks, expected_leaks[kind])
    taught = [lessons(kind, 1000) for kind in masks()]
    yield close("lessons in 1000 tokens", taught, [150, 500, 1000])
    x = torch.randn(1, 1, LENGTH, 8)
    default = attend(x, x, x, None)
    decoder = attend(x, x, x, masks()["decoder"][None, None])
    yield same("langwright.model.attend without a mask is the decoder", default, decoder)


if __name__ == "__main__":
    sys.exit(show(figures()))
