"""From logits to the next token: pure functions on (B, V) tensors.

The order, in `process_logits`, is: repetition penalty, temperature, top-k, top-p, min-p. Penalty
comes first because it is defined on the raw logits; k and temperature commute; p comes after k, so
the nucleus is taken among the k tokens that are left; min-p comes last (it compares ratios, which
renormalising does not change).

Every parameter is a tensor (B,), so rows with different settings share one call. Rejected tokens
get the logit -inf, so a function's output is the next one's input and softmax renormalises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from langwright.base import Config, seed_for


class Sampling(Config):
    """How a text is drawn: the settings of one request."""

    temperature: float = Field(
        default=1.0,
        ge=0.0,
        le=100.0,
        description="divides the logits; 0 = greedy, 1 = the model as it is",
    )
    top_k: int = Field(default=0, ge=0, description="keep only the k likeliest tokens; 0 = all")
    top_p: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description="keep tokens while the mass before them is <= p; 1 = all",
    )
    min_p: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="drop tokens below this share of the likeliest; 0 = none",
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0.0,
        le=10.0,
        description="makes tokens already in the text less likely; 1 = off",
    )
    max_tokens: int = Field(default=200, ge=1, description="most tokens to generate")
    stop: list[str] = Field(
        default_factory=list, description="texts that end the answer (they are cut off)"
    )
    seed: int | None = Field(
        default=None, ge=0, description="same seed, same text; none = another each time"
    )
    ignore_eos: bool = Field(default=False, description="go on after an end token")


@dataclass
class SamplingRows:
    """The settings of a batch, one value per row: tensors (B,)."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device | str = "cpu") -> SamplingRows:
        """Stack the settings of several requests."""

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(row, name) for row in rows], dtype=dtype, device=device)

        return cls(
            temperature=column("temperature", torch.float32),
            top_k=column("top_k", torch.int64),
            top_p=column("top_p", torch.float32),
            min_p=column("min_p", torch.float32),
            repetition_penalty=column("repetition_penalty", torch.float32),
        )

    def select(self, rows: Tensor) -> SamplingRows:
        """The settings of some rows (int64 indices)."""
        return SamplingRows(**{name: value[rows] for name, value in vars(self).items()})

    def penalised(self) -> bool:
        """Whether any row has a repetition penalty."""
        return bool((self.repetition_penalty != 1).any())


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Divide the positive logits of tokens in the text by `penalty`, multiply the negative ones.

    Args:
        logits: (B, V).
        seen: (B, V) bool, True for tokens in the prompt or the output so far.
        penalty: (B,); above 1 discourages repetition.

    Source: CTRL (Keskar et al. 2019, section 4.1), with the sign rule that became common.
    """
    factor = penalty[:, None]
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def apply_temperature(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits (B, V) divided by temperature (B,); rows at or below 0 (greedy) stay as they are."""
    divisor = torch.where(temperature > 0, temperature, torch.ones_like(temperature))
    return logits / divisor[:, None]


def top_k_mask(logits: Tensor, k: Tensor) -> Tensor:
    """Keep exactly k tokens per row, the others become -inf; among equals the lower id stays.

    Args:
        logits: (B, V).
        k: (B,) int64; 0, or V and above, keeps the row whole.
    """
    vocab = logits.shape[-1]
    active = (k > 0) & (k < vocab)
    if not bool(active.any()):
        return logits
    k = torch.where(active, k, torch.full_like(k, vocab))
    most = int(torch.where(active, k, torch.zeros_like(k)).max())
    highest = logits.topk(most, dim=-1).values  # (B, most), descending
    threshold = highest.gather(-1, (k.clamp(max=most) - 1)[:, None])  # (B, 1): the k-th logit
    above = logits > threshold
    tied = logits == threshold
    room = k[:, None] - above.sum(-1, keepdim=True)
    keep = above | (tied & (tied.cumsum(-1) <= room)) | ~active[:, None]
    return logits.masked_fill(~keep, -torch.inf)


