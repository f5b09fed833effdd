"""GGUF, the one-file format of llama.cpp: models and tokenizers, in and out."""

from langwright.formats.gguf.blocks import Blocks, read_blocks
from langwright.formats.gguf.load import (
    load_gguf,
    load_gguf_model,
    load_gguf_tokenizer,
    read_gguf_config,
)
from langwright.formats.gguf.reader import GgufFile
from langwright.formats.gguf.save import gguf_architecture, save_gguf

__all__ = [
    "Blocks",
    "GgufFile",
    "gguf_architecture",
    "load_gguf",
    "load_gguf_model",
    "load_gguf_tokenizer",
    "read_blocks",
    "read_gguf_config",
    "save_gguf",
]
