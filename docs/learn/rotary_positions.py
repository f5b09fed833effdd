"""Rotary positions: queries and keys are turned, each by an angle that grows with its place.

Nothing is added to the tokens' vectors. Inside attention the numbers of a head are taken in pairs,
each pair being an arrow in the plane; at place p pair i turns by p base^(-2i/h). The dot product of
two arrows depends only on the angle between them, so scores depend only on how far apart two tokens
are, not on where they stand (Su et al. 2021, arXiv:2104.09864). Llama, Qwen and most others use it.

    python docs/learn/rotary_positions.py        # next: distance_biases.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from several_heads import attention_output
from torch import Tensor, nn

from langwright.model import ModelConfig, build_model, rotary_tables, rotate

HEAD_WIDTH, BASE = 8, 10_000.0


def turn(x: Tensor, places: Tensor, base: float = BASE) -> Tensor:
    """Arrows (..., T, h) at `places` (T,): pair i is (x[i], x[i + h/2]), read as a complex number
    and multiplied by e^(i angle)."""
    width = x.shape[-1]
    pair = torch.arange(width // 2, dtype=torch.float64)
    angles = places[:, None].double() * base ** (-2 * pair / width)  # (T, h/2)
    arrows = torch.complex(*x.double().chunk(2, dim=-1)) * torch.exp(1j * angles)
    return torch.cat((arrows.real, arrows.imag), dim=-1).to(x.dtype)


def rotary_attention(x: Tensor, layers: nn.Module, heads: int, base: float) -> Tensor:
    """Causal attention with turned queries and keys, written out: (B, T, D) -> (B, T, D)."""
    B, T, _ = x.shape
    q, k, v = (
        layer(x).view(B, T, heads, -1).transpose(1, 2) for layer in (layers.q, layers.k, layers.v)
    )  # (B, H, T, h)
    places = torch.arange(T)
    q, k = turn(q, places, base), turn(k, places, base)
    future = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return layers.out((weights @ v).transpose(1, 2).reshape(B, T, -1))


def score(query: Tensor, key: Tensor, place: int, other: int) -> float:
    """The score of a query (h,) standing at `place` with a key (h,) at `other`."""
    turned = [turn(x[None], torch.tensor([at]))[0] for x, at in ((query, place), (key, other))]
    return float(turned[0] @ turned[1])


def figures() -> Iterator[Figure]:
    """A quarter turn, what scores depend on, wavelengths, and Langwright's form."""
    quarter = turn(torch.tensor([[1.0, 0.0]]), torch.tensor([torch.pi / 2]))
    yield same("a quarter turn of (1, 0)", quarter, torch.tensor([[0.0, 1.0]]))

    torch.manual_seed(123)
    query, key = torch.randn(HEAD_WIDTH), torch.randn(HEAD_WIDTH)
    apart = [score(query, key, place, place - 3) for place in (3, 10, 1000)]
    yield close("score 3 apart, at 10 and 1000 as at 3", apart[1:], apart[:1] * 2, 1e-4)
    differs = abs(score(query, key, 10, 5) - apart[1]) > 0.01
    yield Figure("score 5 apart differs", [differs], [True])
    yield close(
        "score at one place, as not turned", score(query, key, 7, 7), float(query @ key), 1e-5
    )
    yield close(
        "length of an arrow", turn(query[None], torch.tensor([9])).norm(), query.norm(), 1e-5
    )

    # In Langwright: `rotary_tables` once for all layers, `rotate` in each.
    places, x = torch.arange(50), torch.randn(2, 3, 50, HEAD_WIDTH)  # (B, H, T, h)
    found = rotate(x, *rotary_tables(places, HEAD_WIDTH, BASE))
    yield same("langwright.model.rotate", found, turn(x, places), 2e-5)
    sizes = {"vocab_size": 50, "width": 24, "layers": 1, "heads": 3, "context_length": 16}
    for base in (10_000.0, 500_000.0):  # Llama 2's, Llama 3's
        fields = {"position": "rotary", "rotary_base": base}
        model = build_model(ModelConfig.parse({**sizes, **fields})).eval()
        for layer in ("q", "k", "v"):  # as large as after training: the angles must matter
            getattr(model.blocks[0].attention, layer).weight.data.mul_(20)
        x, y = attention_output(model, torch.arange(20).view(2, 10))
        written_out = rotary_attention(x, model.blocks[0].attention, 3, base)
        yield same(f"langwright.model.Attention, rotary base {base:g}", y, written_out, 2e-6)


if __name__ == "__main__":
    sys.exit(show(figures()))
