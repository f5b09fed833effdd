"""Two other ways to learn a vocabulary: Unigram (as in SentencePiece) and WordPiece (as in BERT).

Both give the content of a ``tokenizer.json``, without special tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from langwright.base import UserError
from langwright.tokenizer.byte_alphabet import byte_characters
from langwright.tokenizer.hf_json import byte_level_decoder, byte_level_splitter
from langwright.tokenizer.library import import_tokenizers
from langwright.tokenizer.merge_training import count_pieces, merge_words
from langwright.tokenizer.special import UNKNOWN

WORDS = r"\w+|[^\w\s]"  # a word, or one mark of punctuation; blanks are not kept
INSIDE = "##"  # in front of a piece that does not begin a word


def learn_unigram(texts: Iterator[str], size: int, pattern: str) -> dict[str, Any]:
    """Unigram language model (Kudo 2018, https://arxiv.org/abs/1804.10959).

    Pieces are bytes, as in our BPE, not characters as in SentencePiece: no text is ever unknown,
    and all of it comes back.
    """
    import_tokenizers()
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    learner = tokenizers.Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=size, initial_alphabet=list(byte_characters()), show_progress=False
    )
    try:
        learner.train_from_iterator(texts, trainer)
    except Exception as error:  # the library has one kind of error for all
        raise UserError(f"the unigram vocabulary could not be learned: {error}") from None
    content = json.loads(learner.to_str())
    content["pre_tokenizer"] = byte_level_splitter(pattern)
    content["decoder"] = byte_level_decoder()
    return content


def learn_wordpiece(texts: Iterator[str], size: int) -> dict[str, Any]:
    """WordPiece (Schuster and Nakajima 2012), capitals kept, with ``<|unk|>`` as id 0.

    As in all open trainers the most frequent pair is joined, not the most likely one. Symbols
    take half of the vocabulary at most; a word with a rarer one becomes ``<|unk|>``.
    """
    import_tokenizers()
    pieces = count_pieces(texts, WORDS)
    counts: Counter[str] = Counter()
    for piece, count in pieces.items():
        for symbol in _symbols(piece):
            counts[symbol] += count
    common = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    names = [UNKNOWN, *sorted(common[: max(1, size // 2)])]
    ids = {name: index for index, name in enumerate(names)}
    known = [piece for piece in pieces if all(symbol in ids for symbol in _symbols(piece))]
    words = [[ids[symbol] for symbol in _symbols(piece)] for piece in known]
    frequencies = [pieces[piece] for piece in known]
    for left, right in merge_words(words, frequencies, len(names), size - len(names)):
        names.append(names[left] + names[right].removeprefix(INSIDE))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": WORDS},
            "behavior": "Removed",
            "invert": True,  # keep what matches
        },
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": INSIDE, "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": INSIDE,
            "max_input_chars_per_word": 100,
            "vocab": {name: index for index, name in enumerate(names)},
        },
    }


def _symbols(piece: str) -> list[str]:
    """The first character, and the others with the mark of the inside."""
    return [piece[0], *(INSIDE + character for character in piece[1:])]
