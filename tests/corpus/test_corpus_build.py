"""The stage as a whole, on the user's own text."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langwright.base import UserError
from langwright.corpus import (
    CorpusConfig,
    build_corpus,
    read_conversations,
    read_documents,
    skipped_line,
    sources,
)
from langwright.corpus.locate import find_files
from langwright.corpus.tally import Tally

SPLITS = ("train", "valid", "test")


def _texts(count: int, seed: int = 0) -> list[str]:
    """Texts that do not repeat each other."""
    draw = random.Random(seed)
    words = [f"{a}{b}" for a in ("ba", "ko", "ri", "mun") for b in ("ta", "sel", "dor", "ne")]
    return [
        "\n\n".join(
            f"Line {n} {k} " + " ".join(draw.choices(words, k=12)) + f" end{draw.random()}."
            for k in range(12)
        )
        for n in range(count)
    ]


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of forty texts in several formats, with duplicates and damage."""
    here = tmp_path / "my folder"
    here.mkdir()
    texts = _texts(40)
    for n, text in enumerate(texts[:30]):
        (here / f"{n:02}.txt").write_text(text)
    lines = [json.dumps({"text": text}) for text in texts[30:]]
    lines += [json.dumps({"text": texts[3].replace("\n", "  ")}), "{broken"]
    (here / "more.jsonl").write_text("\n".join(lines))
    (here / "copy.txt").write_text(texts[5] + "\n\n")
    return here


