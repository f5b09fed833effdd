"""From what the user named to the files to read: files, folders, globs."""

from __future__ import annotations

import glob
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from langwright.base import UserError, nearest
from langwright.corpus.bytestream import COMPRESSED
from langwright.corpus.config import CorpusConfig
from langwright.corpus.own import is_own_folder, own_folder_of
from langwright.corpus.tally import Tally, printable

RECORD_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
HTML_KINDS = {".html": "html", ".htm": "html"}
PYTHON_SOURCES = ("python-docs", "python-source")
OWN = "folder that Langwright made"  # why it is left out


@dataclass(frozen=True)
class FoundFile:
    """A file to read: its path, the name it goes by in document ids, its kind.

    `named` is True when the user named this very file: then what is wrong with it is an error,
    where in a folder it would be a counted skip.
    """

    path: Path
    label: str
    kind: str
    named: bool


def kind_of(path: Path, config: CorpusConfig) -> str | None:
    """``text``, ``jsonl``, ``json``, ``parquet`` or ``html`` by the ending; None if unknown."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    suffix = Path(name).suffix
    if suffix in {ending.lower() for ending in config.text_extensions}:
        return "text"
    return RECORD_KINDS.get(suffix) or HTML_KINDS.get(suffix)


def check_sources(config: CorpusConfig) -> None:
    """Raise `UserError` if a source is not there; nothing is read, and the hub is not asked."""
    for entry in config.sources:
        if entry in PYTHON_SOURCES or entry.startswith("hf://"):
            continue
        path = _as_path(entry)
        if not _exists(path) and not (glob.has_magic(entry) and _matches(path)):
            raise _nothing_there(entry, path)


def find_files(
    entry: str, config: CorpusConfig, tally: Tally, out: Path | None = None
) -> list[FoundFile]:
    """All files of one entry of `sources`, in sorted order.

    Runs and artifacts of this program inside a folder, and the folder `out` that is being made,
    are counted as skipped; an artifact that `entry` itself names is read.

    Raises:
        UserError: nothing is there, or a file named directly is of no known kind.
    """
    path = _as_path(entry)
    if _is_folder(path):
        return list(_walk(path, config, tally, out))
    if _exists(path):
        return [_named_file(path, config)]
    if glob.has_magic(entry):
        matches = _matches(path)
        if matches:
            return _from_glob(matches, str(path), config, tally, out)
    raise _nothing_there(entry, path)


def source_name(entry: str) -> str:
    """A short name for an entry, fit for a file name: ``my-folder``, ``the-verdict``."""
    if entry in PYTHON_SOURCES:
        return entry
    if entry.startswith("hf://"):
        text = entry.removeprefix("hf://").replace("/", "-").replace(":", "-")
    else:
        path = _as_path(entry)
        steps = [part for part in path.parts if not glob.has_magic(part)]
        text = Path(steps[-1]).name if steps else "files"
        if text in ("", ".", ".."):
            text = path.resolve().name
        if not _is_folder(path):
            text = text.split(".")[0] or text
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", printable(text)).strip("-")[:60]
    return slug or "text"


def _matches(path: Path) -> list[Path]:
    """What a pattern finds, sorted."""
    found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - absolute patterns too
    return [Path(match) for match in sorted(found)]


def _nothing_there(entry: str, path: Path) -> UserError:
    if glob.has_magic(entry):
        return UserError("no file matches", where=printable(entry), fix="check the pattern")
    return _not_found(entry, path)


def _not_found(entry: str, path: Path) -> UserError:
    guess = nearest(entry, PYTHON_SOURCES)
    if guess is None and _is_folder(path.parent):
        close = nearest(path.name, (other.name for other in path.parent.iterdir()))
        guess = str(path.parent / close) if close else None
    return UserError(
        "no such file, folder or known source",
        where=printable(entry),
        expected=f"a path, a glob, hf://owner/name, or {' / '.join(PYTHON_SOURCES)}",
        fix=f"did you mean {printable(guess)!r}?" if guess else None,
    )


def _named_file(path: Path, config: CorpusConfig) -> FoundFile:
    kind = kind_of(path, config)
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError("not a regular file", where=path)
    if kind is None:
        known = [*config.text_extensions, *RECORD_KINDS, *HTML_KINDS]
        raise UserError(
            "file of an unknown kind",
            where=path,
            found=path.suffix or "no ending",
            expected=", ".join(known) + ", each also with .gz or .zst",
            fix="if it is plain text, add its ending to corpus.text_extensions",
        )
    return FoundFile(path, printable(path.name), kind, named=True)


def _from_glob(
    matches: list[Path], entry: str, config: CorpusConfig, tally: Tally, out: Path | None
) -> list[FoundFile]:
    found: list[FoundFile] = []
    own: dict[Path, Path | None] = {}  # of each folder with matches: the run that it belongs to
    told: set[Path] = set()
    for path in matches:
        if path.is_dir():
            continue  # `**` matches folders too; their files match by themselves
        if path.parent not in own:
            inside = out is not None and path.resolve().is_relative_to(out.resolve())
            own[path.parent] = out if inside else own_folder_of(path.parent, entry)
        made = own[path.parent]
        if made is not None:
            if made not in told:
                tally.skip(OWN, printable(made.as_posix()))
            told.add(made)
            continue
        found.extend(_take(path, printable(path.as_posix()), config, tally))
    return found


def _walk(
    folder: Path, config: CorpusConfig, tally: Tally, out: Path | None
) -> Iterator[FoundFile]:
    """Files below `folder`, sorted; links are followed, but no folder is entered twice."""
    seen: set[tuple[int, int]] = set()
    stack = [(folder, "")]  # what is still to visit, the next one last
    while stack:
        here, label = stack.pop()
        if label and not here.is_dir():
            yield from _take(here, printable(label), config, tally)
            continue
        if label and (is_own_folder(here) or (out is not None and _same(here, out))):
            tally.skip(OWN, printable(label))
            continue
        try:
            status = here.stat()
            names = sorted(child.name for child in here.iterdir())
        except OSError as error:
            tally.skip("unreadable folder", label or folder, error.strerror or str(error))
            continue
        if (status.st_dev, status.st_ino) in seen:
            tally.skip("folder seen before (symbolic link)", label)
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in reversed(names):
            child = f"{label}/{name}" if label else name
            if name.startswith("."):
                tally.skip("hidden", printable(child))
            else:
                stack.append((here / name, child))


def _as_path(entry: str) -> Path:
    try:
        path = Path(entry).expanduser()
    except RuntimeError:
        raise UserError("there is no such home folder", where=entry) from None
    if not entry.strip():
        raise UserError("the name of a source is empty", expected="a path", fix="write . for here")
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a zero character
        return False


def _same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def _is_folder(path: Path) -> bool:
    return _exists(path) and path.is_dir()


def _take(path: Path, label: str, config: CorpusConfig, tally: Tally) -> Iterator[FoundFile]:
    kind = kind_of(path, config)
    if kind is None:
        tally.skip("not a text format", label)
        return
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        tally.skip("unreadable file", label, error.strerror or str(error))
        return
    if regular:
        yield FoundFile(path, label, kind, named=False)
    else:  # opening a pipe would wait for ever
        tally.skip("not a regular file", label)
