"""Each kind of file, plain and compressed, and what is wrong with files."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from langwright.base import UserError
from langwright.corpus import CorpusConfig, Document, from_records, load_text, preview, read_text
from langwright.corpus.locate import find_files
from langwright.corpus.readers import read_file
from langwright.corpus.tally import Tally

TEXTS = ["The first text, with an ö.", "The second text."]


def _parquet(path: Path, **columns: list[Any]) -> bytes:
    pq.write_table(pa.table(columns), path)
    data = path.read_bytes()
    path.unlink()
    return data


def _contents(folder: Path) -> dict[str, tuple[bytes, list[str]]]:
    """For each ending: a file's bytes and the texts that must come out."""
    records = [{"text": text, "n": 1} for text in TEXTS]
    page = f"<html><head><title>T</title></head><body><p>{TEXTS[0]}</p></body></html>"
    return {
        ".txt": ("\n".join(TEXTS).encode(), ["\n".join(TEXTS)]),
        ".md": (b"# Title\n\nBody.\n", ["# Title\n\nBody.\n"]),
        ".jsonl": ("\n".join(map(json.dumps, records)).encode(), TEXTS),
        ".json": (json.dumps(records).encode(), TEXTS),
        ".parquet": (_parquet(folder / "x", text=TEXTS, n=[1, 2]), TEXTS),
        ".html": (page.encode(), [TEXTS[0]]),
        ".htm": (page.encode(), [TEXTS[0]]),
    }


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


@pytest.mark.parametrize("packing", COMPRESS)
@pytest.mark.parametrize("ending", [".txt", ".md", ".jsonl", ".json", ".parquet", ".html", ".htm"])
def test_every_kind_of_file(tmp_path: Path, ending: str, packing: str) -> None:
    data, expected = _contents(tmp_path)[ending]
    path = tmp_path / f"file{ending}{packing}"
    path.write_bytes(COMPRESS[packing](data))
    assert [document.text for document in load_text(path, html="plain")] == expected


def _read(path: Path, **settings: Any) -> tuple[list[Document], Tally]:
    config = CorpusConfig(sources=[str(path)], html="plain", **settings)
    tally = Tally()
    files = find_files(str(path), config, tally)
    return [doc for file in files for doc in read_file(file, "s", config, tally)], tally


def test_the_story_has_its_characters(shared_data: Callable[[str], Path]) -> None:
    text = read_text(shared_data("the-verdict.txt"))
    assert len(text) == 20_479  # facts V1
    assert preview(text).startswith("20,479 characters, beginning:\nI HAD always thought Jack")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    data = "Grüße\r\nzwei\rdrei".encode(encoding)
    if encoding == "utf-16-le":
        data = b"\xff\xfe" + data
    if encoding == "utf-16-be":
        data = b"\xfe\xff" + data
    (tmp_path / "a.txt").write_bytes(data)
    assert read_text(tmp_path / "a.txt") == "Grüße\nzwei\ndrei"


def test_wrong_encoding_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\ncaf\xe9\n")
    documents, tally = _read(tmp_path / "a.txt")
    assert not documents
    entry = tally.summary()["not text in the expected encoding"]
    assert entry["count"] == 1
    assert entry["examples"] == ["a.txt:3: byte 0xe9 is not utf-8"]
    assert read_text(tmp_path / "a.txt", encoding="latin-1") == "one\ntwo\ncafé\n"


