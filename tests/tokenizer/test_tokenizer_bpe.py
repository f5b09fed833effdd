"""Byte-pair encoding: training equals its specification, all engines give the same ids."""

from __future__ import annotations

import pickle
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_samples import HARD, SAMPLE, any_texts, hard_texts

from langwright.base import UserError
from langwright.tokenizer import (
    PATTERNS,
    BytePairTokenizer,
    TokenizerConfig,
    encode_reference,
    load_tokenizer,
    train_merges,
    train_reference,
    train_tokenizer,
)
from langwright.tokenizer.encoders import ENGINES, LONGEST_BLANK
from langwright.tokenizer.merging import merge_piece, merges_of
from langwright.tokenizer.train import PORTION, portions

MANY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SMALL = st.lists(st.text("ab c\n1é", max_size=40), min_size=1, max_size=4)


@MANY
@given(texts=SMALL, count=st.integers(0, 40), name=st.sampled_from(["qwen2", "gpt2", "gpt4"]))
def test_every_trainer_learns_the_merges_of_the_reference(texts, count, name):
    pytest.importorskip("rustbpe")
    expected = train_reference(texts, count, PATTERNS[name])
    assert train_merges(texts, count, PATTERNS[name], "python") == expected
    assert train_merges(texts, count, PATTERNS[name], "rustbpe") == expected


def test_trainers_agree_on_a_longer_text():
    pytest.importorskip("rustbpe")
    rng = random.Random(3)
    words = ["".join(rng.choices("aeioustrn", k=rng.randint(1, 9))) for _ in range(400)]
    text = " ".join(rng.choices(words, k=5000))
    fast = train_merges([text], 600, PATTERNS["qwen2"], "rustbpe")
    assert len(fast) == 600
    assert train_merges([text], 600, PATTERNS["qwen2"], "python") == fast
    assert train_reference([text], 60, PATTERNS["qwen2"]) == fast[:60]


def test_nearly_the_vocabulary_of_the_hugging_face_trainer():
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    pattern = PATTERNS["qwen2"]
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rng = random.Random(5)
    text = " ".join("".join(rng.choices("aeioustrn", k=4)) for _ in range(5000))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(
        [text],
        trainers.BpeTrainer(vocab_size=356, initial_alphabet=alphabet, show_progress=False),
    )
    ours = BytePairTokenizer.from_merges(train_merges([text], 100, pattern))
    mine = set(ours.to_json()["model"]["vocab"])
    assert len(mine & set(theirs.get_vocab())) >= 354  # ties are broken in another order


@MANY
@given(text=hard_texts)
def test_every_engine_gives_the_ids_of_the_reference(bpe, text):
    expected = [bpe.ranks[token] for token in encode_reference(text, bpe.merges, bpe.pattern)]
    for engine in ENGINES:
        other = BytePairTokenizer(bpe.ranks, bpe.pattern, bpe.specials, encoder=engine)
        assert other.encode(text) == expected, engine
        assert other.encode_batch([text])[0].tolist() == expected, engine


@MANY
@given(text=any_texts)
def test_text_comes_back_and_engines_agree_on_any_code_points(bpe, text):
    ids = bpe.encode(text)
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert bpe.decode(ids) == joined  # lone surrogates have become U+FFFD, nothing else changed
    assert bpe.decode_bytes(ids) == b"".join(map(bpe.token_bytes, ids))
    assert not set(ids) & set(bpe.special_tokens.values())
    library = BytePairTokenizer(bpe.ranks, bpe.pattern, bpe.specials, encoder="tokenizers")
    assert library.encode(text) == ids


def test_lone_surrogates_are_replaced(bpe):
    assert bpe.decode(bpe.encode("a\ud800b")) == "a\ufffdb"
    assert bpe.decode(bpe.encode("\ud83d\ude00")) == "😀"
    assert bpe.encode_batch(["a\ud800b"])[0].tolist() == bpe.encode("a\ufffdb")


def test_batches_equal_single_texts(bpe):
    rng = random.Random(0)
    texts = ["".join(rng.choices([*HARD, SAMPLE[:50], "word "], k=4)) for _ in range(300)]
    batch = bpe.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [bpe.encode(text) for text in texts]
    assert all(ids.dtype == np.uint32 for ids in batch)
    assert bpe.encode_batch([]) == []


@pytest.mark.parametrize("symbol", [" ", "\n", "\u3000", "a", "^", "1", " \n", "aA "])
def test_long_runs_do_not_break_any_engine(bpe, symbol):
    text = "x" + symbol * (4 * LONGEST_BLANK) + "y"
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    slow = BytePairTokenizer(bpe.ranks, bpe.pattern, bpe.specials, encoder="regex")
    assert slow.encode(text) == ids
    assert bpe.encode_batch([text, text])[1].tolist() == ids


def test_a_missing_engine_is_named(bpe, monkeypatch):
    import importlib.util

    from langwright.tokenizer import encoders

    real = importlib.util.find_spec
    monkeypatch.setattr(
        encoders.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tiktoken" else real(name, *rest),
    )
    fallback = BytePairTokenizer(bpe.ranks, bpe.pattern, bpe.specials)
    assert fallback.encoder.name == "tokenizers"
    assert fallback.encode(SAMPLE) == bpe.encode(SAMPLE)
    with pytest.raises(UserError, match="tiktoken is not installed"):
        _ = BytePairTokenizer(bpe.ranks, bpe.pattern, encoder="tiktoken").encoder
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(UserError, match="no library is installed"):
        _ = BytePairTokenizer(bpe.ranks, bpe.pattern).encoder
    assert bpe.encoder.name == "tiktoken"