def test_a_folder_becomes_a_corpus(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    report = build_corpus(CorpusConfig(sources=[str(folder)]), out)
    documents = {split: list(read_documents(out, split)) for split in SPLITS}
    assert sources(out, "train") == ["my-folder"]
    assert sum(map(len, documents.values())) == 40
    assert {text for split in SPLITS for text in (d.text for d in documents[split])} >= set(
        _texts(40)[:3]
    )
    assert all(documents[split] for split in SPLITS)
    keys = [" ".join(d.text.split()) for split in SPLITS for d in documents[split]]
    assert len(keys) == len(set(keys))
    assert report["duplicates"] == {"total": 2, "my-folder": 2}
    assert report["skipped"]["broken JSON"]["examples"][0].startswith("more.jsonl:12: ")
    assert report["leakage"]["share"] == 0
    counted = report["sources"]["my-folder"]["train"]
    assert counted["documents"] == len(documents["train"])
    assert counted["characters"] == sum(len(d.text) for d in documents["train"])
    assert counted["bytes"] == sum(d.bytes for d in documents["train"])
    assert report == json.loads((out / "report.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == [
        "conversations",
        "report.json",
        "test",
        "train",
        "valid",
    ]


def test_two_builds_are_byte_identical(folder: Path, tmp_path: Path) -> None:
    """Even in another process, where Python's own string hashes are others."""
    code = (
        "import sys; from pathlib import Path; from langwright.corpus import *\n"
        "build_corpus(CorpusConfig(sources=[sys.argv[1]]), Path(sys.argv[2]))"
    )
    results = []
    for seed in ("1", "2"):
        out = tmp_path / f"out{seed}"
        out.mkdir()
        subprocess.run(
            [sys.executable, "-c", code, str(folder), str(out)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            timeout=120,
            capture_output=True,
        )
        results.append(_hashes(out))
    assert results[0] == results[1]
    assert len(results[0]) == 7


def test_an_interrupted_build_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "train").mkdir(parents=True)
    (out / "train" / "stale.parquet").write_bytes(b"half")
    (out / ".staging.parquet").write_bytes(b"half")
    build_corpus(CorpusConfig(sources=[str(folder)]), out)
    assert sources(out, "train") == ["my-folder"]
    assert not list(out.glob(".*"))


def test_one_text_is_split_by_position(tmp_path: Path) -> None:
    text = "\n\n".join(_texts(14))
    path = tmp_path / "novel.txt"
    path.write_text(text)
    for limit in (4_000_000, 2000):  # whole, and read in pieces
        out = tmp_path / f"out{limit}"
        out.mkdir()
        build_corpus(CorpusConfig(sources=[str(path)], max_document_characters=limit), out)
        parts = {split: "".join(d.text for d in read_documents(out, split)) for split in SPLITS}
        assert "".join(parts.values()) == text
        assert len(parts["train"]) == int(0.9 * len(text))
        assert sources(out, "valid") == ["novel"]


def test_pieces_of_one_file_stay_together(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n, text in enumerate(_texts(60)):
        (tmp_path / "in" / f"{n}.txt").write_text(text)
    config = CorpusConfig(sources=[str(tmp_path / "in")], max_document_characters=1000)
    build_corpus(config.replace(valid_share=0.2, test_share=0.2), tmp_path)
    split_of: dict[str, str] = {}
    pieces = 0
    for split in SPLITS:
        for document in read_documents(tmp_path, split):
            pieces += 1
            assert split_of.setdefault(document.meta["file"], split) == split
    assert len(split_of) == 60
    assert pieces > 70


def test_tiny_shakespeare_as_nanogpt_splits_it(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    path = shared_data("tinyshakespeare.txt")
    config = CorpusConfig(sources=[str(path)], valid_share=0.1, test_share=0)
    report = build_corpus(config, tmp_path)
    assert report["totals"]["train"]["characters"] == 1_003_854
    assert report["totals"]["valid"]["characters"] == 111_540
    assert sources(tmp_path, "test") == []
    assert list(read_documents(tmp_path, "test")) == []


def test_too_little_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short text")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError) as caught:
        build_corpus(CorpusConfig(sources=[str(tmp_path / "*.txt")]), out)
    error = caught.value
    assert error.message == "the corpus is too small to train on"
    assert error.found is not None
    assert "9 characters" in error.found
    assert "b.txt" in error.found
    assert error.expected == "at least 10,000 characters"
    assert error.fix
    assert not list(out.rglob("*.parquet"))
    with pytest.raises(UserError):
        build_corpus(CorpusConfig(sources=[str(out)], minimum_characters=0), out)


def test_shares_that_leave_nothing_and_unknown_encodings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too little is left"):
        build_corpus(CorpusConfig(valid_share=0.5, test_share=0.4), tmp_path)
    with pytest.raises(UserError, match="unknown encoding"):
        build_corpus(CorpusConfig(encoding="utf-9"), tmp_path)


def test_held_out_copies_are_dropped(tmp_path: Path) -> None:
    """A document that is another one with a new first line does not stay held out."""
    texts = _texts(60)
    texts += [f"Copy number {n}.\n\n{texts[n]}" for n in range(12)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    config = CorpusConfig(sources=[str(path)], valid_share=0.15, test_share=0.15)
    kept, dropped = tmp_path / "kept", tmp_path / "dropped"
    for out, limit in ((kept, 1.0), (dropped, 0.5)):
        out.mkdir()
        report = build_corpus(config.replace(leak_limit=limit), out)
        if limit == 1.0:
            assert report["leakage"]["share"] > 0.02
        else:
            assert report["leakage"]["share"] == 0
            assert report["leakage"]["documents_dropped"] > 0
            assert not report["warnings"]


def test_text_that_always_repeats_itself_is_kept_with_a_warning(tmp_path: Path) -> None:
    line = "the quick brown fox jumps over the lazy dog again and again\n"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"{n}\n" + line * 10}) for n in range(60)))
    report = build_corpus(CorpusConfig(sources=[str(path)]), tmp_path)
    assert report["totals"]["valid"]["documents"] > 0
    assert report["leakage"]["share"] > 0.9
    assert any("repeat training text" in warning for warning in report["warnings"])


def test_two_sources_of_one_name_and_a_cap(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").write_text("\n\n".join(_texts(10, seed=ord(name))))
    paths = [str(tmp_path / name / "data.txt") for name in ("x", "y")]
    out = tmp_path / "out"
    out.mkdir()
    report = build_corpus(CorpusConfig(sources=paths, max_bytes=8000), out)
    assert sources(out, "train") == ["data", "data-2"]
    for splits in report["sources"].values():
        assert sum(split["bytes"] for split in splits.values()) == 8000


def _chat(n: int, question: str | None = None) -> dict[str, Any]:
    asked = question or f"Question number {n}: what is it about?"
    answer = f"Answer number {n}, which says something else each time, {n * n}."
    return {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer},
        ]
    }


