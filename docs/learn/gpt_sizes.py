"""How many parameters a GPT has, by hand and by counting.

A block of width D has 12 D^2 + 10 D: attention 4 D^2 + D (and 3 D with biases on queries, keys
and values), feed-forward 8 D^2 + 5 D, two norms 4 D. The tables add V D for the tokens, C D for the
places and, unless the head shares the tokens' matrix, V D for the head.

    python docs/learn/gpt_sizes.py               # next: story_fixture.py, the whole GPT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from book_weights import production_config
from figures import Figure, close, show
from story_fixture import BookConfig, BookGPT

from langwright.model import Transformer, model_config, parameter_count, weight_bytes

MIB = 2**20
SIZES = {  # name -> width, layers, heads
    "gpt2-124m": (768, 12, 12),
    "gpt2-355m": (1024, 24, 16),
    "gpt2-774m": (1280, 36, 20),
    "gpt2-1558m": (1600, 48, 25),
}
# Untied without biases on q, k, v; tied without; tied with: the true GPT-2; MiB of the first, fp32.
PRINTED = {
    "gpt2-124m": (163_009_536, 124_412_160, 124_439_808, 621.83),
    "gpt2-355m": (406_212_608, 354_749_440, 354_823_168, 1549.58),
    "gpt2-774m": (838_220_800, 773_891_840, 774_030_080, 3197.56),
    "gpt2-1558m": (1_637_792_000, 1_557_380_800, 1_557_611_200, 6247.68),
}


def by_formula(book: BookConfig, tied: bool) -> int:
    """Parameters of a GPT, from its sizes alone."""
    d, v = book.width, book.vocab_size
    attention = 4 * d**2 + d + book.qkv_bias * 3 * d
    block = attention + (8 * d**2 + 5 * d) + 4 * d
    final_norm = 2 * d
    return (1 if tied else 2) * v * d + book.context_length * d + book.layers * block + final_norm


def book_sizes(name: str, **more: int) -> BookConfig:
    """The book's config of one of GPT-2's four sizes."""
    width, layers, heads = SIZES[name]
    return BookConfig(width=width, layers=layers, heads=heads, **more)


def counted(book: BookConfig, tied: bool) -> int:
    """Parameters of the book's model and, equal to it, of Langwright's, both built on the meta
    device, where tensors have a shape and no memory."""
    with torch.device("meta"):
        model = BookGPT(book)
        library = Transformer(production_config(book).model_copy(update={"tied": tied}))
    total = sum(p.numel() for p in model.parameters())
    total -= model.head.weight.numel() if tied else 0  # the book counts the tied model so
    if sum(p.numel() for p in library.parameters()) != total:
        raise AssertionError("Langwright's transformer has another number of parameters")
    return total


def part_figures() -> Iterator[Figure]:
    """One block of the smallest, part by part; and its tables."""
    with torch.device("meta"):
        model = BookGPT(BookConfig())
        biased = BookGPT(BookConfig(qkv_bias=True, layers=1))
    block = model.blocks[0]
    parts = [block.attention, block.feedforward, block, biased.blocks[0]]
    found = [sum(p.numel() for p in part.parameters()) for part in parts]
    printed = [2_360_064, 4_722_432, 7_085_568, 7_087_872]
    yield close("attention, feed-forward, block, block with qkv bias", found, printed)
    matrices = [model.tokens.weight, model.head.weight, model.positions.weight]
    yield close("tokens, head, places", [m.numel() for m in matrices], [38_597_376] * 2 + [786_432])
    yield close("the head alone, MiB", matrices[1].numel() * 4 / MIB, 147.24, 0.0051)
    yield close(
        "a matrix of 2048 x 2048", torch.empty(2048, 2048, device="meta").numel(), 4_194_304
    )


def size_figures(name: str) -> Iterator[Figure]:
    """One size: the modules counted, the formula, and Langwright's `parameter_count`."""
    plain, biased = book_sizes(name), book_sizes(name, qkv_bias=True)
    untied, tied, true, mib = PRINTED[name]
    found = [counted(plain, False), counted(plain, True), counted(biased, True)]
    yield close(f"{name}: untied, tied, tied with qkv bias", found, [untied, tied, true])
    found = [by_formula(plain, False), by_formula(plain, True), by_formula(biased, True)]
    yield close(f"{name}: by formula", found, [untied, tied, true])
    preset, book = model_config({"preset": name}), production_config(plain)
    found = [parameter_count(book).total, parameter_count(preset).total]
    yield close(f"{name}: langwright.model.parameter_count", found, [untied, true])
    yield close(f"{name}: MiB of weights in fp32", weight_bytes(book) / MIB, mib, 0.0051)


def figures() -> Iterator[Figure]:
    """Parts, the four sizes, a shorter context, and GPT-3."""
    yield from part_figures()
    for name in SIZES:
        yield from size_figures(name)
    short = book_sizes("gpt2-124m", context_length=256)
    found = [counted(short, False), counted(short, True)]
    yield close("context 256: untied, tied", found, [162_419_712, 123_822_336])
    gpt3 = BookConfig(context_length=2048, width=12288, layers=96, heads=96)
    yield close("GPT-3: 12 L D^2, in billions", 12 * 96 * 12288**2 / 1e9, 173.9, 0.051)
    yield close(
        "GPT-3 with embeddings, in billions", by_formula(gpt3, tied=True) / 1e9, 174.6, 0.051
    )


if __name__ == "__main__":
    sys.exit(show(figures()))