def test_digits_by_pattern():
    for name, pieces in (("qwen2", ["1", "2", "3", "4"]), ("gpt4", ["123", "4"])):
        config = TokenizerConfig(vocab_size=320, pattern=name)
        tokenizer = train_tokenizer(config, ["1234 " * 50])
        assert [tokenizer.decode([one]) for one in tokenizer.encode("1234")] == pieces


def test_vocabulary_is_filled_to_the_multiple():
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=330), [SAMPLE])
    assert tokenizer.vocab_size == 384
    assert not [name for name in tokenizer.special_tokens if "reserved" in name]
    little = train_tokenizer(TokenizerConfig(vocab_size=1000), ["aaa bbb"])
    assert little.vocab_size == 320
    assert len(set(little.special_tokens.values())) == len(little.special_tokens)
    assert max(little.special_tokens.values()) == 319
    exact = train_tokenizer(TokenizerConfig(vocab_size=300, pad_to_multiple=1), [SAMPLE])
    assert exact.vocab_size == 300
    with pytest.raises(UserError, match="too small"):
        train_tokenizer(TokenizerConfig(vocab_size=100, pad_to_multiple=1), [SAMPLE])


def test_training_limits_and_errors():
    config = TokenizerConfig(vocab_size=320, training_characters=30, max_document_characters=20)
    limited = train_tokenizer(config, ["ab" * 100, "cd" * 100, "ef" * 100])
    assert limited.ranks.get(b"ab") is not None
    assert limited.ranks.get(b"cd") is not None
    assert limited.ranks.get(b"ef") is None
    assert max(map(len, limited.ranks)) <= 20
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(TokenizerConfig(), [])


def test_a_long_document_is_used_whole_and_words_are_not_cut():
    text = " ".join(f"w{number}" for number in range(40_000))
    pieces = list(portions(text))
    assert "".join(pieces) == text
    assert len(pieces) > 4
    assert max(map(len, pieces)) <= PORTION
    words = train_tokenizer(TokenizerConfig(kind="word", vocab_size=2**20), [text])
    assert len(words.tokens) == 40_000
    solid = "x" * (2 * PORTION + 5)
    assert [len(piece) for piece in portions(solid)] == [PORTION, PORTION, 5]
    assert list(portions("")) == []


def test_surrogates_in_training_text():
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=320), ["a\ud800b" * 9])
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_smaller_vocabularies_are_nested(bpe):
    small = bpe.truncated(300)
    assert small.vocab_size == 300
    assert small.merges == bpe.merges[: 300 - 256 - len(bpe.special_tokens)]
    assert list(small.special_tokens) == list(bpe.special_tokens)
    assert small.decode(small.encode(SAMPLE)) == SAMPLE
    with pytest.raises(UserError, match="cannot cut"):
        bpe.truncated(100)


def test_ids_out_of_range(bpe):
    for wrong in (-1, bpe.vocab_size):
        with pytest.raises(UserError, match="no such token id"):
            bpe.decode([wrong])


def test_impossible_vocabularies_are_refused():
    single = {bytes([value]): value for value in range(256)}
    with pytest.raises(UserError, match="256 bytes"):
        BytePairTokenizer({b"a": 0}, PATTERNS["gpt2"])
    with pytest.raises(UserError, match="not the union of two"):
        BytePairTokenizer({**single, b"abc": 256}, PATTERNS["gpt2"])
    with pytest.raises(UserError, match="share one id"):
        BytePairTokenizer({**single, b"ab": 3}, PATTERNS["gpt2"])


@given(st.binary(max_size=30))
def test_merging_a_piece_equals_the_plain_way(bpe, piece):
    parts = [bytes([value]) for value in piece]
    while len(parts) > 1:
        ranks = [bpe.ranks.get(a + b, 10**9) for a, b in pairwise(parts)]
        at = min(range(len(ranks)), key=lambda index: (ranks[index], index))
        if ranks[at] == 10**9:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    assert merge_piece(piece, bpe.ranks) == parts


def test_merges_are_found_again_from_the_ranks(bpe):
    assert (
        merges_of(bpe.ranks)
        == bpe.merges
        == train_reference([SAMPLE], len(bpe.merges), bpe.pattern)
    )


def test_pickling_for_worker_processes(bpe):
    bpe.encode_chat([{"role": "user", "content": "x"}])
    copy = pickle.loads(pickle.dumps(bpe))
    assert copy.encode(SAMPLE) == bpe.encode(SAMPLE)
    assert "encoder" in vars(copy)


def test_same_vocabulary_every_time(tmp_path, bpe):
    again = train_tokenizer(TokenizerConfig(vocab_size=448), [SAMPLE])
    slow = train_tokenizer(TokenizerConfig(vocab_size=448, trainer="python"), [SAMPLE])
    assert again.to_json() == slow.to_json() == bpe.to_json()
    bpe.save(tmp_path)
    assert load_tokenizer(tmp_path).to_json() == bpe.to_json()
