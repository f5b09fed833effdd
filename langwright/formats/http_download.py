"""A file over HTTP that goes on where it stopped."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from langwright.base import UserError

SCHEMES = ("http", "https")
CHUNK = 1 << 18
TRIES = 4  # in a row without a single byte
PAUSE = 1.0  # seconds before the second try, doubled each time


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    most: int = 2**40,
    advance: Callable[[int], object] = lambda count: None,
    timeout: float = 60.0,
) -> None:
    """Fetch `url` to `path`, which appears only when it is whole.

    What has come lies in ``PATH.part`` meanwhile; a dropped connection, or another run, goes on
    from there (HTTP range requests).

    Args:
        size: bytes that are expected, where known.
        most: more is refused.
        advance: told of each piece's bytes, those of earlier runs first.
        timeout: seconds without an answer before trying again.

    Raises:
        UserError: another scheme, no network, no such file, or another size than expected.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise UserError("address of an unknown kind", where=url, expected=" or ".join(SCHEMES))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if part.exists() and part.stat().st_size > (most if size is None else size):
        part.unlink()  # of another file
    advance(part.stat().st_size if part.exists() else 0)
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            total = _fetch_rest(url, part, size, most, advance, timeout)
            break
        except (OSError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                answer = f"the server answers {error.code} {error.reason}"
                raise UserError(answer, where=url) from None
            got_more = part.exists() and part.stat().st_size > before
            failures = 0 if got_more else failures + 1
            if failures >= TRIES:
                raise UserError(
                    f"could not be fetched: {getattr(error, 'reason', None) or error}",
                    where=url,
                    fix="check the network; the same command goes on from here",
                ) from None
            time.sleep(PAUSE * 2**failures / 2)
    if part.stat().st_size != total:
        raise UserError("the download has a wrong size", where=url, found=part.stat().st_size,
                        expected=total)  # fmt: skip
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def _fetch_rest(
    url: str,
    part: Path,
    size: int | None,
    most: int,
    advance: Callable[[int], object],
    timeout: float,
) -> int:
    """Append to `part` what is missing; returns the whole file's size.

    Raises OSError where trying again may help.
    """
    have = part.stat().st_size if part.exists() else 0
    if have and have == size:
        return size
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond `have`: whole already, or of another file
            part.unlink()
            advance(-have)
            raise ConnectionError("the server's file is shorter than before") from None
        raise
    with answer:
        goes_on = answer.status == 206 and _range_start(answer.headers) == have
        if have and not goes_on:  # a server without ranges begins anew
            if answer.status == 206:
                raise ConnectionError("the server sent another part than was asked for")
            advance(-have)
            have = 0
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else size
        for limit, what in ((size, "than expected"), (most, "than is allowed")):
            if total is not None and limit is not None and total > limit:
                raise _wrong_size(url, total, limit, what)
        if size is not None and total != size:
            raise _wrong_size(url, total, size, "than expected")
        with open(part, "ab" if have else "wb") as file:
            while chunk := answer.read(CHUNK):
                have += len(chunk)
                if have > (most if total is None else total):
                    raise _wrong_size(url, have, total or most, "than is allowed")
                file.write(chunk)
                advance(len(chunk))
    if total is not None and have < total:
        raise ConnectionError(f"cut off after {have:,} of {total:,} bytes")
    return have


def _range_start(headers: object) -> int | None:
    """The first byte that a partial answer holds: ``bytes 100-199/200``."""
    text = getattr(headers, "get", lambda name, default: "")("Content-Range", "") or ""
    start = text.removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else None


def _wrong_size(url: str, found: int | None, expected: int, what: str) -> UserError:
    return UserError(
        f"the file has another size {what}",
        where=url,
        found=f"{found:,} bytes" if found is not None else None,
        expected=f"{expected:,} bytes",
    )
