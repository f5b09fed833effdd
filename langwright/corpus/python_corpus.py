"""The corpus every machine has: the documentation and source of the running Python.

Two sources: ``python-docs`` (docstrings and the help topics of `pydoc`) and ``python-source`` (the
code of the standard library). The code contains the docstrings, so both are held out by the same
groups of modules (`units.py`).
"""

from __future__ import annotations

import ast
import hashlib
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from langwright.base import UserError
from langwright.corpus.compiled_docs import compiled_docstrings
from langwright.corpus.docstrings import Docstring, docstrings_of, private_imports
from langwright.corpus.document import Document
from langwright.corpus.python_modules import ModuleFile, family, reading_order, source_files
from langwright.corpus.tally import Tally

DOCS, SOURCE = "python-docs", "python-source"
# A line of a generated table: `0x41: 0x0041,  # ...` or `'\x41'  # ...`.
_TABLE_LINE = re.compile(r"\s*(0x[0-9a-fA-F]+\s*:|u?['\"].{1,8}['\"]\s+#)")


def python_documents(
    wanted: Iterable[str], max_bytes: int | None, tally: Tally
) -> list[tuple[Document, str]]:
    """Documents of the Python sources, each with the group it is held out with.

    Args:
        wanted: ``"python-docs"``, ``"python-source"`` or both.
        max_bytes: about how much of each source to take: whole modules and topics, the same
            in both sources, whatever the machine.

    Raises:
        UserError: this Python has no standard library source.
    """
    wanted = set(wanted)
    files = source_files()
    if not files:
        raise UserError(
            "this Python installation has no source files of its standard library",
            where="python-docs",
            fix="train on your own text: --corpus FOLDER",
        )
    found: list[tuple[Document, str]] = []
    public: dict[tuple[str, str], tuple[str, str]] = {}
    for file in files if max_bytes is None else _some_files(files, max_bytes):
        text = _decode(file.path, tally)
        if text is None:
            continue
        group = family(file.path.stem if file.name == "os.path" else file.name)
        if SOURCE in wanted and text.strip():
            found += _source_document(file, text, group, tally)
        if DOCS in wanted:
            tree = _parse(file, text, tally)
            found += [(_document(doc), group) for doc in docstrings_of(tree, file.name)]
            if not file.name.startswith("_"):
                for module, name, own in private_imports(tree):
                    _note_public(public, (module, name), (file.name, own))
    if DOCS in wanted:
        groups = {group for _, group in found}
        for doc in compiled_docstrings(public):
            group = family(doc.module)
            if max_bytes is None or group in groups:
                found.append((_document(doc), group))
        found += _topics(max_bytes, tally)
    return [(document, group) for document, group in _unique_ids(found)]


def _note_public(
    public: dict[tuple[str, str], tuple[str, str]], inner: tuple[str, str], own: tuple[str, str]
) -> None:
    """Remember that a private name is offered as `own`; a module of its own family goes first."""
    known = public.get(inner)
    home = family(inner[0])
    if known is None or (family(known[0]) != home and family(own[0]) == home):
        public[inner] = own


def _document(doc: Docstring) -> Document:
    meta = {
        "kind": doc.kind,
        "module": doc.module,
        "object": doc.full_name,
        "heading": doc.heading,
        "signature": doc.signature,
    }
    # A docstring that begins with its own signature needs none from us.
    last = doc.name.split(".")[-1]
    if last and doc.text.startswith(f"{last}(") and not doc.signature:
        meta["heading"] = doc.full_name
    return Document(f"{meta['heading']}\n\n{doc.text}", f"{DOCS}/{doc.full_name}", DOCS, meta)


def _source_document(
    file: ModuleFile, text: str, group: str, tally: Tally
) -> Iterator[tuple[Document, str]]:
    lines = text.splitlines()
    if sum(bool(_TABLE_LINE.match(line)) for line in lines) > 0.4 * len(lines):
        tally.skip("generated table of numbers", file.name)
        return
    meta = {"kind": "source", "module": file.name}
    yield Document(text, f"{SOURCE}/{file.name}", SOURCE, meta), group


def _topics(max_bytes: int | None, tally: Tally) -> list[tuple[Document, str]]:
    """The help topics: chapters of the language reference, as ``help("assert")`` shows them."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        tally.skip("part of Python that is not installed", "pydoc_data.topics")
        return []
    found = []
    names = sorted(topics)
    if max_bytes is not None:  # topics are about a fifth of the source
        names = sorted(_within({n: len(topics[n]) for n in names}, max_bytes // 5))
    for name in names:
        text = "\n".join(line.rstrip() for line in topics[name].splitlines()).strip() + "\n"
        meta = {"kind": "topic", "object": f"topic {name}"}
        found.append((Document(text, f"{DOCS}/topic/{name}", DOCS, meta), f"topic {name}"))
    return found


def _some_files(files: list[ModuleFile], max_bytes: int) -> list[ModuleFile]:
    """Whole families of modules, in an order that depends on their names only."""
    sizes: dict[str, int] = {}
    for file in files:
        group = family(file.name)
        sizes[group] = sizes.get(group, 0) + file.path.stat().st_size
    chosen = _within(sizes, max_bytes)
    return [file for file in files if family(file.name) in chosen]


def _within(sizes: dict[str, int], budget: int) -> set[str]:
    """Names taken in the order of their hashes while their sizes fit; at least one."""
    order = sorted(sizes, key=lambda name: hashlib.blake2b(name.encode()).digest())
    chosen: set[str] = set()
    for name in order:
        if sizes[name] <= budget or not chosen:
            budget -= sizes[name]
            chosen.add(name)
    return chosen


def _decode(path: Path, tally: Tally) -> str | None:
    """A source file's text in its own declared encoding, line ends as ``\\n``."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
        text.encode("utf-8")
    except (OSError, SyntaxError, UnicodeError) as error:
        tally.skip("unreadable source file", path.name, str(error)[:120])
        return None
    return None if "\0" in text else text


def _parse(file: ModuleFile, text: str, tally: Tally) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        tally.skip("source file with a syntax error", file.name, str(error)[:120])
        return ast.Module(body=[], type_ignores=[])


def _unique_ids(found: list[tuple[Document, str]]) -> Iterator[tuple[Document, str]]:
    """Public things first; a second definition of a name gets a number."""
    found.sort(key=lambda pair: reading_order(str(pair[0].meta.get("module", ""))))
    seen: dict[str, int] = {}
    for document, group in found:
        count = seen[document.id] = seen.get(document.id, 0) + 1
        if count > 1:
            document = Document(
                document.text, f"{document.id}~{count}", document.source, document.meta
            )
        yield document, group
