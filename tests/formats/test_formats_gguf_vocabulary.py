"""Vocabularies of GGUF files: byte-level BPE and SentencePiece, against a merge loop by hand."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from gguf_models import LlamaCpp, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.formats.gguf import load_gguf, save_gguf
from langwright.formats.gguf.splitting import NAMES, splitter, splitter_name
from langwright.formats.gguf.vocabulary import KEY, read_tokenizer
from langwright.formats.gguf.vocabulary_out import write_tokenizer
from langwright.tokenizer import (
    BytePairTokenizer,
    CharTokenizer,
    LibraryTokenizer,
    Tokenizer,
    WordTokenizer,
)

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
MARK = "\u2581"
WORDS = [
    "th", "he", "the", f"{MARK}t", f"{MARK}the", f"{MARK}{MARK}", "in", "ing", "er", "an", "and",
    f"{MARK}a", f"{MARK}an", f"{MARK}and", "at", "cat", f"{MARK}c", f"{MARK}cat", "\u00e9t",
]  # fmt: skip
CHARACTERS = [MARK, *"abcdefghijklmnopqrstuvwxyz.,!'", "\u00e9"]


def sentence_pieces(**changes) -> dict:
    """Metadata of a SentencePiece vocabulary: marks, bytes, words by rank, characters."""
    marks = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    tokens = [*marks, *bytes_, *WORDS, *CHARACTERS]
    scores = [0.0] * 259 + [-float(i) for i in range(len(WORDS) + len(CHARACTERS))]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(WORDS) + len(CHARACTERS))
    table = {
        "model": "llama",
        "tokens": tokens,
        "scores": np.array(scores, np.float32),
        "token_type": np.array(types, np.int32),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **changes,
    }
    return {KEY + key: value for key, value in table.items()} | {
        "tokenizer.chat_template": TEMPLATE
    }


def by_hand(text: str, prefix: bool = True) -> list[int]:
    """SentencePiece's BPE: join the neighbours with the highest score, the leftmost first."""
    table = sentence_pieces()
    tokens, scores = table[KEY + "tokens"], table[KEY + "scores"]
    ids = {token: index for index, token in enumerate(tokens)}
    parts = list((" " + text if prefix and text else text).replace(" ", MARK))
    while True:
        found = [
            (-scores[ids[one + two]], at)
            for at, (one, two) in enumerate(pairwise(parts))
            if ids.get(one + two, 0) >= 259
        ]
        if not found:
            break
        _, at = min(found)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    out: list[int] = []
    for part in parts:
        if part in ids:
            out.append(ids[part])
        else:
            out += [3 + value for value in part.encode()]
    return out


@settings(max_examples=150, deadline=None)
@given(st.text("thecatnding \u00e9\u4e2d\U0001f600.\n", max_size=30))
def test_sentence_pieces_are_joined_by_score(text):
    tokenizer = SENTENCES
    assert tokenizer.encode(text) == by_hand(text)
    if not text.startswith(" "):
        assert tokenizer.decode(tokenizer.encode(text)) == text


SENTENCES: Tokenizer = read_tokenizer(sentence_pieces())  # type: ignore[assignment]


def test_parts_and_template():
    assert isinstance(SENTENCES, LibraryTokenizer)
    assert (SENTENCES.bos_id, SENTENCES.eos_id, SENTENCES.pad_id) == (1, 2, None)
    assert SENTENCES.vocab_size == 259 + len(WORDS) + len(CHARACTERS)
    chat = SENTENCES.encode_chat([{"role": "user", "content": "the </s>"}])
    assert SENTENCES.decode(chat.ids).endswith("</s></s>")
    assert chat.ids.count(2) == 1  # what a user writes is no control token


def test_without_the_space_before():
    tokenizer = read_tokenizer(sentence_pieces(add_space_prefix=False, add_bos_token=False))
    assert tokenizer.encode("the cat") == by_hand("the cat", prefix=False)
    assert tokenizer.encode("the cat") != by_hand("the cat")
    assert tokenizer.decode(tokenizer.encode(" the cat")) == " the cat"
    assert tokenizer.bos_id is None
    assert write_tokenizer(tokenizer, 400)[KEY + "add_space_prefix"] is False


def test_scores_are_in_the_order_of_the_merges():
    metadata = write_tokenizer(SENTENCES, SENTENCES.vocab_size)
    table = sentence_pieces()
    for key in ("tokens", "token_type"):
        assert list(metadata[KEY + key]) == list(table[KEY + key])
    scores = metadata[KEY + "scores"][259:]
    assert all(one > two for one, two in pairwise(scores[: len(WORDS)]))
    assert max(scores[len(WORDS) :]) < min(scores[: len(WORDS)])


def test_sentence_pieces_there_and_back(tmp_path):
    """Our file of a SentencePiece vocabulary cuts alike, here and in llama.cpp."""
    model = random_model(vocab_size=384)
    save_gguf(SimpleNamespace(model=model, tokenizer=SENTENCES), tmp_path / "m.gguf", "f32")
    again = load_gguf(tmp_path / "m.gguf")[1]
    texts = ["the cat and the ing", "  \u00e9t \u4e2d\n", "catthe", "xyz!", "\U0001f600"]
    for text in texts:
        assert again.encode(text) == SENTENCES.encode(text) == by_hand(text)
    assert again.chat_template == TEMPLATE and (again.bos_id, again.eos_id) == (1, 2)
    server = LlamaCpp(tmp_path / "m.gguf", 384)
    for text in texts:
        ids = [1, *SENTENCES.encode(text)]
        by_text, count = server.logprobs(text, force=300)
        assert count == len(ids)
        np.testing.assert_allclose(by_text, server.logprobs(ids, force=300)[0], atol=1e-5)


