"""Getting a file from the network once (fact B2 of the story this package retells)."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from langwright.base import UserError, atomic_path
from langwright.corpus.readers import read_text

_SCHEMES = ("http", "https", "file")


def fetch_text(url: str, path: str | Path, *, max_bytes: int = 2**30, timeout: float = 60.0) -> str:
    """The text of `path`; it is downloaded from `url` only when `path` does not exist.

    The file appears whole or not at all.

    Args:
        url: ``http``, ``https`` or ``file`` address.
        path: where the file is kept; its ending says how it is read.
        max_bytes: a larger download is refused.
        timeout: seconds without an answer before giving up.

    Raises:
        UserError: another scheme, no network, too large, or no text.
    """
    path = Path(path)
    if not path.exists():
        _download(url, path, max_bytes, timeout)
    return read_text(path)


def _download(url: str, path: Path, max_bytes: int, timeout: float) -> None:
    if urlsplit(url).scheme not in _SCHEMES:
        raise UserError("address of an unknown kind", where=url, expected=", ".join(_SCHEMES))
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer, atomic_path(path) as part:
            got = 0
            with part.open("wb") as file:
                while chunk := answer.read(1 << 16):
                    got += len(chunk)
                    if got > max_bytes:
                        raise UserError(
                            "download is too large",
                            where=url,
                            found=f"more than {max_bytes} bytes",
                            fix="raise max_bytes if you trust the address",
                        )
                    file.write(chunk)
            expected = answer.headers.get("Content-Length")
            if expected is not None and expected.isdigit() and int(expected) != got:
                raise UserError(
                    "the download was cut off",
                    where=url,
                    found=f"{got} bytes",
                    expected=f"{expected} bytes",
                    fix="try again",
                )
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"could not be fetched: {reason}",
            where=url,
            fix=f"check the network, or put the file at {path} yourself",
        ) from None
