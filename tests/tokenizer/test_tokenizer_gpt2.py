"""GPT-2's vocabulary from its published files."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from tokenizer_samples import HARD, hard_texts

from langwright.base import UserError
from langwright.tokenizer import END_OF_TEXT, gpt2_tokenizer

FEW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def files(shared_data):
    return shared_data("gpt2-encoder.json"), shared_data("gpt2-vocab.bpe")


@pytest.fixture
def ours(files):
    return _read(*files)


@functools.cache
def _read(encoder, merges):
    return gpt2_tokenizer(encoder, merges)


def test_sizes(ours):
    assert ours.vocab_size == 50_257 == 256 + 50_000 + 1
    assert ours.special_tokens == {END_OF_TEXT: 50_256}
    assert ours.eos_id == 50_256
    assert ours.bos_id is None
    assert ours.chat_template is None
    assert len(ours.merges) == 50_000


def test_story_length(ours, shared_data):
    story = shared_data("the-verdict.txt").read_text(encoding="utf-8")
    ids = ours.encode(story)
    assert len(ids) == 5145
    assert round(len(story) / len(ids), 2) == 3.98
    assert ours.decode(ids) == story


def test_unknown_words_fall_into_pieces(ours):
    ids = ours.encode("Akwirw ier")
    assert ids == [33901, 86, 343, 86, 220, 959]
    assert [ours.decode([one]) for one in ids] == ["Ak", "w", "ir", "w", " ", "ier"]
    assert ours.decode(ids) == "Akwirw ier"


def test_the_separator_needs_permission(ours):
    text = "Hello, do you like tea? <|endoftext|> In the sunlit terraces of someunknownPlace."
    allowed = ours.encode(text, allowed_special={END_OF_TEXT})
    # fmt: off
    assert allowed == [15496, 11, 466, 345, 588, 8887, 30, 220, 50256, 554, 262, 4252, 18250,
                       8812, 2114, 286, 617, 34680, 27271, 13]
    # fmt: on
    ordinary = ours.encode(text)
    assert 50256 not in ordinary
    assert ours.decode(ordinary) == ours.decode(allowed) == text


@pytest.fixture
def theirs(files):
    return _read_theirs(*map(str, files))


@functools.cache
def _read_theirs(encoder, merges):
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tokenizers.implementations import ByteLevelBPETokenizer

    ranks = data_gym_to_mergeable_bpe_ranks(vocab_bpe_file=merges, encoder_json_file=encoder)
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    fast = tiktoken.Encoding(
        "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 50256}
    )
    library = ByteLevelBPETokenizer(encoder, merges, add_prefix_space=False)
    return fast, library


@FEW
@given(text=hard_texts)
def test_equal_to_tiktoken_and_tokenizers(ours, theirs, text):
    fast, library = theirs
    ids = ours.encode(text)
    assert ids == fast.encode_ordinary(text)
    assert ids == library.encode(text).ids
    assert ours.encode(text, allowed_special="all") == fast.encode(text, allowed_special="all")
    assert ours.decode(ids) == text


def test_hard_texts(ours, theirs):
    fast, library = theirs
    for text in HARD:
        assert ours.encode(text) == fast.encode_ordinary(text) == library.encode(text).ids, text


def test_a_broken_merge_file_is_named(files, tmp_path):
    encoder, merges = files
    lines = merges.read_text(encoding="utf-8").split("\n")
    swapped = tmp_path / "swapped.bpe"
    swapped.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]), encoding="utf-8")
    with pytest.raises(UserError, match=r"swapped\.bpe:2"):
        gpt2_tokenizer(encoder, swapped)
    short = tmp_path / "short.bpe"
    short.write_text("\n".join(lines[:-5]), encoding="utf-8")
    with pytest.raises(UserError, match="do not belong together"):
        gpt2_tokenizer(encoder, short)
    with pytest.raises(UserError, match="file not found"):
        gpt2_tokenizer(encoder, tmp_path / "none.bpe")