def test_broken_lines_are_counted_with_their_numbers(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good"}',
        b"{broken",
        b"[" * 100_000,
        b'{"text": "caf\xe9"}',
        b'{"text": "\\ud800 half"}',
        b'{"text": 5}',
        b"",
        b"17",
        b'{"other": "x"}',
        b'{"text": "also good"}',
        b"1" * 5000,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents, tally = _read(tmp_path / "a.jsonl")
    assert [document.text for document in documents] == ["good", "also good"]
    assert documents[1].id == "s/a.jsonl:10"
    summary = {name: entry["examples"] for name, entry in tally.summary().items()}
    assert [text.split(": ")[0] for text in summary["broken JSON"]] == ["a.jsonl:2", "a.jsonl:11"]
    assert summary["JSON nested too deeply"] == ["a.jsonl:3"]
    assert summary["not text in the expected encoding"][0].startswith("a.jsonl:4: ")
    assert summary["half a surrogate pair in the text"][0].startswith("a.jsonl:5: ")
    assert summary["text field is not a string"][0].startswith("a.jsonl:6: ")
    assert summary["record is no object"][0].startswith("a.jsonl:8: ")
    assert summary["no text field"][0].startswith("a.jsonl:9: ")
    assert tally.total == 8


def test_missing_text_field_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"texts": "abc", "id": "1"}\n{"texts": "def", "id": "2"}\n')
    with pytest.raises(UserError) as caught:
        load_text(path)
    assert "text_field to 'texts'" in str(caught.value)
    assert "a.jsonl" in str(caught.value.where)
    assert [d.text for d in load_text(path, text_field="texts")] == ["abc", "def"]
    # In a folder the same file is a counted skip: other files may be meant.
    (tmp_path / "b.txt").write_text("text")
    documents, tally = _read(tmp_path)
    assert [d.text for d in documents] == ["text"]
    assert tally.count("no text field") == 2


def test_json_of_one_record_and_json_lines_called_json(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"text": "single"}')
    (tmp_path / "lines.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "strings.json").write_text('["x", "y"]')
    assert [d.text for d in load_text(tmp_path)] == ["a", "b", "single", "x", "y"]


def test_chats_in_the_usual_shapes() -> None:
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
    for record in (
        {"messages": [user, assistant]},
        {"prompt": "hi", "completion": "yo"},
        {"prompt": [user], "completion": [assistant]},
        {"instruction": "hi", "input": "", "output": "yo"},
    ):
        (document,) = from_records([record])
        assert document.meta["messages"] == [user, assistant], record
    (document,) = from_records([{"instruction": "a", "input": "b", "output": "c", "system": "s"}])
    assert [m["content"] for m in document.meta["messages"]] == ["s", "a\n\nb", "c"]
    with pytest.raises(UserError, match="record 0"):
        from_records([{"messages": [{"role": "robot", "content": "x"}]}])
    assert from_records([{"text": "plain"}])[0].text == "plain"


def test_long_text_is_cut_at_paragraphs(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {n} " + "word " * 30 + "\n\n" for n in range(400))
    (tmp_path / "long.txt").write_text(text)
    documents, _ = _read(tmp_path / "long.txt", max_document_characters=5000)
    assert len(documents) > 10
    assert all(len(document.text) <= 5000 for document in documents)
    assert all(document.text.endswith("\n\n") for document in documents)
    assert "".join(document.text for document in documents) == text
    assert len({document.id for document in documents}) == len(documents)


def test_empty_and_binary_and_hidden_and_unknown(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "fake.txt").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / ".secret.txt").write_text("hidden")
    (tmp_path / "good.txt").write_text("good")
    documents, tally = _read(tmp_path)
    assert [document.text for document in documents] == ["good"]
    counts = {name: entry["count"] for name, entry in tally.summary().items()}
    assert counts == {
        "empty file": 2,
        "hidden": 1,
        "not a text format": 1,
        "not text in the expected encoding": 1,
    }
    with pytest.raises(UserError, match="unknown kind"):
        load_text(tmp_path / "image.png")


def test_folders_are_sorted_and_links_end(tmp_path: Path) -> None:
    for name in ("b/two.txt", "a/one.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    documents, tally = _read(tmp_path)
    assert [document.text for document in documents] == ["a/one.txt", "b/two.txt", "c.txt"]
    assert tally.count("folder seen before (symbolic link)") == 1
    assert tally.count("unreadable file") == 1


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "good.txt").write_text("good")
    documents, tally = _read(tmp_path)
    assert [document.text for document in documents] == ["good"]
    assert tally.count("not a regular file") == 1
    with pytest.raises(UserError, match="regular"):
        load_text(tmp_path / "pipe.txt")


def test_a_folder_as_deep_as_the_system_allows() -> None:
    # Not in pytest's own folder: its cleaning cannot remove a tree this deep.
    root = Path(tempfile.mkdtemp())
    here = os.open(root, os.O_RDONLY)
    for _ in range(1050):  # deeper than the stack of Python
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (root / "top.txt").write_text("top")
    try:
        documents, _ = _read(root)
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)
    assert [document.text for document in documents] == ["top"]


