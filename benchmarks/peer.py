"""The peer: GPT-2 of `transformers`, at sizes given here, trained as nanoGPT trains.

nanoGPT itself is on no package index; its model is GPT-2's, so an equal `GPT2LMHeadModel` stands
in for it. Imported by the children of the benchmarks only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def gpt2(vocab_size: int, length: int, width: int, layers: int, heads: int) -> nn.Module:
    """GPT2LMHeadModel without dropout; its attention is torch's fused one by default."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def parameters_without_positions(model: Any) -> int:
    """N as nanoGPT counts it: tied matrices once, learned positions not at all."""
    return sum(p.numel() for p in model.parameters()) - model.transformer.wpe.weight.numel()


def adamw(model: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW as nanoGPT groups it: decay 0.1 on matrices, none on vectors."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas)


def cosine(step: int, lr: float, floor: float, warmup: int, end: int) -> float:
    """nanoGPT's schedule: linear warm-up, cosine to the floor."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    if step > end:
        return floor
    return floor + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (end - warmup))) * (lr - floor)


def train_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    bf16: bool = False,
) -> float:
    """One update on a batch (B, T) with clipping at 1; returns the loss in nats per token."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model(inputs).logits  # (B, T, V)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()
