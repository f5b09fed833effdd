"""Models in the layouts of other software, in and out: Hugging Face's folders, OpenAI's, GGUF."""

from langwright.formats.exportable import (
    check_exportable,
    opened_by,
    transformers_architecture,
)
from langwright.formats.fetch import Fetched, fetch_model
from langwright.formats.folder import save_model
from langwright.formats.gguf import GgufFile, read_blocks, save_gguf
from langwright.formats.hf_config import from_hf_config, to_hf_config
from langwright.formats.licence import licence_of
from langwright.formats.opening import load_model, load_parts
from langwright.formats.peek import Peek, peek_model, peek_tokenizer
from langwright.formats.places import holds_model, model_in, tokenizer_in

__all__ = [
    "Fetched",
    "GgufFile",
    "Peek",
    "check_exportable",
    "fetch_model",
    "from_hf_config",
    "holds_model",
    "licence_of",
    "load_model",
    "load_parts",
    "model_in",
    "opened_by",
    "peek_model",
    "peek_tokenizer",
    "read_blocks",
    "save_gguf",
    "save_model",
    "to_hf_config",
    "tokenizer_in",
    "transformers_architecture",
]
