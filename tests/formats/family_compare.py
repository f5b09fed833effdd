"""How one of our models is compared with transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from family_cases import Case, Changes, T, V


def randomise(model: Any, seed: int = 0) -> Any:
    """Every parameter random and large enough that the logits have a standard deviation above 2."""
    generator = torch.Generator().manual_seed(seed)
    around = 0.0 if type(model).__name__.startswith("Gemma") else 1.0  # Gemma's scale is 1 + weight
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            large = any(part in name for part in ("emb", "wte", "lm_head"))
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.7 if large else 0.3, generator=generator)
            elif name.endswith("weight"):
                parameter.uniform_(around - 0.5, around + 0.5, generator=generator)
            else:
                parameter.normal_(generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0.0, 0.3, generator=generator)
    return model.eval()


def make_theirs(case: Case, seed: int = 0) -> Any:
    """The random model of `transformers`; its attention is the written-out one."""
    import transformers

    config, model = (getattr(transformers, name) for name in case.classes)
    settings = config(**case.settings)
    settings._attn_implementation = "eager"
    return randomise(model(settings), seed)


def ids_of(batch: int = 2, t: int = T) -> torch.Tensor:
    """(B, T) random ids."""
    return torch.randint(0, V, (batch, t), generator=torch.Generator().manual_seed(3))


def their_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(B, T) -> (B, T, V)."""
    return model(input_ids=ids, use_cache=False).logits


def greatest(a: torch.Tensor, b: torch.Tensor) -> float:
    """The greatest difference of any two numbers."""
    return (a - b).abs().max().item()


def divergence(expected: torch.Tensor, logits: torch.Tensor) -> float:
    """The greatest KL divergence of any token's distribution, in nat, computed in float64."""
    p, q = (x.double().log_softmax(-1) for x in (expected, logits))
    return (p.exp() * (p - q)).sum(-1).max().item()


def gradient_difference(theirs: Any, ours: Any, ids: torch.Tensor, folder: Path) -> float:
    """The greatest difference of any gradient, beside the greatest of its parameter's gradient.

    Their gradients are carried through a folder as if they were weights, so that they come back
    under our names and in our layout. The gradients of `theirs` and `ours` are set.
    """
    from langwright.formats import load_model

    targets = ids.roll(-1, dims=1)
    loss = torch.nn.functional.cross_entropy(
        their_logits(theirs, ids).flatten(0, 1), targets.flatten()
    )
    loss.backward()
    total, count = ours.loss(ids, targets, chunk_tokens=17)
    (total / count).backward()
    torch.testing.assert_close(total / count, loss, rtol=1e-6, atol=0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(folder)
    expected = dict(load_model(folder).named_parameters())
    differences = []
    for key, parameter in ours.named_parameters():
        if parameter.requires_grad:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            scale = expected[key].abs().max().clamp(min=1e-2)  # a key bias's is 0, but for rounding
            differences.append(greatest(grad, expected[key]) / scale.item())
    return max(differences)


def mutated(model: Any, changes: Changes) -> Any:
    """The model with the same weights and some fields of its config changed."""
    from langwright.model import ModelConfig, Transformer

    fields = model.config.model_dump()
    for name, value in changes.items():
        inner = fields[name]
        fields[name] = {**inner, **value} if isinstance(inner, dict) and value else value
    with torch.device("meta"):
        wrong = Transformer(ModelConfig(**fields))
    wrong = wrong.to_empty(device="cpu").eval()
    weights = model.state_dict()
    with torch.no_grad():
        for key, value in wrong.state_dict().items():
            value.copy_(_fitting(weights, key, value))
    return wrong


def _fitting(weights: dict[str, torch.Tensor], key: str, value: torch.Tensor) -> torch.Tensor:
    """The weight of that name, or of the norm in its stead, cut to the shape; else a plain one."""
    if key not in weights:
        inward, outward = key.replace("_out_norm", "_norm"), key.replace("_norm.", "_out_norm.")
        key = inward if "_out_norm" in key else outward
    if key not in weights:
        return torch.full_like(value, float("norm" in key and key.endswith("weight")))
    part = weights[key]
    if part.dim() == 1 and part.shape[0] < value.shape[0]:
        return part.repeat(value.shape[0] // part.shape[0])
    return part[tuple(slice(0, n) for n in value.shape)]
