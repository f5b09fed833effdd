"""The book's weights give the book's losses in Langwright's transformer."""

from __future__ import annotations

from pathlib import Path

import book_weights
import pytest
import torch
from book_weights import copy_book_weights, production_config
from story_fixture import BookConfig, BookGPT

from langwright.model import build_model

SMALL = BookConfig(vocab_size=90, context_length=16, width=24, heads=3, layers=2)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_copied_weights_give_the_same_logits(qkv_bias: bool) -> None:
    config = BookConfig(**{**SMALL.__dict__, "qkv_bias": qkv_bias})
    torch.manual_seed(5)
    book = BookGPT(config).eval()
    for parameter in book.parameters():  # norms and biases away from 1 and 0
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    production = build_model(production_config(config)).eval()
    ids = torch.randint(90, (3, 16))
    assert not torch.allclose(production(ids), book(ids), atol=1e-2)
    copy_book_weights(book, production)
    torch.testing.assert_close(production(ids), book(ids), atol=2e-5, rtol=1e-5)


def test_weights_of_another_shape_are_refused() -> None:
    other = BookConfig(vocab_size=91, context_length=16, width=24, heads=3, layers=2)
    with pytest.raises(RuntimeError, match=r"tokens\.weight"):
        copy_book_weights(BookGPT(other), build_model(production_config(SMALL)))


def test_losses_of_the_book(story_and_tokenizer: tuple) -> None:
    figures = list(book_weights.copied_figures(*story_and_tokenizer, train_too=False))
    assert len(figures) == 3
    assert not [str(figure) for figure in figures if not figure.matches]


@pytest.mark.slow
def test_untrained_training_loss(story_and_tokenizer: tuple) -> None:
    figures = list(book_weights.copied_figures(*story_and_tokenizer))
    assert not [str(figure) for figure in figures if not figure.matches]


@pytest.mark.slow
def test_the_book_recipe_ends_where_the_book_ends(
    story_and_tokenizer: tuple, tmp_path: Path
) -> None:
    """90 updates of 162M parameters, about 10 minutes on 2 cores with fast bf16."""
    losses = book_weights.train_story(*story_and_tokenizer, tmp_path)
    assert 6.2 < losses["valid"] < 6.6
    assert losses["train"] < 1.0
