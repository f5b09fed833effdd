"""Splitters, word vocabularies and characters: every figure of the book's second chapter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.tokenizer import (
    END_OF_TEXT,
    UNKNOWN,
    CharTokenizer,
    UnknownTokenError,
    WordTokenizer,
    raw_pieces,
    split_words,
)

QUOTE = '"It\'s the last he painted, you know," Mrs. Gisburn said with pardonable pride.'
TWO_TEXTS = "Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace."


@pytest.fixture
def story(shared_data):
    return shared_data("the-verdict.txt").read_text(encoding="utf-8")


def test_whitespace_splitter():
    text = "Hello, world. This, is a test."
    assert len(raw_pieces(text, "whitespace")) == 11
    assert split_words(text, "whitespace") == ["Hello,", "world.", "This,", "is", "a", "test."]


def test_comma_period_splitter_leaves_empty_strings_that_are_filtered():
    text = "Hello, world. This, is a test."
    raw = raw_pieces(text, "comma_period")
    assert len(raw) == 19
    assert "" in raw
    words = split_words(text, "comma_period")
    assert words == ["Hello", ",", "world", ".", "This", ",", "is", "a", "test", "."]


def test_full_splitter():
    words = split_words("Hello, world. Is this-- a test?", "full")
    assert words == ["Hello", ",", "world", ".", "Is", "this", "--", "a", "test", "?"]
    assert split_words("a:b;c", "full") == ["a", ":", "b", ";", "c"]
    assert split_words("a:b;c", "story") == ["a:b;c"]


def test_whitespace_is_kept_on_request():
    code = "def f(x):\n    return x\n"
    kept = split_words(code, "full", keep_whitespace=True)
    assert "".join(kept) == code
    assert kept.count(" ") == 6
    assert not any(piece.isspace() for piece in split_words(code, "full"))


def test_unknown_splitter_is_named():
    with pytest.raises(UserError, match="unknown splitter"):
        raw_pieces("x", "chars")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("splitter", "words", "types"), [("story", 4649, 1159), ("full", 4690, 1130)]
)
def test_story_counts(story, splitter, words, types):
    assert len(story) == 20_479
    assert len(split_words(story, splitter)) == words
    assert WordTokenizer.train([story], splitter=splitter).vocab_size == types


def test_story_vocabulary(story):
    first = WordTokenizer.train([story], splitter="story")
    assert first.tokens[:3] == ["!", '"', "'"]
    assert first.tokens[49:51] == ["Has", "He"]
    assert first.tokens[1156:] == ["younger", "your", "yourself"]
    second = WordTokenizer.train([story], splitter="full")
    assert second.tokens[1127:] == ["younger", "your", "yourself"]


# fmt: off
FIRST_IDS = [1, 58, 2, 872, 1013, 615, 541, 763, 5, 1155, 608, 5, 1, 69, 7, 39, 873, 1136, 773,
             812, 7]
SECOND_IDS = [1, 56, 2, 850, 988, 602, 533, 746, 5, 1126, 596, 5, 1, 67, 7, 38, 851, 1108, 754,
              793, 7]
# fmt: on


@pytest.mark.parametrize(("splitter", "ids"), [("story", FIRST_IDS), ("full", SECOND_IDS)])
def test_first_word_tokenizer(story, splitter, ids):
    tokenizer = WordTokenizer.train([story], splitter=splitter)
    assert tokenizer.encode(QUOTE) == ids
    decoded = tokenizer.decode(ids)
    # The text does not come back (spaces after the quote and the apostrophe), the words do.
    assert decoded == (
        '" It\' s the last he painted, you know," Mrs. Gisburn said with pardonable pride.'
    )
    assert tokenizer.encode(decoded) == ids


def test_unknown_word_is_a_key_error_that_reads_well(story):
    tokenizer = WordTokenizer.train([story], splitter="story")
    with pytest.raises(UnknownTokenError, match="not in the vocabulary") as caught:
        tokenizer.encode("Hello, do you like tea?")
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, UserError)
    assert "'Hello'" in str(caught.value)


# fmt: off
FIRST_TWO = [1160, 5, 362, 1155, 642, 1000, 10, 1159, 57, 1013, 981, 1009, 738, 1013, 1160, 7]
SECOND_TWO = [1131, 5, 355, 1126, 628, 975, 10, 1130, 55, 988, 956, 984, 722, 988, 1131, 7]
# fmt: on


@pytest.mark.parametrize(
    ("splitter", "size", "ids"), [("story", 1161, FIRST_TWO), ("full", 1132, SECOND_TWO)]
)
def test_second_word_tokenizer(story, splitter, size, ids):
    tokenizer = WordTokenizer.train([story], [END_OF_TEXT], splitter=splitter, unknown="unk")
    assert tokenizer.vocab_size == size
    assert tokenizer.special_tokens == {END_OF_TEXT: size - 2, UNKNOWN: size - 1}
    assert tokenizer.encode(TWO_TEXTS, allowed_special={END_OF_TEXT}) == ids
    assert tokenizer.decode(ids) == (
        "<|unk|>, do you like tea? <|endoftext|> In the sunlit terraces of the <|unk|>."
    )
    # Not allowed, the separator is a word like any other, and an unknown one.
    assert tokenizer.encode(TWO_TEXTS)[7] == size - 1


def test_word_vocabulary_of_the_most_frequent_words():
    tokenizer = WordTokenizer.train(["b b a a c"], size=2, unknown="unk")
    assert tokenizer.tokens == ["a", "b"]
    with pytest.raises(UserError, match="more different words"):
        WordTokenizer.train(["b b a a c"], size=2)


@given(st.text(st.sampled_from("ab .,-\n'\"("), max_size=40))
def test_words_with_whitespace_come_back_exactly(text):
    tokenizer = WordTokenizer.train([text], keep_whitespace=True)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(max_size=60))
def test_characters_come_back_exactly(text):
    tokenizer = CharTokenizer.train([text])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, text])[1].tolist() == ids
    assert tokenizer.vocab_size == len(set(text))


def test_unknown_characters():
    strict = CharTokenizer.train(["abc"])
    for encode in (strict.encode, lambda text: strict.encode_batch([text])):
        with pytest.raises(UnknownTokenError, match="'é'"):
            encode("abé")
    loose = CharTokenizer.train(["abc"], [END_OF_TEXT], unknown="unk")
    assert loose.special_tokens == {END_OF_TEXT: 3, UNKNOWN: 4}
    assert loose.encode("aé😀c") == [0, 4, 4, 2]
    assert loose.encode_batch(["aé😀c"])[0].tolist() == [0, 4, 4, 2]
    assert loose.encode("a<|endoftext|>", allowed_special="all") == [0, 3]


def test_shakespeare_has_65_characters(shared_data):
    text = shared_data("tinyshakespeare.txt").read_text(encoding="utf-8")
    tokenizer = CharTokenizer.train([text])
    assert tokenizer.vocab_size == 65
    assert len(tokenizer.encode_batch([text])[0]) == len(text)
