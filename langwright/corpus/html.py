"""Web pages: the main text of an HTML document.

`trafilatura` finds the article among navigation and adverts and is used where it is installed.
The plain extraction below only drops what is never text (scripts, styles, navigation). It is a
scan from left to right: time is linear in the page's length whatever the page holds (the parser of
the standard library takes quadratic time on some hostile pages).
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable, Iterator

from langwright.base import UserError
from langwright.corpus.plaintext import decode, encoding_of

_RAW = frozenset({"script", "style", "noscript", "template", "textarea", "title", "iframe"})
_DROPPED = frozenset({"nav", "header", "footer", "aside", "form", "svg", "button", "select"})
_BLOCK_NAMES = """
    address article blockquote body br center dd details div dl dt fieldset figcaption figure
    h1 h2 h3 h4 h5 h6 head hr html li main ol p pre section summary table tbody td th thead tr ul
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_NAME = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9:-]{0,30})")
_VALUE = re.compile(r"=\s{0,9}([\"'])")  # where an attribute's quoted value begins
_CHARSET = re.compile(rb"<meta[^>]{0,300}charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.I)


def choose_extractor(wanted: str) -> tuple[str, Callable[[str], str]]:
    """The extractor's name and function for the config's `html` setting."""
    if wanted == "plain":
        return "plain", plain_text
    problem = _trafilatura_problem()
    if problem is None:
        return "trafilatura", _trafilatura
    if wanted == "trafilatura":
        raise UserError(
            "trafilatura cannot be used",
            where="corpus.html",
            found=problem,
            fix='pip install trafilatura lxml_html_clean, or set corpus.html = "plain"',
        )
    return f"plain ({problem})", plain_text


@functools.cache
def _trafilatura_problem() -> str | None:
    """Why trafilatura cannot be imported; None if it can."""
    try:
        import trafilatura  # noqa: F401
    except ImportError as error:  # absent, or one of its own libraries is
        return str(error).split("\n")[0]
    return None


def decode_page(data: bytes, default: str) -> str:
    """A page's characters: byte order mark, else its own ``<meta charset>``, else the default.

    Raises:
        NotText: the bytes are not in that encoding.
    """
    _, mark = encoding_of(data[:4], default)
    declared = None if mark else _CHARSET.search(data[:2048])
    name = declared.group(1).decode("ascii") if declared else default
    try:
        "".encode(name)
    except (LookupError, UnicodeError, ValueError):
        name = default
    # Browsers read pages that say latin-1 as its superset cp1252.
    if name.lower() in ("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii"):
        name = "cp1252"
    return decode(data, name)


def plain_text(page: str) -> str:
    """The visible text of a page, a line for each block, without navigation."""
    scanner = _Scanner(page)
    out: list[str] = []
    hidden = 0  # depth inside dropped elements
    hiding = ""  # the outermost of them
    for kind, value in scanner.pieces():
        if kind == "text":
            if not hidden:
                out.append(value)
            continue
        if hidden:  # only the same element opens and closes what hides
            hidden += (value == hiding) * (1 if kind == "open" else -1)
        elif kind == "open" and value in _DROPPED:
            hidden, hiding = 1, value
            out.append("\n")
        elif value in _BLOCKS:
            out.append("\n\n" if value in ("p", "h1", "h2", "h3", "table", "ul", "ol") else "\n")
    text = html.unescape("".join(out))
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Scanner:
    """Cuts a page into text, opening tags and closing tags, in one pass."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.lower = page.lower()
        if len(self.lower) != len(page):  # a few letters grow when lowered
            self.lower = re.sub("[A-Z]", lambda match: match.group().lower(), page)
        self._absent: set[str] = set()  # marks known not to come any more

    def find(self, mark: str, start: int) -> int:
        """Like `str.find`, but looks only once for what is not there."""
        if mark in self._absent:
            return -1
        at = self.lower.find(mark, start)
        if at < 0:
            self._absent.add(mark)
        return at

    def pieces(self) -> Iterator[tuple[str, str]]:
        """Pairs of a kind (text, open, close) and a text or an element's name."""
        page, at, end = self.page, 0, len(self.page)
        while at < end:
            tag = self.find("<", at)
            if tag < 0:
                yield "text", page[at:]
                return
            if tag > at:
                yield "text", page[at:tag]
            if page.startswith("<!--", tag):
                close = self.find("-->", tag)
                at = end if close < 0 else close + 3
                continue
            match = _NAME.match(page, tag)
            if match is None:
                if page[tag + 1 : tag + 2] in ("!", "?", "/"):
                    close = self.find(">", tag)
                    at = end if close < 0 else close + 1
                else:  # a lone "<" is text
                    yield "text", "<"
                    at = tag + 1
                continue
            at = self._tag_end(match.end())
            name = match.group(2).lower()
            if match.group(1):
                yield "close", name
            elif name in _RAW:
                close = self.find(f"</{name}", at)
                at = end if close < 0 else self._tag_end(close + 2)
            elif not page.startswith("/>", max(at - 2, 0)):
                yield "open", name
            elif name in _BLOCKS:
                yield "close", name

    def _tag_end(self, at: int) -> int:
        """The place after the ``>`` of the tag whose name ends at `at`; quotes may hold one."""
        close = self.find(">", at)
        while close >= 0:
            quoted = _VALUE.search(self.page, at, close)
            if quoted is None:
                return close + 1
            other = self.find(quoted.group(1), quoted.end())
            if other < 0:
                return close + 1
            at = other + 1
            if at > close:
                close = self.find(">", at)
        return len(self.page)


def _trafilatura(page: str) -> str:
    import trafilatura

    return trafilatura.extract(page, include_comments=False) or ""
