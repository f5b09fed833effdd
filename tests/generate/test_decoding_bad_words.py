"""Bad words never stand in the text, whatever tokens it is made of; all else stays possible."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.generate import Decoder, DecodingRow, SamplingParams
from langwright.generate.decoding.bad_words import BadWords
from langwright.tokenizer import Tokenizer, TokenizerConfig, WordTokenizer, train_tokenizer

TEXT = "spy spies spying aspic a spa is passing by; ab ba abba baab é è 日本 "


@pytest.fixture(scope="module")
def bytes_tokenizer() -> Tokenizer:
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=290), [TEXT * 3])
    assert max(len(tokenizer.token_bytes(token)) for token in range(280)) > 1
    return tokenizer


def draw_text(tokenizer: Tokenizer, words: list[str], seed: int, favour: str) -> str:
    """Random text of a model that likes the bytes of `favour`."""
    params = SamplingParams(top_p=1.0, bad_words=words)
    row = DecodingRow(params, [0], vocab_size=tokenizer.vocab_size, seed=seed, tokenizer=tokenizer)
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(tokenizer.vocab_size)
    likely = [
        token
        for token in range(tokenizer.vocab_size)
        if tokenizer.token_bytes(token) in favour.encode()
    ]
    for _ in range(60):
        logits = torch.randn(1, tokenizer.vocab_size, generator=generator)
        logits[0, likely] += 6
        row.take(int(decoder.draw(logits, [row]).tokens))
    return tokenizer.decode(row.ids, skip_special=True)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    words=st.lists(st.sampled_from(["spy", "ab", "abba", "s", " pa", "é", "本", "aa"]), min_size=1),
)
def test_never_in_the_text(bytes_tokenizer: Tokenizer, seed: int, words: list[str]) -> None:
    text = draw_text(bytes_tokenizer, words, seed, "spy ab aabba é日本")
    assert not [word for word in words if word in text]


def test_without_the_ban_they_do_stand_there(bytes_tokenizer: Tokenizer) -> None:
    assert "ab" in draw_text(bytes_tokenizer, ["zz"], 3, "spy ab aabba")


def test_only_what_would_complete_a_word_is_banned(bytes_tokenizer: Tokenizer) -> None:
    words = ["spy", "abba"]
    bans = BadWords(words, bytes_tokenizer)
    texts = [bytes_tokenizer.token_bytes(token) for token in range(bytes_tokenizer.vocab_size)]
    end = bytes_tokenizer.special_tokens["<|endoftext|>"]
    said = b""
    for token in bytes_tokenizer.encode_ordinary("a sp abab bab spi abb"):
        bans.take(token)
        said += texts[token]
        banned = {
            one
            for one, text in enumerate(texts)
            if one != end and any(word.encode() in said[-8:] + text for word in words)
        }
        assert set(bans.banned()) == banned


def test_control_tokens_do_not_part_a_word(bytes_tokenizer: Tokenizer) -> None:
    bans = BadWords(["spy"], bytes_tokenizer)
    for token in (
        *bytes_tokenizer.encode_ordinary("sp"),
        bytes_tokenizer.special_tokens["<|endoftext|>"],
    ):
        bans.take(token)
    assert bytes_tokenizer.encode_ordinary("y")[0] in bans.banned()


def test_a_tokenizer_of_words_is_refused() -> None:
    tokenizer = WordTokenizer.train(["a bad word"])
    with pytest.raises(UserError, match="blanks"):
        BadWords(["bad"], tokenizer)
