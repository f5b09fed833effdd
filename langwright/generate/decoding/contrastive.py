"""Contrastive search: likely tokens whose meaning does not repeat what was said."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from langwright.base import UserError
from langwright.generate.modes import evaluating
from langwright.model import KVCache, ModelConfig, Transformer, depends_on_length


def contrastive_search(
    model: Transformer,
    prompt: Sequence[int],
    *,
    k: int = 4,
    alpha: float = 0.6,
    max_tokens: int = 64,
    stop_ids: Collection[int] = (),
) -> list[int]:
    """Continue `prompt`; the same text each time. The end token is not in the result.

    Each step looks at the k likeliest tokens v and takes the highest
    (1 - alpha) p(v) - alpha max_j cos(h_v, h_j), where h is the model's last hidden vector (D,) and
    j runs over all tokens so far, the prompt's included.

    Args:
        model: any mode.
        prompt: at least one id, shorter than `longest_text`.
        k: candidates; 1 is greedy.
        alpha: weight of the degeneration penalty, 0 (greedy) ... 1.
        max_tokens: most tokens to give.
        stop_ids: tokens that end the text.

    Source: Su et al. 2022, "A contrastive framework for neural text generation", equation 5.
    """
    _check(model, prompt, k, alpha)
    steps = min(max_tokens, longest_text(model.config) - len(prompt))
    device = next(model.parameters()).device
    cache = KVCache(model.config, 1, len(prompt) + steps, device, model.compute_dtype)
    with evaluating(model):
        hidden = model.hidden(torch.tensor([list(prompt)], device=device), cache=cache)
        cache.advance(len(prompt))
        said = unit(hidden[0])  # (S, D)
        logits = model.logits(hidden[:, -1])[0]  # (V,)
    cache.select([0] * k)
    ids: list[int] = []
    for _ in range(steps):
        chances, candidates = likeliest(logits, k)
        with evaluating(model):
            hidden = model.hidden(candidates[:, None], cache=cache)[:, 0]  # (k, D)
        vectors = unit(hidden)  # (k, D)
        chosen = choose(chances, vectors, said, alpha)
        token = int(candidates[chosen])
        if token in stop_ids:
            break
        ids.append(token)
        cache.advance(1)
        cache.select([chosen] * k)
        said = torch.cat((said, vectors[chosen : chosen + 1]))
        with evaluating(model):
            logits = model.logits(hidden[chosen])
    return ids


def longest_text(config: ModelConfig) -> int:
    """Most tokens of a text that can be searched: the context, or the length at which the model
    begins to turn all tokens of a text otherwise (ntk, longrope), and so changes what was said."""
    scaling = config.rotary_scaling
    if scaling is None or not depends_on_length(scaling):
        return config.context_length
    return min(config.context_length, scaling.original_context or config.context_length)


def check_prompt(config: ModelConfig, prompt: Sequence[int]) -> None:
    """Raise a `UserError` where nothing can be searched behind a prompt."""
    longest = longest_text(config)
    if not 1 <= len(prompt) < longest:
        raise UserError(
            "the prompt of a contrastive search is empty, or too long"
            if longest == config.context_length
            else "the prompt of a contrastive search is empty, or so long that the model turns its "
            "tokens otherwise (ntk, longrope)",
            where="prompt",
            found=f"{len(prompt)} tokens",
            expected=f"1 ... {longest - 1}",
        )


def _check(model: Transformer, prompt: Sequence[int], k: int, alpha: float) -> None:
    check_prompt(model.config, prompt)
    if not (1 <= k <= model.config.vocab_size and 0 <= alpha <= 1):
        raise UserError(
            "contrastive search needs 1 <= k <= vocabulary and 0 <= alpha <= 1",
            found=f"k = {k}, alpha = {alpha}",
        )


def unit(vectors: Tensor) -> Tensor:
    """Vectors (N, D) at length 1, fp32: their products are cosines."""
    return F.normalize(vectors.float(), dim=-1)


def likeliest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens: their probabilities (k,) and ids (k,), from logits (V,)."""
    chances, tokens = logits.float().softmax(-1).topk(k)
    return chances, tokens


def choose(chances: Tensor, vectors: Tensor, said: Tensor, alpha: float) -> int:
    """The best candidate: chances (k,), their vectors (k, D) and those said (S, D), all of unit
    length."""
    alike = (vectors @ said.T).amax(-1)  # (k,) cosine with the nearest
    return int(((1 - alpha) * chances - alpha * alike).argmax())
