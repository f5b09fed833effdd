"""One reader for each kind of file: a file in, documents out, what cannot be read counted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from langwright.base import UserError
from langwright.corpus import html
from langwright.corpus.bytestream import COMPRESSED, BrokenCompression, open_bytes
from langwright.corpus.config import CorpusConfig
from langwright.corpus.document import Document
from langwright.corpus.locate import FoundFile, find_files, source_name
from langwright.corpus.plaintext import NotText, decode, read_pieces
from langwright.corpus.records import CHAT_FIELDS, read_records
from langwright.corpus.tally import Tally

_PARQUET_ROWS = 256  # rows decoded at a time


def read_file(
    file: FoundFile, source: str, config: CorpusConfig, tally: Tally
) -> Iterator[Document]:
    """Documents of one file.

    Damage is counted in `tally` with the file and line; what was read before it stays.

    Raises:
        UserError: a decompression bomb; a file named directly that cannot be opened or holds no
            texts; a library that is missing.
    """
    reader = {
        "text": _read_text,
        "jsonl": _read_json_lines,
        "json": _read_json,
        "parquet": _read_parquet,
        "html": _read_html,
    }[file.kind]
    try:
        yield from reader(file, source, config, tally)
    except BrokenCompression as error:
        tally.skip("broken compression", file.label, str(error))
    except NotText as error:
        tally.skip("not text in the expected encoding", f"{file.label}:{error.line}", str(error))
    except OSError as error:
        if file.named:
            raise UserError(f"cannot be read: {error.strerror or error}", where=file.path) from None
        tally.skip("unreadable file", file.label, error.strerror or str(error))


def load_text(
    paths: str | Path | Iterable[str | Path], *, config: CorpusConfig | None = None, **settings: Any
) -> list[Document]:
    """Every document of some files, folders or globs, in any format we read.

    Args:
        paths: one path or several.
        config: limits and field names; or give single `settings` of `CorpusConfig`
            (``text_field="body"``).

    Raises:
        UserError: nothing could be read; the message says what was left out and why.
    """
    entries = [str(paths)] if isinstance(paths, str | Path) else [str(path) for path in paths]
    if config is None:
        config = CorpusConfig.parse({"sources": entries, **settings}, where="load_text")
    tally = Tally()
    documents = [
        document
        for entry in entries
        for file in find_files(entry, config, tally)
        for document in read_file(file, source_name(entry), config, tally)
    ]
    if not documents:
        raise UserError(
            "no text could be read",
            where=", ".join(entries),
            found=tally.describe() or "no files",
            expected="at least one document",
        )
    return documents


def read_text(path: str | Path, **settings: Any) -> str:
    """The whole text of a file in any format we read (documents joined by an empty line)."""
    documents = load_text(path, **{"max_document_characters": 2**62, **settings})
    return "\n\n".join(document.text for document in documents)


def preview(text: str, characters: int = 99) -> str:
    """How long a text is and how it begins, for a person to look at."""
    return f"{len(text):,} characters, beginning:\n{text[:characters]}"


def _read_text(
    file: FoundFile, source: str, config: CorpusConfig, tally: Tally
) -> Iterator[Document]:
    with open_bytes(file.path, config) as stream:
        number = -1
        for number, piece in enumerate(
            read_pieces(stream, config.encoding, config.max_document_characters)
        ):
            meta = {"file": file.label, "piece": number}
            yield Document(piece, f"{source}/{file.label}#{number}", source, meta)
    if number < 0:
        tally.skip("empty file", file.label)


def _read_html(
    file: FoundFile, source: str, config: CorpusConfig, tally: Tally
) -> Iterator[Document]:
    name, extract = html.choose_extractor(config.html)
    tally.notes["html_extractor"] = name
    data = _whole(file, config, tally)
    if data is None:
        return
    try:
        text = extract(html.decode_page(data, config.encoding))
    except (ValueError, AssertionError, RecursionError) as error:
        tally.skip("broken HTML", file.label, str(error))
        return
    if text.strip():
        meta = {"file": file.label, "kind": "html"}
        yield Document(text.replace("\0", ""), f"{source}/{file.label}", source, meta)
    else:
        tally.skip("no text in the page", file.label)


def _read_json(
    file: FoundFile, source: str, config: CorpusConfig, tally: Tally
) -> Iterator[Document]:
    """A list of records, or one record; also JSON lines that are called ``.json``."""
    data = _whole(file, config, tally, factor=16)
    if data is None:
        return
    text = decode(data, config.encoding)
    records: Iterable[tuple[str, Any]]
    try:
        value = json.loads(text)
    except RecursionError:
        tally.skip("JSON nested too deeply", file.label)
        return
    except ValueError as error:
        message = str(error)
        if not message.startswith("Extra data"):
            line = getattr(error, "lineno", 1)
            tally.skip("broken JSON", f"{file.label}:{line}", message)
            return
        lines = enumerate(text.split("\n"), start=1)
        records = _parse_lines(lines, file.label, tally)
    else:
        values = value if isinstance(value, list) else [value]
        records = ((f"{file.label}:{number}", item) for number, item in enumerate(values))
    yield from _records(records, file, source, config, tally)


def _read_json_lines(
    file: FoundFile, source: str, config: CorpusConfig, tally: Tally
) -> Iterator[Document]:
    with open_bytes(file.path, config) as stream:
        lines = _decoded_lines(stream, file.label, config, tally)
        records = _parse_lines(lines, file.label, tally)
        yield from _records(records, file, source, config, tally)


def _records(
    records: Iterable[tuple[str, Any]],
    file: FoundFile,
    source: str,
    config: CorpusConfig,
    tally: Tally,
) -> Iterator[Document]:
    yield from read_records(
        records,
        source=source,
        label=file.label,
        text_field=config.text_field,
        named=file.named,
        tally=tally,
    )


def _decoded_lines(
    stream: BinaryIO, label: str, config: CorpusConfig, tally: Tally
) -> Iterator[tuple[int, str]]:
    """Numbered lines; a line that is too long or badly encoded is counted and left out."""
    number, most = 0, config.max_record_bytes
    encoding = config.encoding
    while line := stream.readline(most + 1):
        number += 1
        if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise NotText("JSON lines in UTF-16; save the file as UTF-8", 1)
        if number == 1 and line[:3] == b"\xef\xbb\xbf":
            line, encoding = line[3:], "utf-8"
        if len(line) > most and not line.endswith(b"\n"):
            tally.skip("line too long", f"{label}:{number}", f"more than {most} bytes")
            while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
            continue
        try:
            yield number, line.decode(encoding)
        except UnicodeError as error:
            tally.skip("not text in the expected encoding", f"{label}:{number}", str(error)[:120])
    if number == 0:
        tally.skip("empty file", label)


def _parse_lines(
    lines: Iterable[tuple[int, str]], label: str, tally: Tally
) -> Iterator[tuple[str, Any]]:
    for number, line in lines:
        if not line.strip():
            continue
        place = f"{label}:{number}"
        try:
            yield place, json.loads(line)
        except RecursionError:
            tally.skip("JSON nested too deeply", place)
        except ValueError as error:
            tally.skip("broken JSON", place, str(error)[:120])


def _read_parquet(
    file: FoundFile, source: str, config: CorpusConfig, tally: Tally
) -> Iterator[Document]:
    import pyarrow as pa

    try:
        with _plain_file(file, config) as handle:
            rows = _parquet_rows(handle, file.label, config)
            yield from _records(rows, file, source, config, tally)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        tally.skip("broken Parquet", file.label, str(error).split("\n")[0][:160])


def _parquet_rows(
    handle: Any, label: str, config: CorpusConfig
) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(handle)
    names = table.schema_arrow.names
    wanted = [name for name in names if name in (config.text_field, *CHAT_FIELDS)]
    if not wanted:  # one row, so that the error can name what is there
        wanted = list(names)
    size = sum(table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups))
    if size > config.max_expanded_bytes:
        raise UserError(
            "Parquet file grows beyond the limit",
            where=label,
            found=f"{size} bytes",
            expected=f"at most {config.max_expanded_bytes}",
            fix="raise corpus.max_expanded_bytes",
        )
    number = 0
    for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted):
        for row in batch.to_pylist():
            yield f"{label}:{number}", row
            number += 1


@contextmanager
def _plain_file(file: FoundFile, config: CorpusConfig) -> Iterator[Any]:
    """A file that can be read at any place: compressed ones are expanded to a temporary file."""
    if file.path.suffix.lower() not in COMPRESSED:
        with file.path.open("rb") as handle:
            yield handle
        return
    with tempfile.TemporaryFile() as handle:
        with open_bytes(file.path, config) as stream:
            while chunk := stream.read(1 << 20):
                handle.write(chunk)
        handle.seek(0)
        yield handle


def _whole(file: FoundFile, config: CorpusConfig, tally: Tally, factor: int = 1) -> bytes | None:
    """All bytes of a file that must be read at once; None, counted, if it is too large."""
    most = config.max_record_bytes * factor
    with open_bytes(file.path, config) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        tally.skip("file too large to read at once", file.label, f"more than {most} bytes")
        return None
    if not data.strip():
        tally.skip("empty file", file.label)
        return None
    return data
