"""Files and data sets from elsewhere; the network is a server or a module of our own."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langwright.base import UserError
from langwright.corpus import CorpusConfig, build_corpus, fetch_text, read_documents
from langwright.corpus.hub import parse_hub_name


class _Handler(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/missing.txt":
            self.send_error(404)
            return
        body = b"x" * 5000 if self.path == "/large.txt" else "Die Größe.".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + 9 * (self.path == "/cut.txt")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        _Handler.asked = []
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_text_is_fetched_once(server: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "story.txt"
    assert fetch_text(f"{server}/story.txt", path) == "Die Größe."
    assert fetch_text(f"{server}/story.txt", path) == "Die Größe."
    assert _Handler.asked == ["/story.txt"]
    other = tmp_path / "other.txt"
    assert fetch_text(path.as_uri(), other) == "Die Größe."


@pytest.mark.parametrize(
    ("name", "message"),
    [("large.txt", "too large"), ("cut.txt", "cut off"), ("missing.txt", "Not Found")],
)
def test_a_failed_download_leaves_no_file(
    server: str, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fetch_text(f"{server}/{name}", tmp_path / name, max_bytes=1000)
    assert list(tmp_path.iterdir()) == []


def test_other_addresses_are_refused(tmp_path: Path) -> None:
    for url in ("ftp://localhost/x", "data:,x", "x", ""):
        with pytest.raises(UserError, match="unknown kind"):
            fetch_text(url, tmp_path / "x.txt")
    with pytest.raises(UserError, match="could not be fetched"):
        fetch_text("http://127.0.0.1:1/x.txt", tmp_path / "x.txt")
    with pytest.raises(UserError, match="could not be fetched"):
        fetch_text((tmp_path / "gone.txt").as_uri(), tmp_path / "x.txt")


def test_names_of_data_sets() -> None:
    name = parse_hub_name("hf://owner/name/config:valid")
    assert (name.repository, name.config, name.split) == ("owner/name", "config", "valid")
    assert parse_hub_name("hf://owner/name").split == "train"
    for wrong in ("hf://name", "hf://a/b/c/d", "hf://", "hf:///x"):
        with pytest.raises(UserError, match="not the name of a data set"):
            parse_hub_name(wrong)


def _fake_hub(folder: Path, branches: list[str]) -> types.ModuleType:
    """A `huggingface_hub` with one data set that lies in `folder`."""
    hub = types.ModuleType("huggingface_hub")

    class HfApi:
        def list_repo_refs(self, name: str, repo_type: str) -> Any:
            if name != "owner/name":
                raise RuntimeError("404 Repository Not Found")
            refs = [types.SimpleNamespace(ref=branch) for branch in branches]
            return types.SimpleNamespace(branches=[], converts=refs)

    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    hub.HfApi = HfApi  # type: ignore[attr-defined]
    hub.list_repo_files = lambda *args, **kw: files  # type: ignore[attr-defined]
    hub.hf_hub_download = (  # type: ignore[attr-defined]
        lambda repository, file, repo_type, revision: str(folder / file)
    )
    return hub


def test_data_sets_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = tmp_path / "data"
    for split in ("train", "test"):
        path = data / "default" / split / "0000.parquet"
        path.parent.mkdir(parents=True)
        texts = [f"Text {n} of {split}. " + "word " * n for n in range(100)]
        pq.write_table(pa.table({"text": texts}), path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", _fake_hub(data, ["refs/convert/parquet"]))
    out = tmp_path / "out"
    out.mkdir()
    build_corpus(CorpusConfig(sources=["hf://owner/name"]), out)
    documents = list(read_documents(out, "train", "owner-name"))
    assert len(documents) > 80
    assert all("of train" in document.text for document in documents)
    with pytest.raises(UserError, match="default:test"):
        build_corpus(CorpusConfig(sources=["hf://owner/name:tests"]), out)
    with pytest.raises(UserError, match="404 Repository Not Found"):
        build_corpus(CorpusConfig(sources=["hf://owner/nothing"]), out)
    # Without the converted branch the files of the main branch are read.
    plain = tmp_path / "plain"
    plain.mkdir()
    lines = [json.dumps({"text": f"Record {n} " + "word " * 30}) for n in range(100)]
    (plain / "train.jsonl").write_text("\n".join(lines))
    (plain / "README.png").write_bytes(b"\0")
    monkeypatch.setitem(sys.modules, "huggingface_hub", _fake_hub(plain, []))
    report = build_corpus(CorpusConfig(sources=["hf://owner/name"]), out)
    assert sum(split["documents"] for split in report["totals"].values()) == 100


def test_the_hub_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        build_corpus(CorpusConfig(sources=["hf://owner/name"]), tmp_path)
