"""Models in the layouts of other software, in and out: Hugging Face's folders, OpenAI's, GGUF."""

from langwright.formats.fetch import Fetched, fetch_model
from langwright.formats.folder import save_model
from langwright.formats.gguf import GgufFile, read_blocks, save_gguf
from langwright.formats.hf_config import from_hf_config, to_hf_config
from langwright.formats.licence import licence_of
from langwright.formats.opening import load_model, load_parts
from langwright.formats.peek import Peek, peek_model, peek_tokenizer

__all__ = [
    "Fetched",
    "GgufFile",
    "Peek",
    "fetch_model",
    "from_hf_config",
    "licence_of",
    "load_model",
    "load_parts",
    "peek_model",
    "peek_tokenizer",
    "read_blocks",
    "save_gguf",
    "save_model",
    "to_hf_config",
]
