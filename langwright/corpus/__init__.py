"""Text in, documents out: reading files, splitting, de-duplicating, making conversations."""

from langwright.corpus.build import build_corpus
from langwright.corpus.config import CorpusConfig
from langwright.corpus.document import Document
from langwright.corpus.fetch import fetch_text
from langwright.corpus.locate import check_sources
from langwright.corpus.own import is_own_folder, own_folder_of
from langwright.corpus.readers import load_text, preview, read_text
from langwright.corpus.records import chat_of, from_records
from langwright.corpus.skipped import skipped_line
from langwright.corpus.store import read_conversations, read_documents, sources

__all__ = [
    "CorpusConfig",
    "Document",
    "build_corpus",
    "chat_of",
    "check_sources",
    "fetch_text",
    "from_records",
    "is_own_folder",
    "load_text",
    "own_folder_of",
    "preview",
    "read_conversations",
    "read_documents",
    "read_text",
    "skipped_line",
    "sources",
]
