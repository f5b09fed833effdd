"""What each tensor is called elsewhere.

One `Rule` stands for one tensor of a file: which parameters of ours lie in it, one above the
other, and whether it is stored transposed. Saving and loading both follow the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from langwright.model import ModelConfig


@dataclass(frozen=True)
class Rule:
    """The tensor `theirs` of a file holds the parameters `ours`, stacked along the first axis."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False

    def join(self, parameters: dict[str, Tensor]) -> Tensor:
        """Our parameters as their tensor, contiguous."""
        parts = [parameters[name] for name in self.ours]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (whole.T if self.transposed else whole).contiguous()

    def shape(self, shapes: dict[str, torch.Size]) -> tuple[int, ...]:
        """The shape their tensor must have, from the shapes of ours."""
        rows = sum(shapes[name][0] for name in self.ours)
        joined = (rows, *shapes[self.ours[0]][1:])
        return joined[::-1] if self.transposed else joined

    def split(self, tensor: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
        """Their tensor as our parameters."""
        whole = tensor.T if self.transposed else tensor
        parts = whole.split([shapes[name][0] for name in self.ours])
        return {name: part.contiguous() for name, part in zip(self.ours, parts, strict=True)}


def own_rules(parameters: list[str]) -> list[Rule]:
    """Our own names, unchanged."""
    return [Rule(name, (name,)) for name in parameters]


def llama_rules(parameters: list[str]) -> list[Rule]:
    """Llama and Qwen3 of transformers: a renaming."""
    words = {
        "attention_norm": "input_layernorm",
        "feedforward_norm": "post_attention_layernorm",
        "attention.q": "self_attn.q_proj",
        "attention.k": "self_attn.k_proj",
        "attention.v": "self_attn.v_proj",
        "attention.out": "self_attn.o_proj",
        "attention.q_norm": "self_attn.q_norm",
        "attention.k_norm": "self_attn.k_norm",
        "feedforward.gate": "mlp.gate_proj",
        "feedforward.up": "mlp.up_proj",
        "feedforward.down": "mlp.down_proj",
        "tokens": "model.embed_tokens",
        "norm": "model.norm",
        "head": "lm_head",
    }
    rules = []
    for name in parameters:
        module, kind = name.rsplit(".", 1)
        if module.startswith("blocks."):
            _, layer, inner = module.split(".", 2)
            theirs = f"model.layers.{layer}.{words[inner]}.{kind}"
        else:
            theirs = f"{words[module]}.{kind}"
        rules.append(Rule(theirs, (name,)))
    return rules


def gpt2_rules(config: ModelConfig) -> list[Rule]:
    """GPT-2 of transformers: q, k and v in one matrix, and matrices transposed (its Conv1D stores
    (in, out))."""
    rules = [
        Rule("transformer.wte.weight", ("tokens.weight",)),
        Rule("transformer.wpe.weight", ("positions.weight",)),
    ]
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for kind, transposed in (("weight", True), ("bias", False)):
            qkv = tuple(f"{ours}.attention.{name}.{kind}" for name in ("q", "k", "v"))
            rules += [
                Rule(f"{theirs}.ln_1.{kind}", (f"{ours}.attention_norm.{kind}",)),
                Rule(f"{theirs}.attn.c_attn.{kind}", qkv, transposed),
                Rule(f"{theirs}.attn.c_proj.{kind}", (f"{ours}.attention.out.{kind}",), transposed),
                Rule(f"{theirs}.ln_2.{kind}", (f"{ours}.feedforward_norm.{kind}",)),
                Rule(f"{theirs}.mlp.c_fc.{kind}", (f"{ours}.feedforward.up.{kind}",), transposed),
                Rule(
                    f"{theirs}.mlp.c_proj.{kind}", (f"{ours}.feedforward.down.{kind}",), transposed
                ),
            ]
    rules += [Rule(f"transformer.ln_f.{kind}", (f"norm.{kind}",)) for kind in ("weight", "bias")]
    if not config.tied:
        rules.append(Rule("lm_head.weight", ("head.weight",)))
    return rules


def rules_for(model_type: str, config: ModelConfig, parameters: list[str]) -> list[Rule]:
    """The rules of a model type for a model with these parameters."""
    if model_type == "gpt2":
        return gpt2_rules(config)
    if model_type in ("llama", "qwen3"):
        return llama_rules(parameters)
    return own_rules(parameters)
