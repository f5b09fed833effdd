"""The block: attention and feed-forward, each with a norm, dropout and a shortcut.

GPT-2 normalises what goes into each branch (pre-norm), so that the shortcuts form one clear path
from the first layer to the last; a last norm follows the last block. The first transformer
normalised each sum (post-norm), which trains less steadily. Some later designs mix the two:
ResiDual keeps one stream of each kind (arXiv:2304.14802); Gemma norms both sides of each branch.
The three places for dropout (after the embedding, on attention's weights, on each branch) have
rates of their own.

    python docs/learn/transformer_block.py       # next: gpt_sizes.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import torch
from book_weights import NAMES
from figures import Figure, close, same, show
from story_fixture import Block, BookConfig
from torch import Tensor, nn

from langwright.model import ModelConfig, Transformer, build_model

SMALL = BookConfig(vocab_size=50, context_length=16, width=24, heads=3, layers=1, dropout=0.1)
IDS = torch.arange(20).view(2, 10)


def pre_norm(block: Block, x: Tensor) -> Tensor:
    """x + attention(norm(x)), then x + feedforward(norm(x))."""
    x = x + block.dropout(block.attention(block.norm1(x)))
    return x + block.dropout(block.feedforward(block.norm2(x)))


def post_norm(block: Block, x: Tensor) -> Tensor:
    """norm(x + attention(x)), then norm(x + feedforward(x))."""
    x = block.norm1(x + block.dropout(block.attention(x)))
    return block.norm2(x + block.dropout(block.feedforward(x)))


def sandwich_norm(block: Block, outer: tuple[nn.Module, nn.Module], x: Tensor) -> Tensor:
    """x + norm(attention(norm(x))), then the same with the feed-forward (Gemma 2)."""
    x = x + outer[0](block.dropout(block.attention(block.norm1(x))))
    return x + outer[1](block.dropout(block.feedforward(block.norm2(x))))


def small_model(placement: str, **rates: float) -> Transformer:
    """Langwright's transformer with one block of the book's kind."""
    fields = {"position": "learned", "norm": "layernorm", "norm_bias": True, "tied": False}
    fields |= {"feedforward": "gelu_tanh", "feedforward_bias": True, "attention_out_bias": True}
    sizes = {"vocab_size": 50, "context_length": 16, "width": 24, "heads": 3, "layers": 1}
    return build_model(ModelConfig.parse({**fields, **sizes, "norm_placement": placement, **rates}))


def through_block(model: Transformer) -> tuple[Tensor, Tensor]:
    """What the first block is given, and what it returns: (B, T, D) each."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = model.blocks[0].register_forward_hook(
        lambda block, inputs, output: seen.append((inputs[0], output))
    )
    model(IDS)
    handle.remove()
    return seen[0]


def library_name(name: str) -> str:
    """The name that a parameter of the book's block has in Langwright's."""
    return ".".join(NAMES.get(part, part) for part in name.split("."))


def shaken_block() -> Block:
    """The book's block with norms and biases away from 1 and 0, in eval mode."""
    torch.manual_seed(123)
    block = Block(SMALL).eval()
    for parameter in block.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return block


def shape_figures() -> Iterator[Figure]:
    """GPT-2's block: the shape that goes in comes out."""
    torch.manual_seed(123)
    block, x = Block(BookConfig()), torch.rand(2, 4, 768)
    yield close("shape in and out", block(x).shape, [2, 4, 768])
    yield close("parameters of the block", sum(p.numel() for p in block.parameters()), 7_085_568)


def library_figures() -> Iterator[Figure]:
    """In Langwright: `langwright.model.Block`, `norm_placement` and three rates of dropout."""
    block = shaken_block()
    weights = {library_name(name): weight for name, weight in block.state_dict().items()}
    forms: dict[str, Callable[[Block, Tensor], Tensor]] = {"pre": pre_norm, "post": post_norm}
    for placement, form in forms.items():
        model = small_model(placement).eval()
        model.blocks[0].load_state_dict(weights)
        x, y = through_block(model)
        yield same(f"langwright.model.Block, {placement}-norm", y, form(block, x), 2e-6)
        final = model.norm is not None
        yield Figure("a final norm follows", [final], [placement == "pre"])

    model = small_model("sandwich").eval()
    outer = (nn.LayerNorm(24), nn.LayerNorm(24))
    model.blocks[0].load_state_dict(
        weights
        | {f"attention_out_norm.{name}": weight for name, weight in outer[0].state_dict().items()}
        | {f"feedforward_out_norm.{name}": weight for name, weight in outer[1].state_dict().items()}
    )
    x, y = through_block(model)
    expected = sandwich_norm(block, outer, x)
    yield same("langwright.model.Block, sandwich", y, expected, 2e-6)


def dropout_figures() -> Iterator[Figure]:
    """Each rate by itself changes what training computes, and nothing in eval mode."""
    reference = small_model("pre").eval()(IDS)
    for place in ("embedding", "attention", "residual"):
        model = small_model("pre", **{f"dropout_{place}": 0.5})
        trained = (model.train()(IDS) - reference).abs().max().item() > 1e-3
        yield Figure(f"dropout on {place}: training differs", [trained], [True])
        yield same(f"dropout on {place}: eval does not", model.eval()(IDS), reference, 0.0)


def figures() -> Iterator[Figure]:
    """Shapes, Langwright's block in three arrangements, and dropout."""
    yield from shape_figures()
    yield from library_figures()
    yield from dropout_figures()


if __name__ == "__main__":
    sys.exit(show(figures()))
