"""A small vocabulary that the tokenizer tests share."""

from __future__ import annotations

import pytest
from tokenizer_samples import SAMPLE

from langwright.tokenizer import BytePairTokenizer, TokenizerConfig, train_tokenizer


@pytest.fixture(scope="session")
def bpe() -> BytePairTokenizer:
    """With the marks of ChatML."""
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=448), [SAMPLE])
    assert isinstance(tokenizer, BytePairTokenizer)
    return tokenizer