def top_p_mask(logits: Tensor, p: Tensor) -> Tensor:
    """Nucleus: going down from the likeliest token, keep while the mass before it is <= p.

    The token that crosses p is therefore kept, and at least one always is. Among equals the
    lower id comes first. Rows with p >= 1 stay whole.

    Args:
        logits: (B, V).
        p: (B,).

    Source: Holtzman et al. 2020, section 3.1.
    """
    if bool((p >= 1).all()):
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    before = ordered.softmax(-1).cumsum(-1).roll(1, dims=-1)  # (B, V)
    before[:, 0] = 0.0
    drop = (before > p[:, None]) & (p < 1)[:, None]
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)


def min_p_mask(logits: Tensor, share: Tensor) -> Tensor:
    """Drop the tokens whose probability is below `share` (B,) times the likeliest one's.

    Source: Nguyen et al. 2024, "Turning up the heat: min-p sampling".
    """
    if not bool((share > 0).any()):
        return logits
    floor = logits.amax(-1, keepdim=True) + share[:, None].log()  # log 0 = -inf: keeps all
    return logits.masked_fill(logits < floor, -torch.inf)


def process_logits(logits: Tensor, rows: SamplingRows, seen: Tensor | None = None) -> Tensor:
    """All steps in their order; softmax of the result is the distribution that is drawn from.

    Args:
        logits: (B, V).
        rows: the settings, (B,) each.
        seen: (B, V) bool for the repetition penalty, or None if no row has one.
    """
    if seen is not None:
        logits = apply_repetition_penalty(logits, seen, rows.repetition_penalty)
    logits = apply_temperature(logits, rows.temperature)
    logits = top_k_mask(logits, rows.top_k)
    logits = top_p_mask(logits, rows.top_p)
    return min_p_mask(logits, rows.min_p)


def sample(
    logits: Tensor, rows: SamplingRows, uniforms: Tensor, seen: Tensor | None = None
) -> Tensor:
    """The next token of each row: int64 (B,).

    Args:
        logits: (B, V).
        rows: the settings, (B,) each; temperature 0 takes the highest logit (after the penalty).
        uniforms: (B,) numbers in [0, 1), see `uniform_for`.
        seen: (B, V) bool for the repetition penalty, or None if no row has one.
    """
    greedy = rows.temperature <= 0
    if bool(greedy.all()):
        if seen is not None:
            logits = apply_repetition_penalty(logits, seen, rows.repetition_penalty)
        return logits.argmax(-1)
    processed = process_logits(logits, rows, seen)
    return torch.where(greedy, processed.argmax(-1), draw(processed.softmax(-1), uniforms))


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF draw: the first token whose cumulative probability exceeds the row's uniform.

    A row's draw depends on its own probabilities and uniform only, so it is the same alone and in
    a batch.

    Args:
        probabilities: (B, V), rows need not sum to exactly 1.
        uniforms: (B,) in [0, 1).
    """
    wide = torch.float32 if probabilities.device.type == "mps" else torch.float64
    cumulative = probabilities.to(wide).cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    target = uniforms.to(wide).to(cumulative.device)[:, None] * total
    tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    # Rounding may put the target at the total itself: take the last token with any probability.
    last = torch.searchsorted(cumulative, total).squeeze(-1)
    # NaN (a model that diverged) gives some token rather than an index outside the vocabulary.
    return torch.minimum(tokens, last).clamp(max=probabilities.shape[-1] - 1)


def uniform_for(seed: int, position: int) -> float:
    """The number in [0, 1) that draws the output token at `position` of a text with this seed."""
    return (seed_for(seed, "draw", position) >> 10) / 2.0**53  # 63 random bits, 53 kept


def row_seeds(seeds: Sequence[int], prompts: Sequence[Sequence[int]]) -> list[int]:
    """One seed per prompt, from (its request's seed, prompt, how often that pair came before).

    So a prompt draws the same text alone and in a batch, and equal prompts draw different ones.
    """
    times: dict[tuple[int, ...], int] = {}
    rows = []
    for seed, prompt in zip(seeds, prompts, strict=True):
        key = (seed, *prompt)
        times[key] = times.get(key, -1) + 1
        rows.append(seed_for(seed, "row", *prompt, times[key]))
    return rows
