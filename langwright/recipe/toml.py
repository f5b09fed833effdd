"""TOML with line numbers: where each key of a recipe stands, and a recipe written back as TOML."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langwright.base import UserError

KeyPath = tuple[str, ...]
_KEY = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)\s*(\.)?""")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read_toml(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The values of a TOML file and the line (from 1) on which each key stands."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("recipe not found", where=path, fix="check the path") from None
    except IsADirectoryError:
        raise UserError("this is a folder, not a recipe file", where=path) from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text: {error.reason}", where=path) from None
    try:
        return tomllib.loads(text), key_lines(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(path, text, error) from None


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line of each table and key in a valid TOML text (keys of inline tables excepted)."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    depth, quote = 0, ""  # open brackets, and the kind of the open multi-line string
    for number, line in enumerate(text.splitlines(), start=1):
        if not quote and depth == 0:
            stripped = line.strip()
            if stripped.startswith("["):
                table = _keys(stripped.lstrip("["))
                for i in range(1, len(table) + 1):
                    lines.setdefault(table[:i], number)
                continue
            if stripped and not stripped.startswith("#"):
                path = table + _keys(line)
                for i in range(len(table) + 1, len(path) + 1):
                    lines.setdefault(path[:i], number)
        depth, quote = _scan(line, depth, quote)
    return lines


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int | None:
    """The line of the key at `path`, or of the nearest thing that holds it."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def parse_value(text: str) -> Any:
    """A value as TOML writes it; text that is no TOML value is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def write_toml(values: Mapping[str, Any]) -> str:
    """`values` as TOML text. None cannot be written in TOML and is left out."""
    parts: list[str] = []
    _write_table(values, (), parts)
    return "\n".join(parts).strip("\n") + "\n"


def _syntax_error(path: Path, text: str, error: tomllib.TOMLDecodeError) -> UserError:
    """Name file and line; show the line."""
    found = re.search(r"\(at line (\d+)", str(error))
    number = int(found.group(1)) if found else len(text.splitlines())
    message = re.sub(r"\s*\(at .*\)$", "", str(error))
    lines = text.splitlines()
    shown = lines[number - 1].strip() if 0 < number <= len(lines) else None
    fix = "texts need quotes; a key is written `key = value`"
    return UserError(f"not valid TOML: {message}", where=f"{path}:{number}", found=shown, fix=fix)


def _keys(text: str) -> KeyPath:
    """The dotted key at the start of `text`."""
    keys: list[str] = []
    place = 0
    while match := _KEY.match(text, place):
        raw = match.group(1)
        if raw.startswith('"'):
            keys.append(str(parse_value(raw)))
        else:
            keys.append(raw.strip("'"))
        if not match.group(2):
            break
        place = match.end()
    return tuple(keys)


def _scan(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Follow brackets and strings through a line; what is still open at its end."""
    i = 0
    while i < len(line):
        if quote:
            if quote[0] == '"' and line[i] == "\\":
                i += 2
                continue
            if line.startswith(quote, i):
                i += len(quote)
                quote = ""
                continue
        elif line[i] == "#":
            break
        elif line[i] in "\"'":
            quote = line[i] * 3 if line.startswith(line[i] * 3, i) else line[i]
            i += len(quote)
            continue
        else:
            depth += (line[i] in "[{") - (line[i] in "]}")
        i += 1
    return depth, quote if len(quote) == 3 else ""


def _write_table(values: Mapping[str, Any], path: KeyPath, parts: list[str]) -> None:
    plain = {k: v for k, v in values.items() if v is not None and not isinstance(v, Mapping)}
    tables = {k: v for k, v in values.items() if isinstance(v, Mapping)}
    if path and (plain or not tables):
        parts.append(f"\n[{'.'.join(_write_key(key) for key in path)}]")
    parts.extend(f"{_write_key(key)} = {_write_value(value)}" for key, value in plain.items())
    for key, value in tables.items():
        _write_table(value, (*path, key), parts)


def _write_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _quoted(key)


def _write_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_write_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        inside = (f"{_write_key(k)} = {_write_value(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(inside) + "}"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """JSON's escapes are a part of TOML's, except that TOML wants DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
