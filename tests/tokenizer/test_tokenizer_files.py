"""Saving and loading; files from strangers."""

from __future__ import annotations

import json
import os

import pytest
from tokenizer_samples import HARD, SAMPLE

from langwright.base import UserError
from langwright.tokenizer import (
    CHAT_SPECIALS,
    END_OF_TEXT,
    PATTERNS,
    BytePairTokenizer,
    CharTokenizer,
    LibraryTokenizer,
    TokenizerConfig,
    WordTokenizer,
    load_tokenizer,
    train_tokenizer,
)
from langwright.tokenizer.files import LARGEST_FILE

TALK = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Ho"}]


@pytest.mark.parametrize("kind", ["bpe", "char", "word", "unigram", "wordpiece"])
def test_every_kind_comes_back(kind, tmp_path):
    config = TokenizerConfig(kind=kind, vocab_size=384, special_tokens=CHAT_SPECIALS)
    tokenizer = train_tokenizer(config, [SAMPLE])
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = load_tokenizer(path)
        assert type(again) is type(tokenizer)
        assert again.kind == kind
        assert again.to_json() == tokenizer.to_json()
        assert again.specials == tokenizer.specials
        assert again.vocab_size == tokenizer.vocab_size
        assert (again.eos_id, again.pad_id, again.bos_id) == (
            tokenizer.eos_id,
            tokenizer.pad_id,
            None,
        )
        for text in [SAMPLE, *HARD]:
            assert again.encode(text) == tokenizer.encode(text)
        assert again.encode_chat(TALK) == tokenizer.encode_chat(TALK)
        assert [again.token_bytes(one) for one in range(again.vocab_size)] == [
            tokenizer.token_bytes(one) for one in range(again.vocab_size)
        ]


@pytest.mark.parametrize("kind", ["char", "unigram", "wordpiece"])
def test_auto_tokenizer_opens_other_kinds(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = train_tokenizer(TokenizerConfig(kind=kind, vocab_size=384), [SAMPLE])
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = SAMPLE[:300] + "<|endoftext|> ☃ end"
    assert theirs(text, add_special_tokens=False)["input_ids"] == (
        tokenizer.encode(text, allowed_special="all")
    )
    if kind != "wordpiece":
        ids = tokenizer.encode(SAMPLE)
        assert theirs.decode(ids) == tokenizer.decode(ids) == SAMPLE
    assert theirs.eos_token_id == tokenizer.eos_id


def test_marks_come_back(tmp_path):
    tokenizer = BytePairTokenizer.from_merges(
        [(b"a", b"b")], special_tokens=["<s>", "</s>", "<pad>"], bos="<s>", eos="</s>", pad="<pad>"
    )
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.bos_id, again.eos_id, again.pad_id) == (257, 258, 259)
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).eos_id == 258  # by its usual name


def test_a_template_in_a_file_of_its_own(tmp_path, bpe):
    bpe.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    chat = load_tokenizer(tmp_path).encode_chat(TALK)
    assert bpe.decode(chat.ids) == "Hi <|im_end|><|im_end|>Ho<|im_end|>"


def library_file(tmp_path, change):
    """A small byte-level file as the library writes it, changed by `change`."""
    tokenizer = BytePairTokenizer.from_merges([(b"a", b"b"), (b"ab", b"c")], "gpt2")
    content = tokenizer.to_json()
    change(content)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    return path


def test_gpt2_style_files_are_read_as_byte_pairs(tmp_path):
    def change(content):
        content["pre_tokenizer"] = {
            "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True
        }  # fmt: skip
        content["model"]["merges"] = ["a b", "ab c"]

    tokenizer = load_tokenizer(library_file(tmp_path, change))
    assert isinstance(tokenizer, BytePairTokenizer)
    assert tokenizer.pattern == PATTERNS["gpt2"]
    assert tokenizer.encode("abc") == [257]


