"""Text in, documents out: reading files, splitting, de-duplicating, making conversations."""

from langwright.corpus.build import build_corpus
from langwright.corpus.config import CorpusConfig
from langwright.corpus.document import Document
from langwright.corpus.fetch import fetch_text
from langwright.corpus.readers import load_text, preview, read_text
from langwright.corpus.records import chat_of, from_records
from langwright.corpus.store import read_conversations, read_documents, sources

__all__ = [
    "CorpusConfig",
    "Document",
    "build_corpus",
    "chat_of",
    "fetch_text",
    "from_records",
    "load_text",
    "preview",
    "read_conversations",
    "read_documents",
    "read_text",
    "sources",
]
