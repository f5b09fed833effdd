"""What llama.cpp calls each tensor, and how its numbers differ from ours.

Three things differ beside the names. Where rotary turns neighbours (architecture llama), the rows
of queries and keys are interleaved. Gemma's norm weights are stored with the 1 already added. Some
architectures keep q, k and v (and gate and up) in one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langwright.formats.gguf.architectures import Architecture
from langwright.model import ModelConfig

TOP = {
    "tokens": "token_embd",
    "positions": "position_embd",
    "norm": "output_norm",
    "head": "output",
}
INNER = {
    "attention_norm": "attn_norm",
    "attention_out_norm": "post_attention_norm",
    "feedforward_norm": "ffn_norm",
    "feedforward_out_norm": "post_ffw_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.out": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "feedforward.gate": "ffn_gate",
    "feedforward.up": "ffn_up",
    "feedforward.down": "ffn_down",
    "feedforward.router": "ffn_gate_inp",
}
EXPERTS = ("feedforward.gate", "feedforward.up", "feedforward.down")
FUSED = {"attention.q": "attn_qkv", "attention.k": "attn_qkv", "attention.v": "attn_qkv"}
FUSED_GATE = {"feedforward.gate": "ffn_up", "feedforward.up": "ffn_up"}


@dataclass(frozen=True)
class Slot:
    """The tensor `theirs` holds our parameters `ours`, one above the other.

    `heads`: the rows of so many heads are interleaved (0: not). `offset`: is added to our numbers.
    """

    theirs: str
    ours: tuple[str, ...]
    heads: int = 0
    offset: float = 0.0

    def shape(self, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """The shape of the tensor, from the shapes of our parameters."""
        first = shapes[self.ours[0]]
        return (sum(shapes[name][0] for name in self.ours), *first[1:])

    def join(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Our parameters as their tensor, float32 on the CPU."""
        parts = [parameters[name].detach().to("cpu", torch.float32) for name in self.ours]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.heads:
            whole = interleave(whole, self.heads)
        return (whole + self.offset if self.offset else whole).contiguous()

    def split(self, tensor: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """Their tensor as our parameters."""
        if self.heads:
            tensor = separate(tensor, self.heads)
        if self.offset:
            tensor = tensor - self.offset
        parts = tensor.split([shapes[name][0] for name in self.ours])
        return dict(zip(self.ours, parts, strict=True))


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Rows (H h, ...) that turn as pairs (i, i + h/2) in the order in which neighbours turn."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def separate(rows: Tensor, heads: int) -> Tensor:
    """The way back from `interleave`."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def slots(architecture: Architecture, config: ModelConfig, parameters: Sequence[str]) -> list[Slot]:
    """A slot for each tensor of a file, in the order of our parameters; those that have no name
    are left out."""
    grouped: dict[str, list[str]] = {}
    for name in parameters:
        theirs = _their_name(architecture, config, name)
        if theirs is not None:
            grouped.setdefault(theirs, []).append(name)
    out = []
    for theirs, ours in grouped.items():
        heads = 0
        if architecture.pairs:
            heads = {"attn_q": config.heads, "attn_k": config.key_heads}.get(
                theirs.split(".")[-2], 0
            )
        is_norm = theirs.endswith("norm.weight")
        offset = 1.0 if config.norm_offset and is_norm else 0.0
        out.append(Slot(theirs, tuple(ours), heads, offset))
    return out


def _their_name(architecture: Architecture, config: ModelConfig, name: str) -> str | None:
    """What the tensor with our parameter `name` is called."""
    if not name.startswith("blocks."):
        module, _, kind = name.rpartition(".")
        return f"{TOP[module]}.{kind}" if module in TOP else None
    _, layer, inner = name.split(".", 2)
    if inner in EXPERTS:  # stacked matrices of all experts, a parameter without a module
        return f"blk.{layer}.{INNER[inner]}_exps.weight"
    module, _, kind = inner.rpartition(".")
    word = INNER.get(module)
    if architecture.fused:
        word = FUSED.get(module, word)
    if architecture.fused_gate:
        word = FUSED_GATE.get(module, word)
    return f"blk.{layer}.{word}.{kind}" if word else None