def normalized(content):
    content["normalizer"] = {"type": "NFC"}


def merged_otherwise(content):
    # "bc" is learned first, so the tokens of lower rank never give "ab" + "c".
    vocabulary = content["model"]["vocab"]
    vocabulary.update({"bc": 256, "ab": 257, "abc": 258, "<|endoftext|>": 300})
    content["model"]["merges"] = ["b c", "a b", "ab c"]
    content["added_tokens"] = [{**content["added_tokens"][0], "id": 300}]


def ordinary_word_added(content):
    word = {**content["added_tokens"][0], "id": 262, "content": "abc", "special": False}
    content["added_tokens"].append(word)


@pytest.mark.parametrize("change", [normalized, merged_otherwise, ordinary_word_added])
def test_unusual_files_are_run_by_the_library(tmp_path, change):
    import tokenizers

    path = library_file(tmp_path, change)
    tokenizer = load_tokenizer(path)
    assert isinstance(tokenizer, LibraryTokenizer)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    for text in ["abc abcabc", "e\u0301 \u00e9", SAMPLE]:
        ids = tokenizer.encode(text)
        assert ids == theirs.encode(text).ids
        assert tokenizer.decode(ids) == theirs.decode(ids)


BROKEN = {
    "not JSON": "{",
    "a list": "[]",
    "no model": "{}",
    "model is text": '{"model": "BPE"}',
    "no vocabulary": '{"model": {"type": "BPE"}}',
    "id is text": '{"model": {"type": "BPE", "vocab": {"a": "0"}}}',
    "id is huge": '{"model": {"type": "BPE", "vocab": {"a": 99999999999}}}',
    "id is negative": '{"model": {"type": "BPE", "vocab": {"a": -1}}}',
    "ids are equal": '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}}}',
    "added is text": '{"model": {"vocab": {}}, "added_tokens": "x"}',
    "added entry": '{"model": {"vocab": {}}, "added_tokens": [{"id": "x", "content": 3}]}',
    "unknown model": '{"model": {"type": "Magic", "vocab": {"a": 0}}}',
    "empty": '{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
    "deep": '{"model": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "our format, newer": '{"langwright": 99, "kind": "word"}',
    "our format, no words": '{"langwright": 1, "kind": "word", "splitter": "full"}',
    "our format, splitter": '{"langwright": 1, "kind": "word", "words": [], "special_tokens": []}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_told(tmp_path, name):
    path = tmp_path / "tokenizer.json"
    path.write_text(BROKEN[name])
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_broken_byte_level_files_are_told(tmp_path):
    def odd_character(content):
        content["model"]["vocab"]["日"] = 300

    def bad_merges(content):
        content["model"]["merges"] = [["a", "zzz"], 7]

    def bad_pattern(content):
        content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(("

    for change in (odd_character, bad_merges, bad_pattern):
        path = library_file(tmp_path, change)
        with pytest.raises(UserError):
            load_tokenizer(path).encode("abc")


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    with open(path, "wb") as file:
        os.truncate(file.fileno(), LARGEST_FILE + 1)
    with pytest.raises(UserError, match="too large"):
        load_tokenizer(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="file not found"):
        load_tokenizer(tmp_path)


def test_words_have_a_format_of_our_own(tmp_path):
    tokenizer = WordTokenizer.train(
        [SAMPLE], [END_OF_TEXT], splitter="story", keep_whitespace=True, unknown="unk"
    )
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert content["langwright"] == 1
    again = load_tokenizer(tmp_path)
    assert isinstance(again, WordTokenizer)
    assert (again.splitter, again.keep_whitespace, again.unknown) == ("story", True, "unk")


def test_characters_without_extras(tmp_path):
    tokenizer = CharTokenizer.train(["hello\n"])
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.vocab_size == 5
    assert again.special_tokens == {}
    assert again.encode("hello\n") == tokenizer.encode("hello\n")
