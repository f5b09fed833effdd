"""What a corpus is made of: the settings of the corpus stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from langwright.base import Config, UserError


class CorpusConfig(Config):
    """Where the text comes from, what is dropped, and how it is split."""

    sources: list[str] = Field(
        default=["python-docs", "python-source"],
        description="python-docs, python-source, files, folders, globs, hf://owner/name[/config][:split]",
        min_length=1,
    )
    text_field: str = Field("text", description="field of a record that holds its text")
    encoding: str = Field(
        "utf-8", description="encoding of text files that carry no byte order mark"
    )
    text_extensions: list[str] = Field(
        default=[".txt", ".md", ".text", ".markdown"],
        description="file endings that are read as plain text",
    )
    html: Literal["auto", "trafilatura", "plain"] = Field(
        "auto", description="how main text is taken out of HTML; auto: trafilatura if installed"
    )
    min_document_characters: int = Field(
        1, description="shorter documents are dropped (white space at the ends not counted)", ge=1
    )
    max_document_characters: int = Field(
        4_000_000, description="longer text files are cut at paragraph borders", ge=1000
    )
    minimum_characters: int = Field(
        10_000, description="a corpus with fewer characters of training text is an error", ge=0
    )
    deduplicate: bool = Field(
        True, description="keep one of several documents that differ in white space only"
    )
    leak_limit: float = Field(
        0.5,
        description="held-out documents with more than this share of their long lines in the "
        "training text, or in held-out text before them, are dropped (1: none)",
        ge=0,
        le=1,
    )
    split: Literal["auto", "documents", "position"] = Field(
        "auto",
        description="hold out whole documents, or the end of each; auto: by position where a "
        "source has too few documents",
    )
    valid_share: float = Field(0.05, description="share of bytes for validation", ge=0, le=0.5)
    test_share: float = Field(0.05, description="share of bytes for the final test", ge=0, le=0.4)
    seed: int = Field(0, description="decides which documents are held out", ge=0)
    conversations: str = Field(
        "auto",
        description="auto: chats in the sources, else pairs made from the text; none; or a path",
    )
    max_conversations: int = Field(8_000, description="at most this many for training", ge=0)
    max_bytes: int | None = Field(
        None, description="read at most about this much of a source", ge=1
    )
    max_expanded_bytes: int = Field(
        256 * 2**30, description="a compressed file that grows beyond this is an error", ge=1
    )
    max_expansion: int = Field(
        1000, description="a compressed file that grows by more than this factor is an error", ge=2
    )
    max_record_bytes: int = Field(
        64 * 2**20, description="longer lines of JSON and longer HTML pages are skipped", ge=1000
    )

    def check(self) -> None:
        """Raise `UserError` where settings contradict each other."""
        if self.valid_share + self.test_share > 0.8:
            raise UserError(
                "too little is left for training",
                where="corpus.valid_share + corpus.test_share",
                found=self.valid_share + self.test_share,
                expected="at most 0.8",
            )
        try:
            "".encode(self.encoding)
        except LookupError:
            raise UserError(
                "unknown encoding",
                where="corpus.encoding",
                found=self.encoding,
                expected="a name Python knows, such as utf-8, latin-1, cp1252",
            ) from None
