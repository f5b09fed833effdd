"""Text to ids and back, vocabularies, and conversations as tokens."""

from langwright.tokenizer.base import Tokenizer
from langwright.tokenizer.bpe import BytePairTokenizer
from langwright.tokenizer.build import build_tokenizer
from langwright.tokenizer.chat import CHATML, ChatTemplate, ChatTokens
from langwright.tokenizer.config import TokenizerConfig
from langwright.tokenizer.efficiency import compare_sizes, efficiency
from langwright.tokenizer.files import load_tokenizer
from langwright.tokenizer.gpt2 import gpt2_tokenizer
from langwright.tokenizer.library import LibraryTokenizer
from langwright.tokenizer.merge_training import train_merges
from langwright.tokenizer.patterns import PATTERNS
from langwright.tokenizer.reference import encode_reference, train_reference
from langwright.tokenizer.show import ShownTokens, show_tokens
from langwright.tokenizer.simple import CharTokenizer, UnknownTokenError, WordTokenizer
from langwright.tokenizer.special import (
    CHAT_SPECIALS,
    END_OF_TEXT,
    IM_END,
    IM_START,
    PAD,
    UNKNOWN,
    Specials,
)
from langwright.tokenizer.splitters import SPLITTERS, raw_pieces, split_words
from langwright.tokenizer.stream import StreamDecoder
from langwright.tokenizer.tensors import add_marks, ids_to_text, pad_rows, text_to_ids
from langwright.tokenizer.train import train_tokenizer

__all__ = [
    "CHATML",
    "CHAT_SPECIALS",
    "END_OF_TEXT",
    "IM_END",
    "IM_START",
    "PAD",
    "PATTERNS",
    "SPLITTERS",
    "UNKNOWN",
    "BytePairTokenizer",
    "CharTokenizer",
    "ChatTemplate",
    "ChatTokens",
    "LibraryTokenizer",
    "ShownTokens",
    "Specials",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerConfig",
    "UnknownTokenError",
    "WordTokenizer",
    "add_marks",
    "build_tokenizer",
    "compare_sizes",
    "efficiency",
    "encode_reference",
    "gpt2_tokenizer",
    "ids_to_text",
    "load_tokenizer",
    "pad_rows",
    "raw_pieces",
    "show_tokens",
    "split_words",
    "text_to_ids",
    "train_merges",
    "train_reference",
    "train_tokenizer",
]
