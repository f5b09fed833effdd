"""The corpus of Python's own documentation: what is in it, and that nothing leaks."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from langwright.corpus import read_conversations, read_documents, sources
from langwright.corpus.docstrings import Docstring, docstrings_of
from langwright.corpus.document import content_key
from langwright.corpus.lines import long_lines
from langwright.corpus.python_modules import family
from langwright.corpus.sentences import answer, first_prose, third_person

SPLITS = ("train", "valid", "test")
Corpus = tuple[Path, dict[str, Any]]


def test_size_and_shares(python_corpus: Corpus) -> None:
    out, report = python_corpus
    for split in SPLITS:
        assert sources(out, split) == ["python-docs", "python-source"]
    docs, code = report["sources"]["python-docs"], report["sources"]["python-source"]
    assert sum(split["documents"] for split in docs.values()) > 8000
    assert 2_000_000 < sum(split["bytes"] for split in docs.values()) < 4_500_000
    assert 7_000_000 < sum(split["bytes"] for split in code.values()) < 16_000_000
    for source in (docs, code):
        total = sum(split["bytes"] for split in source.values())
        for split in ("valid", "test"):
            assert 0.035 < source[split]["bytes"] / total < 0.06
    assert report["duplicates"]["python-docs"] > 300


def test_known_objects_read_well(python_corpus: Corpus) -> None:
    out, _ = python_corpus
    found = {d.id: d for split in SPLITS for d in read_documents(out, split, "python-docs")}
    join = found["python-docs/os.path.join"]
    assert join.text.startswith("os.path.join(a, *p)\n\nJoin two or more pathname components")
    assert join.meta["kind"] == "function"
    assert join.meta["module"] == "os.path"
    assert found["python-docs/len"].text.startswith("len(obj, /)\n\nReturn the number of items")
    assert found["python-docs/os.mkdir"].meta["module"] == "os"  # written in C as posix.mkdir
    assert "python-docs/posix.mkdir" not in found
    assert found["python-docs/json"].meta["kind"] == "module"
    assert "python-docs/topic/assert" in found
    assert all(" at 0x" not in d.meta.get("heading", "") for d in found.values())


def test_no_document_stands_in_two_splits(python_corpus: Corpus) -> None:
    out, _ = python_corpus
    keys: dict[bytes, str] = {}
    ids: set[str] = set()
    for split in SPLITS:
        for document in read_documents(out, split):
            assert keys.setdefault(content_key(document), split) == split, document.id
            assert document.id not in ids
            ids.add(document.id)


def test_both_sources_are_split_by_the_same_modules(python_corpus: Corpus) -> None:
    out, _ = python_corpus
    split_of: dict[str, str] = {}
    for split in SPLITS:
        for source in ("python-docs", "python-source"):
            for document in read_documents(out, split, source):
                if "module" in document.meta:
                    group = family(str(document.meta["module"]))
                    assert split_of.setdefault(group, split) == split, document.id
    assert len(split_of) > 150
    assert list(split_of.values()).count("valid") > 5


def test_hardly_a_held_out_line_is_trained_on(python_corpus: Corpus) -> None:
    """Counted here once more, without the code that reports it."""
    out, report = python_corpus
    trained = {line for d in read_documents(out, "train") for line in long_lines(d.text)}
    for source, most in (("python-docs", 0.02), ("python-source", 0.04)):
        leaked = every = 0
        for split in ("valid", "test"):
            for document in read_documents(out, split, source):
                for line in long_lines(document.text):
                    every += len(line)
                    leaked += len(line) * (line in trained)
        assert leaked / every < most
        reported = report["leakage"]["by_split_and_source"]
        assert leaked / every <= max(reported[f"{s}/{source}"] for s in ("valid", "test")) + 1e-5


def test_conversations_keep_objects_apart(python_corpus: Corpus) -> None:
    out, report = python_corpus
    documents = {split: {d.id for d in read_documents(out, split)} for split in SPLITS}
    objects: dict[str, set[str]] = {}
    for split in SPLITS:
        chats = read_conversations(out, split)
        assert report["conversations"][split] == len(chats)
        assert {chat["meta"]["id"] for chat in chats} <= documents[split]
        objects[split] = {chat["meta"]["object"] for chat in chats}
        for chat in chats:
            roles = [message["role"] for message in chat["messages"]]
            assert roles == ["user", "assistant"]
            reply = chat["messages"][1]["content"]
            assert reply[-1] in ".!?`)"
            assert reply == reply.strip()
            assert reply.count("`") % 2 == 0
            assert 10 < len(reply) < 700
    assert len(objects["train"]) > 3000
    assert min(len(objects["valid"]), len(objects["test"])) > 100
    assert not objects["train"] & (objects["valid"] | objects["test"])


def test_python_docs_are_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from langwright.corpus import *\n"
        "config = CorpusConfig(max_bytes=600_000, minimum_characters=1000)\n"
        "build_corpus(config, Path(sys.argv[1]))"
    )
    contents = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        subprocess.run(
            [sys.executable, "-c", code, str(out)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            timeout=120,
            capture_output=True,
        )
        files = sorted(path for path in out.rglob("*") if path.is_file())
        contents.append([(path.relative_to(out), path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_json", "json"),
        ("_pydatetime", "datetime"),
        ("_datetime", "datetime"),
        ("_decimal", "decimal"),
        ("_pydecimal", "decimal"),
        ("json.decoder", "json"),
        ("_io", "io"),
        ("_pyio", "io"),
        ("posix", "os"),
        ("posixpath", "os"),
        ("_collections_abc", "collections"),
        ("_ctypes", "ctypes"),
        ("_sha3", "hashlib"),
        ("collections", "collections"),
    ],
)
def test_twins_belong_to_one_family(name: str, expected: str) -> None:
    assert family(name) == expected


def test_docstrings_of_a_source() -> None:
    source = '''"""The module."""
class Box(dict):
    """A box."""
    def __init__(self, size=3):
        """Make it."""
    @property
    def lid(self):
        """The lid."""
    @staticmethod
    def make(a, b):
        """Make it

            so."""
    @classmethod
    async def later(cls, *, x: int = 1) -> str:
        "Later."
if True:
    try:
        pass
    except ImportError:
        def f(a, /, *args, **kw):
            """F."""
            def inner():
                """not public"""
class Empty(Box): "No constructor."
'''
    found = list(docstrings_of(ast.parse(source), "m"))
    assert [(d.kind, d.heading, d.text) for d in found] == [
        ("module", "module m", "The module."),
        ("class", "class m.Box(size=3)", "A box."),
        ("method", "m.Box.__init__(size=3)", "Make it."),
        ("property", "m.Box.lid", "The lid."),
        ("method", "m.Box.make(a, b)", "Make it\n\nso."),
        ("method", "async m.Box.later(*, x: int=1) -> str", "Later."),
        ("function", "m.f(a, /, *args, **kw)", "F."),
        ("class", "class m.Empty(Box)", "No constructor."),
    ]
    assert found[-1].signature == ""
    assert Docstring("builtins", "len", "function", "len(obj, /)", "x").full_name == "len"


def test_answers_are_sentences() -> None:
    def say(kind: str, text: str) -> str:
        prose = first_prose(text)
        assert prose is not None
        return answer("x.y", kind, prose)

    assert say("function", "Join two paths.") == "`x.y` joins two paths."
    assert say("method", "Try again and return it") == "`x.y` tries again and returns it."
    assert say("function", "Returns the size.") == "`x.y` returns the size."
    assert say("class", "A subclass of :class:`dict`.") == "`x.y` is a subclass of `dict`."
    assert say("class", "The lock is not owned by it.") == (
        "The documentation of `x.y` says: The lock is not owned by it."
    )
    assert (
        say("function", "f(x) -> int\n\nCompute the value of ``f``.")
        == "`x.y` computes the value of `f`."
    )
    assert [third_person(w) for w in ("pass", "copy", "play", "go")] == [
        "passes",
        "copies",
        "plays",
        "goes",
    ]
    for nothing in ("", ">>> f()\n3", "name    meaning\na       b", "x -> y", "tiny."):
        assert first_prose(nothing) is None
