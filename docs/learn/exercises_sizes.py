"""Exercises of chapter 4: where the parameters are (4.1), GPT-2's sizes (4.2), three rates (4.3).

Nothing is trained and, but for 4.3, nothing is computed: a model on the "meta" device has shapes
and no numbers, so that the largest GPT-2 is counted in a moment.

    python docs/learn/exercises_sizes.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from book_weights import production_config
from figures import Figure, close, show
from story_fixture import CHAPTER_4, Block
from torch import Tensor, nn

from langwright.model import (
    ModelConfig,
    Transformer,
    build_model,
    model_config,
    parameter_count,
    weight_bytes,
)


def size(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def r6_feedforward_and_attention() -> Iterator[Figure]:
    """Exercise 4.1: of one block's parameters two thirds are the feed-forward's."""
    d = CHAPTER_4.width
    with torch.device("meta"):
        block = Block(CHAPTER_4)
    yield close("R6 feed-forward", size(block.feedforward), 4_722_432)
    yield close("R6 feed-forward by formula", 8 * d**2 + 5 * d, 4_722_432)
    yield close("R6 attention", size(block.attention), 2_360_064)
    yield close("R6 attention by formula", 4 * d**2 + d, 2_360_064)
    yield close("R6 block with its two norms", size(block), 7_085_568)
    config = production_config(CHAPTER_4)
    with torch.device("meta"):
        ours = Transformer(config).blocks[0]
    yield close(
        "R6 Langwright's block",
        [size(ours.feedforward), size(ours.attention), size(ours)],
        [4_722_432, 2_360_064, 7_085_568],
    )
    counts = parameter_count(config)
    layers = CHAPTER_4.layers
    yield close(
        "R6 counted from the config alone",
        [counts.feedforward, counts.attention],
        [layers * 4_722_432, layers * 2_360_064],
    )


# preset: width, layers, heads; parameters untied without qkv bias, tied without, tied with (the
# published GPT-2); MiB of the first in fp32.
SIZES = {
    "gpt2-124m": (768, 12, 12, 163_009_536, 124_412_160, 124_439_808, 621.83),
    "gpt2-355m": (1024, 24, 16, 406_212_608, 354_749_440, 354_823_168, 1549.58),
    "gpt2-774m": (1280, 36, 20, 838_220_800, 773_891_840, 774_030_080, 3197.56),
    "gpt2-1558m": (1600, 48, 25, 1_637_792_000, 1_557_380_800, 1_557_611_200, 6247.68),
}


def r7_bigger_models() -> Iterator[Figure]:
    """Exercise 4.2: medium, large and XL by changing the config and nothing else."""
    for name, (width, layers, heads, untied, tied, published, mib) in SIZES.items():
        config = model_config({"preset": name})
        shape = [config.width, config.layers, config.heads]
        yield close(f"R7 {name}: width, layers, heads", shape, [width, layers, heads])
        forms = {
            "as published": (config, published),
            "without qkv bias": (config.model_copy(update={"qkv_bias": False}), tied),
            "and untied": (config.model_copy(update={"qkv_bias": False, "tied": False}), untied),
        }
        for form, (variant, expected) in forms.items():
            with torch.device("meta"):
                built = size(Transformer(variant))
            counted = parameter_count(variant).total
            yield close(f"R7 {name} {form}: built, counted", [built, counted], [expected] * 2)
        memory = weight_bytes(forms["and untied"][0]) / 2**20
        yield close(f"R7 {name} and untied: MiB", memory, mib, 0.005)


RATE = 0.5
SITES = ("dropout_embedding", "dropout_attention", "dropout_residual")


def r8_three_rates() -> Iterator[Figure]:
    """Exercise 4.3: a rate for embeddings, one for attention weights, one for the shortcuts.

    One is on at a time; each must zero half of the values at its own place and none elsewhere.
    """
    for site in SITES:
        found = dropped_shares(site)
        for place, share in found.items():
            expected = RATE if place == site else 0.0
            yield close(
                f"R8 only {site}: dropped of {place}", share, expected, 0.05 * (expected > 0)
            )


def dropped_shares(site: str) -> dict[str, float]:
    """With dropout at `site` only: the share of values that are zero at each of the three places.

    Embeddings: the input of the first block. Attention: the first token sees itself alone, with
    weight 1, so its mixed values are zero where that weight was dropped. Residual: what a block
    adds to its input in each of its two halves.
    """
    config = ModelConfig(
        vocab_size=50,
        context_length=8,
        width=32,
        layers=1,
        heads=16,
        position="learned",
        norm="layernorm",
        norm_bias=True,
        **{site: RATE},
    )
    model = build_model(config).train()
    for parameter in model.parameters():  # no zeros of their own: matrices may start at zero
        nn.init.normal_(parameter)
    seen: dict[str, Tensor] = {}
    block = model.blocks[0]
    block.register_forward_pre_hook(lambda _, args: seen.update(start=args[0]))
    block.attention.out.register_forward_pre_hook(lambda _, args: seen.update(mixed=args[0]))
    block.feedforward_norm.register_forward_pre_hook(lambda _, args: seen.update(middle=args[0]))
    block.register_forward_hook(lambda _, args, output: seen.update(end=output))
    torch.manual_seed(123)
    with torch.no_grad():
        model(torch.randint(50, (256, 8)))
    added = torch.cat([seen["middle"] - seen["start"], seen["end"] - seen["middle"]])
    places = zip(SITES, (seen["start"], seen["mixed"][:, 0], added))
    return {place: float((values == 0).float().mean()) for place, values in places}


if __name__ == "__main__":
    sys.exit(show(r6_feedforward_and_attention(), r7_bigger_models(), r8_three_rates()))
