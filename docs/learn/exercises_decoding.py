"""Exercises of chapter 5 on decoding: pizza (5.1), temperature and top-k (5.2), no chance (5.3).

A vocabulary of nine words and one row of logits. How often a word comes need not be sampled: it is
the word's entry in the softmax of logits / temperature.

    python docs/learn/exercises_decoding.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, show
from torch import Tensor

from langwright.generate import (
    Sampling,
    SamplingRows,
    generate_tokens,
    process_logits,
    sample,
    uniform_for,
)
from langwright.model import ModelConfig, Transformer, build_model

WORDS = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
LOGITS = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])  # (V,)
PIZZA = WORDS.index("pizza")
DRAWS = 1000


def probabilities(temperature: float = 1.0, top_k: int = 0) -> Tensor:
    """What Langwright draws from: (V,), by its own chain of steps."""
    settings = Sampling(temperature=temperature, top_k=top_k, top_p=1.0)
    return process_logits(LOGITS[None], SamplingRows.of([settings])).softmax(-1)[0]


def r9_pizza() -> Iterator[Figure]:
    """Exercise 5.1: at temperature 5 pizza came 32 times in 1000 draws; its share is 4.30 %."""
    hot = (LOGITS / 5).softmax(-1)
    torch.manual_seed(123)
    draws = [int(torch.multinomial(hot, 1)) for _ in range(DRAWS)]
    counts = torch.bincount(torch.tensor(draws), minlength=9)
    yield close("R9 draws at 5", counts, [165, 75, 42, 239, 71, 46, 32, 227, 103])
    printed = [0.1546, 0.0750, 0.0429, 0.2421, 0.0869, 0.0454, 0.0430, 0.2203, 0.0898]
    yield close("R9 softmax at 5", hot, printed, 5.1e-5)
    cold = (LOGITS / 0.1).softmax(-1)
    yield close("R9 forward, pizza, toward at 0.1", cold[[3, 6, 7]], [0.9910, 0.0, 0.0090], 5e-5)
    for temperature, expected in ((5.0, hot), (0.1, cold)):
        yield close(f"R9 Langwright at {temperature:g}", probabilities(temperature), expected, 1e-6)
    # Langwright's own draws: 1000 rows of one call, each with its own uniform number.
    rows = SamplingRows.of([Sampling(temperature=5.0, top_p=1.0)] * DRAWS)
    uniforms = torch.tensor([uniform_for(123, position) for position in range(DRAWS)])
    drawn = (sample(LOGITS.expand(DRAWS, -1), rows, uniforms) == PIZZA).sum() / DRAWS
    deviation = (0.043 * 0.957 / DRAWS) ** 0.5  # of a share measured with that many draws
    yield close("R9 Langwright's draws, within 3 deviations", drawn, 0.0430, 3 * deviation)


def entropy(p: Tensor) -> float:
    """Bits of surprise per draw: 0 means no choice, log2(9) = 3.17 means any of nine words."""
    return abs(float((p * p.clamp(min=1e-30).log2()).sum()))


def r10_temperature_and_k() -> Iterator[Figure]:
    """Exercise 5.2 on the nine words: both settings go from one word to any word.

    A low temperature or a small k suits facts, code and extraction; a high one stories and ideas.
    With GPT-2's weights the question is asked again in `exercises_gpt2.py`.
    """
    for temperature in (0.1, 1.0, 5.0):
        for k in (1, 3, 9):
            p = probabilities(temperature, k)
            words = ", ".join(f"{WORDS[i]} {p[i]:.2f}" for i in p.argsort(descending=True)[:3])
            print(f"    temperature {temperature:g}, k {k}: {entropy(p):.2f} bits; {words}")
            yield close(f"R10 words left at {temperature:g}, k {k}", (p > 0).sum(), k)
    by_heat = [entropy(probabilities(t)) for t in (0.1, 0.5, 1.0, 2.0, 5.0, 100.0)]
    yield close("R10 hotter is less certain", by_heat, sorted(by_heat))
    by_k = [entropy(probabilities(5.0, k)) for k in range(1, 10)]
    yield close("R10 larger k is less certain", by_k, sorted(by_k))
    top3 = probabilities(1.0, 3)
    yield close("R10 top 3", top3[[3, 7, 0]], [0.5775, 0.3610, 0.0615], 5e-5)
    nearly_any = probabilities(100.0)
    yield close("R10 at 100 nearly even", nearly_any, [1 / 9] * 9, 0.01)


def random_model() -> Transformer:
    """An untrained model: what it writes is nonsense, and different for each seed."""
    config = ModelConfig(vocab_size=90, context_length=64, width=32, layers=2, heads=4)
    return build_model(config, seed=1).eval()


def texts(model: Transformer, **settings: object) -> set[tuple[int, ...]]:
    """The distinct continuations that five seeds give."""
    found = set()
    for seed in range(5):
        sampling = Sampling.parse({"max_tokens": 20, "seed": seed, **settings})
        found.add(tuple(generate_tokens(model, [[1, 2, 3]], sampling)[0].ids))
    return found


def r11_no_chance() -> Iterator[Figure]:
    """Exercise 5.3: temperature 0, or k = 1, gives one text whatever the seed.

    "No temperature" in the book's words is temperature 1, which still draws; and k = 1 alone is
    enough only if ties are broken, as Langwright does (the lower id stays).
    """
    model = random_model()
    greedy = texts(model, temperature=0.0)
    yield close("R11 temperature 0: texts of five seeds", len(greedy), 1)
    yield close("R11 k = 1: the same text", texts(model, top_k=1) == greedy, True)
    yield close("R11 top-p 0: the same text", texts(model, top_p=0.0) == greedy, True)
    drawn = texts(model, temperature=1.0, top_p=1.0)
    yield close("R11 temperature 1: texts of five seeds", len(drawn), 5)
    again = texts(model, temperature=1.0, top_p=1.0)
    yield close("R11 but the same seed draws the same text", drawn == again, True)
    tie = SamplingRows.of([Sampling(top_k=1)])
    left = process_logits(torch.tensor([[1.0, 2.0, 2.0]]), tie).softmax(-1)
    yield close("R11 k = 1 with two equal logits", left, [0.0, 1.0, 0.0])


if __name__ == "__main__":
    sys.exit(show(r9_pizza(), r10_temperature_and_k(), r11_no_chance()))