def test_unreadable_file_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("locked")
    (tmp_path / "b.txt").write_text("open")
    original = Path.open

    def refusing(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)
    documents, tally = _read(tmp_path)
    assert [document.text for document in documents] == ["open"]
    assert tally.summary()["unreadable file"]["examples"] == ["a.txt: Permission denied"]
    with pytest.raises(UserError, match="Permission denied"):
        load_text(tmp_path / "a.txt")


def test_globs(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "sub/c.txt", "d.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [d.text for d in load_text(tmp_path / "*.txt")] == ["a.txt", "b.txt"]
    assert [d.text for d in load_text(f"{tmp_path}/**/*.txt")] == ["a.txt", "b.txt", "sub/c.txt"]
    with pytest.raises(UserError, match="no file matches"):
        load_text(tmp_path / "*.rst")


def test_missing_path_suggests_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text("x")
    with pytest.raises(UserError, match=r"novel\.txt"):
        load_text(tmp_path / "novle.txt")
    with pytest.raises(UserError, match="python-docs"):
        load_text("python-doc")
    for strange in ("\0", "x" * 5000, "", "~nobody-here/x"):
        with pytest.raises(UserError):
            load_text(strange)


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_bombs_and_cut_files(tmp_path: Path, packing: str) -> None:
    bomb = tmp_path / f"bomb.txt{packing}"
    bomb.write_bytes(COMPRESS[packing](b"a" * 40_000_000))
    with pytest.raises(UserError, match="grows beyond the limit"):
        load_text(bomb, max_expansion=100)
    with pytest.raises(UserError, match="grows beyond the limit"):
        load_text(bomb, max_expanded_bytes=1_000_000)
    cut = tmp_path / "folder" / f"cut.txt{packing}"
    cut.parent.mkdir()
    whole = COMPRESS[packing](bytes(str(list(range(3000))), "ascii"))
    cut.write_bytes(whole[:-20])
    documents, tally = _read(cut.parent)
    assert tally.count("broken compression") == 1
    cut.write_bytes(b"this is not compressed at all")
    documents, tally = _read(cut.parent)
    assert not documents
    assert tally.count("broken compression") == 1
    cut.write_bytes(whole + whole)  # two members in one file are one text
    documents, _ = _read(cut.parent)
    assert documents[0].text == str(list(range(3000))) * 2


def test_parquet_without_the_field_and_with_chats(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(_parquet(tmp_path / "x", body=["one", "two"]))
    with pytest.raises(UserError, match="body"):
        load_text(path)
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path.write_bytes(_parquet(tmp_path / "x", messages=[chat, chat]))
    assert [d.meta["messages"] for d in load_text(path)] == [chat, chat]
    path.write_bytes(path.read_bytes()[:-30])
    documents, tally = _read(tmp_path)
    assert not documents
    assert tally.count("broken Parquet") == 1


def test_a_line_longer_than_the_limit_is_skipped_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 5000}) + "\n" + json.dumps({"text": "short"}) + "\n")
    documents, tally = _read(path, max_record_bytes=1000)
    assert [document.text for document in documents] == ["short"]
    assert documents[0].id.endswith(":2")
    assert tally.count("line too long") == 1
