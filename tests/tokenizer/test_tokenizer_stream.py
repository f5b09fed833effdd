"""Text as it comes: whole characters only, and in the end exactly what decoding gives."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_samples import SAMPLE, any_texts

from langwright.base import UserError
from langwright.tokenizer import StreamDecoder, TokenizerConfig, WordTokenizer, train_tokenizer

MANY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def stream(tokenizer, ids, **options):
    decoder = StreamDecoder(tokenizer, **options)
    pieces = [decoder.push(one) for one in ids]
    return pieces, decoder.finish()


@MANY
@given(data=st.data())
def test_any_ids_give_what_decode_gives(bpe, data):
    # Mostly single bytes: these often do not make up characters.
    one = st.integers(0, 255) | st.integers(0, bpe.vocab_size - 1)
    ids = data.draw(st.lists(one, max_size=30))
    for skip in (False, True):
        pieces, rest = stream(bpe, ids, skip_special=skip)
        assert "".join(pieces) + rest == bpe.decode(ids, skip_special=skip)


@MANY
@given(text=any_texts)
def test_of_real_text_only_whole_characters_come(bpe, text):
    ids = bpe.encode(text)
    pieces, rest = stream(bpe, ids)
    assert rest == ""
    said = "".join(pieces)
    assert said == bpe.decode(ids)
    assert said.count("\ufffd") == bpe.decode(ids).count("\ufffd")


def test_a_character_waits_for_its_last_byte(bpe):
    decoder = StreamDecoder(bpe)
    first, *middle, last = "😀".encode()
    assert [decoder.push(one) for one in (first, *middle)] == ["", "", ""]
    assert decoder.push(last) == "😀"
    assert decoder.push(first) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.push(ord("a")) == "a"  # ready for another text


def test_an_id_out_of_range(bpe):
    with pytest.raises(UserError, match="no such token id"):
        StreamDecoder(bpe).push(bpe.vocab_size)


@MANY
@given(st.lists(st.sampled_from(["Hello", ",", ".", '"', "it", "'", "(", "--"]), max_size=12))
def test_words(words):
    tokenizer = WordTokenizer.train(["Hello , . \" it ' ( -- x"])
    ids = [tokenizer.ids[word] for word in words]
    pieces, rest = stream(tokenizer, ids)
    assert "".join(pieces) + rest == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_kinds_run_by_the_library(kind):
    tokenizer = train_tokenizer(TokenizerConfig(kind=kind, vocab_size=384), [SAMPLE])
    ids = tokenizer.encode(SAMPLE[:400]) + [tokenizer.eos_id] + tokenizer.encode("Über 東")
    pieces, rest = stream(tokenizer, ids)
    assert "".join(pieces) + rest == tokenizer.decode(ids)
    assert len([piece for piece in pieces if piece]) > len(ids) / 3
