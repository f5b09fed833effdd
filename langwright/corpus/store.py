"""The corpus on disk: one Parquet file for each split and source, chats as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from langwright.base import UserError, atomic_path, write_atomic
from langwright.corpus.document import Document
from langwright.corpus.split import SPLITS

_BATCH_BYTES = 16 * 2**20  # text held before it is written
_BATCH_ROWS = 4096


class DocumentWriter:
    """Writes documents to one Parquet file, which appears when the block ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._rows: list[Document] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ("id", "source", "text", "meta")
        self._schema = pa.schema([(name, pa.large_string()) for name in names])
        temporary = self._stack.enter_context(atomic_path(self._path))
        self._file = self._stack.enter_context(
            pq.ParquetWriter(temporary, self._schema, compression="zstd")
        )
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
        self._stack.__exit__(*error)

    def write(self, document: Document) -> None:
        self._rows.append(document)
        self._bytes += len(document.text)
        if self._bytes >= _BATCH_BYTES or len(self._rows) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        columns = [
            [document.id for document in self._rows],
            [document.source for document in self._rows],
            [document.text for document in self._rows],
            [_to_json(document.meta) for document in self._rows],
        ]
        arrays = [pa.array(column, pa.large_string()) for column in columns]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0


def read_parquet(path: Path) -> Iterator[Document]:
    """Documents of one of our own files, in order, as a stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            # By row group: a batch of rows may span many, and a row may be a whole book.
            for number in range(table.num_row_groups):
                group = table.read_row_group(number, columns=["id", "source", "text", "meta"])
                columns = (group.column(i).to_pylist() for i in range(4))
                for name, source, text, meta in zip(*columns, strict=True):
                    yield Document(text, name, source, json.loads(meta))
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"not a file of a corpus: {error}", where=path) from None


def sources(folder: str | Path, split: str) -> list[str]:
    """Names of the sources that have documents in `split`, sorted."""
    return sorted(path.stem for path in (Path(folder) / split).glob("*.parquet"))


def read_documents(folder: str | Path, split: str, source: str | None = None) -> Iterator[Document]:
    """The documents of a split of a corpus, source by source, always in the same order.

    Args:
        folder: what `build_corpus` filled.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        source: only this one.

    Raises:
        UserError: there is no such corpus, split or source.
    """
    names = sources(folder, split)
    if source is not None and source not in names:
        raise UserError(
            "the corpus has no such source",
            where=Path(folder) / split,
            found=source,
            expected=", ".join(names) or "none is there",
        )
    if not names and not any(sources(folder, other) for other in SPLITS):
        raise UserError(
            "this folder holds no corpus", where=folder, fix="make one with `langwright corpus`"
        )
    for name in names if source is None else [source]:
        yield from read_parquet(Path(folder) / split / f"{name}.parquet")


def write_conversations(path: Path, conversations: Iterable[dict[str, Any]]) -> int:
    """Write chats, one JSON object on a line; returns how many."""
    lines = [_to_json(conversation) + "\n" for conversation in conversations]
    write_atomic(path, "".join(lines))
    return len(lines)


def read_conversations(folder: str | Path, split: str) -> list[dict[str, Any]]:
    """The chats of a split: ``{"messages": [{"role", "content"}, ...], "meta": {...}}``.

    Raises:
        UserError: the corpus has none (it was made with ``conversations = "none"``).
    """
    path = Path(folder) / "conversations" / f"{split}.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    except FileNotFoundError:
        raise UserError(
            "the corpus has no conversations",
            where=path,
            fix='build it with corpus.conversations = "auto" or a path of chats',
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"broken conversations: {error}", where=path) from None


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
