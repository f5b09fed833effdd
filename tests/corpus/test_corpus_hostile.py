"""Whatever bytes a file holds: documents, counted skips or a `UserError`, and in little time."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.corpus import CorpusConfig, Document
from langwright.corpus.html import plain_text
from langwright.corpus.locate import FoundFile
from langwright.corpus.plaintext import read_pieces
from langwright.corpus.readers import read_file
from langwright.corpus.tally import Tally

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KINDS = ("text", "jsonl", "json", "parquet", "html")
CONFIG = CorpusConfig(sources=["x"], html="plain", max_record_bytes=1000)


def _check(path: Path, kind: str) -> None:
    """Read a file; everything that comes out is a proper document."""
    for named in (False, True):
        try:
            documents = list(read_file(FoundFile(path, "f", kind, named), "s", CONFIG, Tally()))
        except UserError as error:
            assert error.message
            continue
        for document in documents:
            assert isinstance(document, Document)
            document.text.encode("utf-8")
            assert "\0" not in document.text
            json.dumps(document.meta, allow_nan=False)


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.binary(max_size=400))
def test_random_bytes(tmp_path: Path, kind: str, packing: str, data: bytes) -> None:
    path = tmp_path / f"f{packing}"
    path.write_bytes(data)
    _check(path, kind)
    if packing:
        pack = gzip.compress if packing == ".gz" else zstandard.ZstdCompressor().compress
        path.write_bytes(pack(data))
        _check(path, kind)


@QUICK
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8))
def test_damaged_parquet(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"text": ["one", "two"] * 50, "n": list(range(100))}), path)
    data = bytearray(path.read_bytes())
    for place, value in flips:
        data[place % len(data)] = value
    path.write_bytes(data)
    _check(path, "parquet")


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "messages", "role", "content", "prompt", "completion"]), inner
        )
    ),
    max_leaves=8,
)


@QUICK
@given(values=st.lists(json_values, max_size=5))
def test_records_of_any_shape(tmp_path: Path, values: list[Any]) -> None:
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, values)))
    (tmp_path / "f.json").write_text(json.dumps(values))
    _check(tmp_path / "f.jsonl", "jsonl")
    _check(tmp_path / "f.json", "json")


@QUICK
@given(text=st.text(alphabet="<>/!-ab='\" &;#scriptnavp\n", max_size=200))
def test_html_of_any_shape(text: str) -> None:
    plain_text(text)


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "<!--",
        "<a ",
        "</",
        "<![CDATA[",
        "<a x='",
        '<a x="y"',
        "&",
        "<?",
        "<script>",
        "<div>",
        "<nav>",
        "<p ='>",
    ],
)
def test_html_takes_linear_time(unit: str) -> None:
    """A megabyte of each hostile pattern; quadratic time would take many minutes."""
    page = unit * (1_000_000 // len(unit))
    started = time.process_time()
    plain_text(page)
    assert time.process_time() - started < 20


@QUICK
@given(
    text=st.text(alphabet="ab \n\r.é😀", max_size=3000),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]),
)
def test_pieces_join_to_the_whole(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "f").write_bytes(text.encode(encoding))
    with (tmp_path / "f").open("rb") as stream:
        pieces = list(read_pieces(stream, "utf-8", 100))
    assert "".join(pieces) == text.replace("\r\n", "\n").replace("\r", "\n")
    assert all(0 < len(piece) <= 100 for piece in pieces)
