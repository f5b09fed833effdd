"""A small random model and a tokenizer of single characters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from langwright.generate import LanguageModel
from langwright.model import ModelConfig, Transformer, build_model
from langwright.tokenizer import CharTokenizer

LETTERS = "abcdefghij .\n"


def build(position: str = "rotary", **changes: object) -> Transformer:
    values = {
        "vocab_size": 16,
        "context_length": 48,
        "width": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "position": position,
        "norm": "rmsnorm",
        "feedforward": "swiglu",
        "dropout_residual": 0.5,
        **changes,
    }
    model = build_model(ModelConfig.parse(values), seed=3)
    with torch.no_grad():  # larger weights: distributions far from uniform
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


@pytest.fixture
def tiny_model() -> Callable[..., Transformer]:
    return build


@pytest.fixture
def tokenizer() -> CharTokenizer:
    return CharTokenizer.train(
        [LETTERS], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|endoftext|>"
    )


@pytest.fixture
def lm(tokenizer: CharTokenizer) -> LanguageModel:
    return LanguageModel(build(), tokenizer)
