"""The same attention by other hands: fused kernels, torch's own module, shared keys.

Written out, the scores of all pairs stand in memory, (B, H, T, T). Fused kernels (FlashAttention)
go through them in tiles and keep only running sums: the same numbers with far less traffic.
Grouped-query attention has fewer key and value heads than query heads: query head i reads
key head floor(i K / H), and the cache of a long text shrinks by K / H.

    python docs/learn/fused_attention.py         # next: layer_norm.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.model import ModelConfig, attend, attention_reference, kv_cache_bytes, model_config

ROWS, HEADS, LENGTH, HEAD_WIDTH = 2, 6, 20, 8


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, head by head: q (B, H, T, h), k and v (B, K, T, h) -> (B, H, T, h)."""
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(diagonal=1)
    outputs = []
    for head in range(q.shape[1]):
        shared = head * k.shape[1] // q.shape[1]  # the key head that this query head reads
        scores = q[:, head] @ k[:, shared].transpose(1, 2) / q.shape[3] ** 0.5
        weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        outputs.append(weights @ v[:, shared])
    return torch.stack(outputs, dim=1)


def library_module(x: Tensor) -> Iterator[Figure]:
    """torch.nn.MultiheadAttention keeps its three projections in one matrix."""
    width = HEADS * HEAD_WIDTH
    module = nn.MultiheadAttention(width, HEADS, bias=False, batch_first=True)
    q, k, v = (
        (x @ matrix.T).view(ROWS, LENGTH, HEADS, HEAD_WIDTH).transpose(1, 2)
        for matrix in module.in_proj_weight.chunk(3)
    )
    mixed = written_out(q, k, v).transpose(1, 2).reshape(ROWS, LENGTH, width)
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    found, _ = module(x, x, x, attn_mask=mask, need_weights=False)
    yield same("torch.nn.MultiheadAttention", found, module.out_proj(mixed))


def figures() -> Iterator[Figure]:
    """Each kernel beside the written-out form, values and gradients; the size of the cache."""
    torch.manual_seed(123)
    for key_heads in (HEADS, 2, 1):
        q = torch.randn(ROWS, HEADS, LENGTH, HEAD_WIDTH, requires_grad=True)
        k, v = (torch.randn(ROWS, key_heads, LENGTH, HEAD_WIDTH) for _ in range(2))
        expected = written_out(q, k, v)
        gradient = torch.autograd.grad(expected.square().sum(), q)[0]
        fused = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        name = f"{HEADS} query heads, {key_heads} of keys"
        yield same(f"{name}: torch's fused kernel", fused, expected)
        for function in (attention_reference, attend):
            found = function(q, k, v, None)
            yield same(f"{name}: langwright.model.{function.__name__}", found, expected)
            found = torch.autograd.grad(found.square().sum(), q)[0]
            yield same(f"{name}: its gradient", found, gradient, 1e-5)
    yield from library_module(torch.randn(ROWS, LENGTH, HEADS * HEAD_WIDTH))

    small = model_config({"preset": "gpt2-124m"})
    shared = ModelConfig.parse({**small.model_dump(), "kv_heads": 3})
    found = [kv_cache_bytes(config, 1024) / 2**20 for config in (small, shared)]
    yield close(
        "GPT-2's cache of 1,024 tokens in 16 bit, MiB; with 3 key heads", found, [36.0, 9.0]
    )


if __name__ == "__main__":
    sys.exit(show(figures()))
