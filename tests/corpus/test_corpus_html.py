"""Main text of web pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from langwright.base import UserError
from langwright.corpus import html, load_text
from langwright.corpus.html import choose_extractor, decode_page, plain_text
from langwright.corpus.plaintext import NotText

PAGE = """<!DOCTYPE html><html><head><title>Title</title><style>p {color: red}</style>
<script>if (a < b) { document.write("<p>no</p>"); }</script></head><body>
<!-- a comment > with <p>marks</p> -->
<nav><ul><li>Home</li><li><nav>inner</nav>About</li></ul></nav>
<h1>Heading</h1><p>First &amp; <b>bold</b>   text.<br>Second line, 2 < 3.</p>
<img alt="a > b" src="x.png"><p class='it"s'>Third &eacute;&#33;</p>
<footer>Copyright</footer></body></html>"""


def test_plain_extraction() -> None:
    assert plain_text(PAGE) == ("Heading\n\nFirst & bold text.\nSecond line, 2 < 3.\n\nThird é!")


def test_unclosed_comment_and_script_end_the_page() -> None:
    assert plain_text("<p>before<!-- never closed <p>after") == "before"
    assert plain_text("<p>before<script>never closed <p>after") == "before"
    assert plain_text("no marks at all") == "no marks at all"
    assert plain_text("<p>a</p") == "a"


def test_the_page_names_its_encoding() -> None:
    data = '<html><head><meta charset="iso-8859-1"></head><p>caf\xe9 \x93q\x94'.encode("latin-1")
    assert "café “q”" in decode_page(data, "utf-8")
    data = "<html><meta http-equiv='Content-Type' content='text/html; charset=shift_jis'>日本"
    assert "日本" in decode_page(data.encode("shift_jis"), "utf-8")
    assert decode_page("\ufeff<p>ö".encode(), "latin-1") == "<p>ö"
    with pytest.raises(NotText):
        decode_page(b"<p>caf\xe9", "utf-8")
    with pytest.raises(NotText):  # a charset that does not exist is not believed
        decode_page(b"<meta charset=nonsense><p>caf\xe9", "utf-8")


def test_which_extractor_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_extractor("plain")[0] == "plain"
    monkeypatch.setattr(html, "_trafilatura_problem", lambda: "No module named 'trafilatura'")
    assert choose_extractor("auto")[0] == "plain (No module named 'trafilatura')"
    with pytest.raises(UserError, match="pip install trafilatura"):
        choose_extractor("trafilatura")


def test_real_pages(shared_data: Callable[[str], Path]) -> None:
    """Every saved page gives text, and most words of a page's article are in it."""
    import json

    truth = json.loads(shared_data("html-ground-truth.json").read_text())
    folder = shared_data("html")
    documents = {
        Path(d.meta["file"]).name.split(".")[0]: d for d in load_text(folder, html="plain")
    }
    assert len(documents) >= 0.95 * len(list(folder.glob("*.gz")))
    recalls = []
    for name, document in documents.items():
        article = truth.get(name, {}).get("articleBody")
        if article:
            words = set(article.split())
            recalls.append(len(words & set(document.text.split())) / len(words))
    assert len(recalls) > 20
    assert sum(recalls) / len(recalls) > 0.85


def test_trafilatura_where_it_is_installed(tmp_path: Path) -> None:
    if choose_extractor("auto")[0] != "trafilatura":
        pytest.skip("trafilatura is not installed")
    article = "".join(
        f"<p>Sentence number {n} of the article, long enough to count.</p>" for n in range(9)
    )
    (tmp_path / "a.html").write_text(
        f"<html><body><nav>Home</nav><article>{article}</article></body></html>"
    )
    (document,) = load_text(tmp_path, html="trafilatura")
    assert "Sentence number 3 of the article" in document.text
    assert "Home" not in document.text