def test_chats_in_the_sources_become_conversations(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    chats = [_chat(n) for n in range(200)] + [
        _chat(n, "The same question") for n in range(300, 320)
    ]
    path.write_text("\n".join(map(json.dumps, chats)))
    report = build_corpus(CorpusConfig(sources=[str(path)]), tmp_path)
    found = {split: read_conversations(tmp_path, split) for split in SPLITS}
    assert report["conversations"] == {split: len(found[split]) for split in SPLITS}
    assert found["train"][0]["messages"] == chats[0]["messages"]
    assert min(len(found[split]) for split in SPLITS) >= 5
    questions = [chat["messages"][0]["content"] for split in SPLITS for chat in found[split]]
    assert len(questions) == len(set(questions)) == 201


def test_chats_from_a_path(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    records = [{"instruction": f"Do {n}.", "input": "", "output": f"Done {n}."} for n in range(300)]
    path.write_text(json.dumps([*records, {"instruction": "no answer"}]))
    config = CorpusConfig(sources=[str(folder)], conversations=str(path), max_conversations=100)
    report = build_corpus(config, tmp_path)
    assert report["conversations"]["train"] == 100
    assert report["conversations"]["valid"] == 15
    assert report["skipped"]["no text field"]["count"] == 1
    with pytest.raises(UserError, match="no record is a chat"):
        build_corpus(config.replace(conversations=str(folder / "more.jsonl")), tmp_path)
    with pytest.raises(UserError, match="no conversations found"):
        build_corpus(config.replace(conversations=str(folder / "01.txt")), tmp_path)


def test_conversations_that_continue_a_text(folder: Path, tmp_path: Path) -> None:
    report = build_corpus(CorpusConfig(sources=[str(folder)]), tmp_path)
    assert report["conversations"]["train"] >= 30
    for split in SPLITS:
        whole = [d.text for d in read_documents(tmp_path, split)]
        for chat in read_conversations(tmp_path, split):
            begun = chat["messages"][0]["content"].removeprefix("Continue this text:\n\n")
            rest = chat["messages"][1]["content"]
            (text,) = [text for text in whole if begun in text]
            assert text.index(rest) - (text.index(begun) + len(begun)) in range(4)


def test_no_conversations(folder: Path, tmp_path: Path) -> None:
    report = build_corpus(CorpusConfig(sources=[str(folder)], conversations="none"), tmp_path)
    assert report["conversations"] == {}
    with pytest.raises(UserError, match="no conversations"):
        read_conversations(tmp_path, "train")


def test_reading_what_is_not_there(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="holds no corpus"):
        list(read_documents(tmp_path, "train"))
    build_corpus(CorpusConfig(sources=[str(folder)]), tmp_path)
    with pytest.raises(UserError, match="no such source"):
        list(read_documents(tmp_path, "train", "other"))
    (tmp_path / "train" / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a file of a corpus"):
        list(read_documents(tmp_path, "train", "bad"))


def _write_own_folders(here: Path) -> set[str]:
    """What earlier and running commands leave beside the texts; the names of the outermost."""
    keys = ("stage", "key", "config", "inputs", "files", "metrics")
    artifact: dict[str, Any] = {key: {} for key in keys}
    held_out = "\n".join(_texts(1, seed=99))
    for name, mark, record in (
        ("runs/old", "recipe.json", {"recipe": {"name": "old"}, "file": "old.toml"}),
        ("made", "manifest.json", artifact),
        ("sft.partial", "stage-key.json", {"key": "x"}),
    ):
        (here / name / "deep").mkdir(parents=True)
        (here / name / mark).write_text(json.dumps(record))
        (here / name / "deep" / "held-out.txt").write_text(held_out)
    return {"runs/old", "made", "sft.partial"}


def test_what_langwright_made_is_left_out(folder: Path, tmp_path: Path) -> None:
    """`--corpus .` must not train on the held-out text of an earlier run."""
    for name in ("plain", "marked"):
        (tmp_path / name).mkdir()
    plain = build_corpus(CorpusConfig(sources=[str(folder)]), tmp_path / "plain")
    own = _write_own_folders(folder)
    out = folder / "now"
    out.mkdir()
    (out / "notes.txt").write_text("left by an earlier call")
    report = build_corpus(CorpusConfig(sources=[str(folder)]), out)
    assert report["totals"] == plain["totals"]
    skipped = report["skipped"]["folder that Langwright made"]
    assert skipped["count"] == 4 and set(skipped["examples"]) == {*own, "now"}
    # A pattern finds the same; a folder named by itself is read.
    tally = Tally()
    pattern = f"{glob.escape(str(folder))}/**/*.txt"
    found = find_files(pattern, CorpusConfig(), tally, out)
    assert {file.path.parent for file in found} == {folder}
    assert tally.count("folder that Langwright made") == 4
    named = find_files(str(folder / "made"), CorpusConfig(), Tally())
    assert "deep/held-out.txt" in {file.label for file in named}


def test_a_manifest_of_another_program_is_no_mark(tmp_path: Path) -> None:
    for name, text in (("a", '{"name": "extension"}'), ("b", "{broken"), ("c", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
        (tmp_path / name / "page.txt").write_text("text")
    found = find_files(str(tmp_path), CorpusConfig(), Tally())
    assert sum(file.kind == "text" for file in found) == 3


def test_the_line_about_skips_names_files_and_settings() -> None:
    tally = Tally()
    for line in range(12):
        tally.skip("broken JSON", f"bad.jsonl:{line + 1}", "Expecting value")
    for name in ("a.txt", "b.txt", "c.txt"):
        tally.skip("not text in the expected encoding", f"{name}:7", "byte 0xe4")
    tally.skip("not a text format", "photo.png")
    tally.skip("empty file", "zero.txt")
    assert skipped_line({"skipped": tally.summary()}, "utf-8") == (
        "17 skipped: 12 broken JSON (bad.jsonl ...), 3 not utf-8 (a.txt ...), 1 empty file "
        "(zero.txt), ...: see report.json; corpus.encoding, corpus.text_extensions may help"
    )
    assert skipped_line({"skipped": {}}, "utf-8") is None