def byte_pairs(pattern: str = "qwen2") -> BytePairTokenizer:
    merges = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the"), (b"1", b"2"), (b"\xc3", b"\xa9")]
    return BytePairTokenizer.from_merges(merges, pattern)


@pytest.mark.parametrize(
    "pattern,name", [("qwen2", "qwen2"), ("gpt2", "gpt-2"), ("gpt4", "llama-bpe")]
)
def test_byte_pairs_there_and_back(pattern, name):
    ours = byte_pairs(pattern)
    metadata = write_tokenizer(ours, 300)
    assert metadata[KEY + "pre"] == name
    assert len(metadata[KEY + "tokens"]) == 300
    plain = {
        key: np.array(value) if key.endswith("token_type") else value
        for key, value in metadata.items()
    }
    again = read_tokenizer(plain)
    assert isinstance(again, BytePairTokenizer)  # the fast kind
    assert (again.ranks, again.pattern) == (ours.ranks, ours.pattern)
    assert dict(again.specials.ids) == dict(ours.specials.ids)
    assert (again.eos_id, again.pad_id, again.bos_id) == (ours.eos_id, ours.pad_id, None)
    assert again.chat_template == ours.chat_template


def byte_level(**changes) -> dict:
    metadata = write_tokenizer(byte_pairs(), 300)
    metadata[KEY + "token_type"] = np.array(metadata[KEY + "token_type"])
    return metadata | {KEY + key: value for key, value in changes.items()}


def test_digits_apart():
    """SmolLM's cutting: each digit alone, then GPT-2's pattern."""
    tokenizer = read_tokenizer(byte_level(pre="smollm"))
    one, two, twelve = 49, 50, 259
    assert tokenizer.encode("12") == [one, two]
    assert read_tokenizer(byte_level(pre="gpt-2")).encode("12") == [twelve]
    assert read_tokenizer(byte_level(pre="qwen2")).encode("12") == [one, two]
    assert tokenizer.decode(tokenizer.encode("the 12\n\u00e9")) == "the 12\n\u00e9"


def test_names_of_splitters():
    assert {splitter_name(splitter(name)) for name in NAMES} == set(NAMES.values())
    for name, written in NAMES.items():
        assert splitter_name(splitter(name)) == written
    assert splitter_name({"type": "ByteLevel", "add_prefix_space": False}) == "gpt-2"
    assert splitter_name({"type": "ByteLevel", "add_prefix_space": True}) is None
    assert splitter_name({"type": "Metaspace"}) is None
    assert splitter_name(None) is None


def test_words_added_by_hand_are_found_first():
    types = byte_level()[KEY + "token_type"].copy()
    types[258] = 4  # " the", which is then found before any merge
    tokenizer = read_tokenizer(byte_level(token_type=types))
    assert isinstance(tokenizer, LibraryTokenizer)
    assert tokenizer.encode("\u0120the")[0] == 258
    again = write_tokenizer(tokenizer, 300)
    assert again[KEY + "token_type"][258] == 4


def test_the_beginning_is_llama_cpp_s():
    assert read_tokenizer(byte_level(bos_token_id=261)).bos_id is None
    assert read_tokenizer(byte_level(bos_token_id=261, add_bos_token=True)).bos_id == 261
    table = byte_level(bos_token_id=261, pre="llama-bpe")
    del table[KEY + "add_bos_token"]
    assert read_tokenizer(table).bos_id == 261


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"model": "bert"}, "kind of vocabulary"),
        ({"pre": "default"}, "pattern"),
        ({"pre": 7}, "pattern"),
        ({"tokens": []}, "no tokens"),
        ({"tokens": ["a"]}, "type for each token"),
        ({"merges": ["a b c"]}, "pairs"),
        ({"merges": ["zz q"]}, "vocabulary cannot be used"),
        ({"merges": None}, "pairs"),
        ({"eos_token_id": 300}, "no such token"),
        ({"eos_token_id": -1}, "no such token"),
        ({"eos_token_id": 2.0}, "no such token"),
    ],
)
def test_broken_byte_pairs(changes, message):
    with pytest.raises(UserError, match=message):
        read_tokenizer(byte_level(**changes), "file.gguf")


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"scores": np.zeros(3)}, "score for each token"),
        ({"scores": np.full(311, np.nan)}, "score"),
        ({"tokens": ["a"] * 312}, "two tokens|type for each"),
        ({"tokens": ["a" * 2000]}, "too long"),
    ],
)
def test_broken_sentence_pieces(changes, message):
    with pytest.raises(UserError, match=message):
        read_tokenizer(sentence_pieces(**changes), "file.gguf")


def test_a_template_that_is_no_text():
    with pytest.raises(UserError, match="template"):
        read_tokenizer(byte_level() | {"tokenizer.chat_template": 3})


def test_tokenizers_that_llama_cpp_lacks():
    characters = CharTokenizer.train(["abc"], ["<|endoftext|>"])
    words = WordTokenizer.train(["a b c"], ["<|endoftext|>"])
    merges = BytePairTokenizer.from_merges([], "gpt2", ["<|im_end|>"])
    for tokenizer, message in (
        (characters, "char vocabulary"),
        (words, "word vocabulary"),
        (merges, "no end token"),
    ):
        with pytest.raises(UserError, match=message):
            write_tokenizer(tokenizer, 400)
    with pytest.raises(UserError, match="ids that the model does not"):
        write_tokenizer(byte_pairs(), 200)
    own = BytePairTokenizer(byte_pairs().ranks, r"\p{L}+|\P{L}+", byte_pairs().specials)
    with pytest.raises(UserError, match="split pattern"):
        write_tokenizer(own, 300)
