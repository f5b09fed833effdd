"""The order of the rooms: a room imports rooms above it only, and only what they offer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "langwright"
ORDER = [
    "base", "corpus", "tokenizer", "dataset", "model", "formats", "optim", "parallel", "generate",
    "evaluate", "plan", "train", "posttrain", "serve", "recipe", "cli",
]  # fmt: skip
MOST_LINES = 400
LONGER_FILES: set[str] = set()  # name a file here only with a good reason
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room a file stands in; "" for the package's own files."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, list[str], int]]:
    """(module, names, line) of every import of Langwright, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, [], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*base, module]).strip(".")
            yield module, [alias.name for alias in node.names], node.lineno


def problems(path: Path) -> list[str]:
    room = room_of(path)
    package = ".".join(["langwright", *path.relative_to(PACKAGE).parts[:-1]])
    found = []
    for module, names, line in imports(ast.parse(path.read_text(encoding="utf-8")), package):
        parts = module.split(".")
        if parts[0] != "langwright":
            continue
        targets = [parts[1]] if len(parts) > 1 else [name for name in names if name in ORDER]
        for target in targets:
            where = f"{path.relative_to(PACKAGE.parent)}:{line}"
            if target == room or target not in ORDER:
                continue
            if room and ORDER.index(target) > ORDER.index(room):
                found.append(f"{where}: {room} imports {target}, which stands below it")
            if len(parts) > 2:
                found.append(f"{where}: {module} is inside a room; import from langwright.{target}")
    return found


def test_all_rooms_are_in_the_order() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_up_only_and_to_the_front_door(path: Path) -> None:
    assert problems(path) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_enough_to_read(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES or name in LONGER_FILES, f"{lines} lines: two things live in it?"


@pytest.mark.parametrize("room", [r for r in ORDER if (PACKAGE / r / "__init__.py").exists()])
def test_rooms_say_what_they_offer(room: str) -> None:
    """`__all__` is there, sorted, and true."""
    import importlib

    module = importlib.import_module(f"langwright.{room}")
    assert module.__doc__
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def test_the_rule_is_seen_when_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    here = sys.modules[__name__]
    package = tmp_path / "langwright"
    (package / "model").mkdir(parents=True)
    file = package / "model" / "bad.py"
    file.write_text(
        "from langwright.train import Trainer\n"
        "def f():\n    from langwright.base.files import write_json\n"
        "from ..cli import main\n"
        "from langwright import recipe\n"
        "from langwright.base import UserError\n"
        "import langwright.evaluate\n"
    )
    monkeypatch.setattr(here, "PACKAGE", package)
    assert len(problems(file)) == 5
