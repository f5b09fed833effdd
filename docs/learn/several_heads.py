"""Several heads: attention done a few times side by side, first as a list, then in one product.

One head can only look for one thing at a time. The plain way keeps a list of heads and joins their
outputs. The fast way has one wide projection each for queries, keys and values and only *views*
the result as heads; it is the same function, since a stack of matrices is one taller matrix.

    python docs/learn/several_heads.py           # next: fused_attention.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from causal_attention import CausalAttention
from figures import FOUR, Figure, close, same, show
from plain_attention import INPUTS
from torch import Tensor, nn

from langwright.model import ModelConfig, Transformer, build_model, model_config


class HeadList(nn.Module):
    """(B, T, D) -> (B, T, H D_out): independent causal heads, outputs side by side."""

    def __init__(self, d_in: int, d_out: int, context_length: int, heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            CausalAttention(d_in, d_out, context_length) for _ in range(heads)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(x) for head in self.heads], dim=-1)


class MultiHeadAttention(nn.Module):
    """(B, T, D) -> (B, T, D_out): one projection for all heads, and one that mixes them."""

    def __init__(self, d_in: int, d_out: int, heads: int, qkv_bias: bool = False) -> None:
        super().__init__()
        if d_out % heads:
            raise ValueError(f"width {d_out} is not divisible by {heads} heads")
        self.heads = heads
        self.q = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.k = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.v = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out = nn.Linear(d_out, d_out)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (
            layer(x).view(B, T, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )  # (B, H, T, h)
        future = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)
        scores = (q @ k.transpose(2, 3)).masked_fill(future, -torch.inf)
        weights = (scores / q.shape[-1] ** 0.5).softmax(dim=-1)  # (B, H, T, T)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, -1))


def joined(heads: HeadList) -> MultiHeadAttention:
    """The list of heads as one module: projections stacked, the output projection the identity."""
    parts = [head.projections for head in heads.heads]
    width = sum(part.query.out_features for part in parts)
    module = MultiHeadAttention(parts[0].query.in_features, width, len(parts))
    module.q.weight.data = torch.cat([part.query.weight for part in parts])
    module.k.weight.data = torch.cat([part.key.weight for part in parts])
    module.v.weight.data = torch.cat([part.value.weight for part in parts])
    module.out.weight.data, module.out.bias.data = torch.eye(width), torch.zeros(width)
    return module


def list_figures() -> Iterator[Figure]:
    """The list of two heads, and the same as one module."""
    batch = torch.stack((INPUTS, INPUTS))  # (2, 6, 3)
    torch.manual_seed(123)
    heads = HeadList(3, 2, context_length=6, heads=2)
    out = heads(batch)
    yield close("two heads in a list: shape", out.shape, [2, 6, 4])
    yield close("first row", out[0, 0], [-0.4519, 0.2216, 0.4772, 0.1063], FOUR)
    yield close("last row", out[1, 5], [-0.5299, -0.1081, 0.5077, 0.3493], FOUR)
    yield same("stacked into one module", joined(heads)(batch), out)


def product_figures() -> Iterator[Figure]:
    """torch multiplies the last two axes, for every batch row and head at once."""
    head1 = [[0.2745, 0.6584, 0.2775, 0.8573], [0.8993, 0.0390, 0.9268, 0.7388]]
    head1.append([0.7179, 0.7058, 0.9156, 0.4340])
    head2 = [[0.0772, 0.3565, 0.1479, 0.5331], [0.4066, 0.2318, 0.4545, 0.9737]]
    head2.append([0.4606, 0.5159, 0.4220, 0.5786])
    x = torch.tensor([[head1, head2]])  # (B, H, T, h) = (1, 2, 3, 4)
    product = x @ x.transpose(2, 3)  # (1, 2, 3, 3)
    first = [[1.3208, 1.1631, 1.2879], [1.1631, 2.2150, 1.8424], [1.2879, 1.8424, 2.0402]]
    second = [[0.4391, 0.7003, 0.5903], [0.7003, 1.3737, 1.0620], [0.5903, 1.0620, 0.9912]]
    yield close("batched product, head 1", product[0, 0], first, FOUR)
    yield close("head 2", product[0, 1], second, FOUR)
    by_head = torch.stack([x[0, h] @ x[0, h].T for h in range(2)])
    yield same("head by head", product[0], by_head)


def module_figures() -> Iterator[Figure]:
    """One module with two heads, and how many heads GPT-2 has."""
    torch.manual_seed(123)
    out = MultiHeadAttention(3, 2, heads=2)(torch.stack((INPUTS, INPUTS)))
    printed = [[0.3190, 0.4858], [0.2943, 0.3897], [0.2856, 0.3593]]
    printed += [[0.2693, 0.3873], [0.2639, 0.3928], [0.2575, 0.4028]]
    yield close("two heads in one module: shape", out.shape, [2, 6, 2])
    yield close("its output", out[0], printed, FOUR)
    for preset, shape in {"gpt2-124m": [768, 12, 64], "gpt2-1558m": [1600, 25, 64]}.items():
        config = model_config({"preset": preset})
        found = [config.width, config.heads, config.head_size]
        yield Figure(f"{preset}: width, heads, width of a head", found, shape)


def attention_output(model: Transformer, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the attention of the first block is given, and what it makes of it: (B, T, D) each."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = model.blocks[0].attention.register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0], output))
    )
    model(ids)
    handle.remove()
    return seen[0]


def library_figures() -> Iterator[Figure]:
    """In Langwright: `Transformer.blocks[i].attention`, whose parameters have the same names."""
    sizes = {"vocab_size": 50, "width": 24, "layers": 1, "heads": 3, "context_length": 16}
    for bias in (False, True):
        fields = {"position": "learned", "qkv_bias": bias, "attention_out_bias": True}
        model = build_model(ModelConfig.parse({**sizes, **fields})).eval()
        book = MultiHeadAttention(24, 24, heads=3, qkv_bias=bias)
        model.blocks[0].attention.load_state_dict(book.state_dict())
        x, y = attention_output(model, torch.arange(20).view(2, 10))
        yield same(f"langwright.model.Attention, qkv bias {bias}", y, book(x))


def figures() -> Iterator[Figure]:
    """A list, a product, a module, and Langwright's form."""
    yield from list_figures()
    yield from product_figures()
    yield from module_figures()
    yield from library_figures()


if __name__ == "__main__":
    sys.exit(show(figures()))
