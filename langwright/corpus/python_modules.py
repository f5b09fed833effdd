"""The modules of the running Python's standard library, and which of them belong together."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# Tests, demos and bundled copies of other projects; jokes that act when imported; the module that
# holds the help topics as one string (they are read as topics).
_LEFT_OUT_TOPS = frozenset(
    {"test", "idlelib", "turtledemo", "ensurepip", "antigravity", "this", "pydoc_data"}
    | {"__phello__", "__hello__", "_bootlocale"}
)
_LEFT_OUT_FOLDERS = frozenset({"test", "tests", "idle_test", "_bundled", "site-packages"})

# Modules of several names that are one thing.
_FAMILIES = {
    "posixpath": "os",
    "ntpath": "os",
    "genericpath": "os",
    "posix": "os",
    "nt": "os",
    "_thread": "threading",
    "_threading_local": "threading",
    "_dummy_thread": "threading",
    "_strptime": "time",
    "_pylong": "builtins",
    "_frozen_importlib": "importlib",
    "_frozen_importlib_external": "importlib",
    "_imp": "importlib",
    "imp": "importlib",
    "zipimport": "importlib",
    "pkgutil": "importlib",
    "sre_compile": "re",
    "sre_constants": "re",
    "sre_parse": "re",
    "_sre": "re",
    "_blake2": "hashlib",
    "_md5": "hashlib",
    "_sha1": "hashlib",
    "_sha2": "hashlib",
    "_sha256": "hashlib",
    "_sha512": "hashlib",
    "_sha3": "hashlib",
    "_lsprof": "cProfile",
    "profile": "cProfile",
    "pstats": "cProfile",
    "_elementtree": "xml",
    "pyexpat": "xml",
    "_posixsubprocess": "subprocess",
    "_bootstrap_subprocess": "subprocess",
    "_posixshmem": "multiprocessing",
    "_markupbase": "html",
    "_weakrefset": "weakref",
    "_sitebuiltins": "site",
    "_compat_pickle": "pickle",
    "pickletools": "pickle",
    "_compression": "gzip",
    "nturl2path": "urllib",
    "_opcode": "dis",
    "_opcode_metadata": "dis",
    "opcode": "dis",
    "_multibytecodec": "codecs",
    "encodings": "codecs",
    "token": "tokenize",
    "lib2to3": "tokenize",  # holds a copy of it
    "_sysconfig": "sysconfig",
    "_signal": "signal",
    "_socket": "socket",
    "cmath": "math",
    "_pyio": "io",
}


@dataclass(frozen=True)
class ModuleFile:
    """A module of the standard library that has source code. `name` is what people call it."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


def source_files() -> list[ModuleFile]:
    """Every module with source, public ones first, then by name; without tests."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for top in sys.stdlib_module_names - _LEFT_OUT_TOPS:
        found.extend(_files_of(root, top))
    return sorted(found, key=lambda module: reading_order(module.name))


def compiled_modules() -> list[str]:
    """Names of the modules written in C, in reading order."""
    root = Path(sysconfig.get_path("stdlib"))
    names = [
        name
        for name in sys.stdlib_module_names - _LEFT_OUT_TOPS
        if not (root / f"{name}.py").exists() and not (root / name).is_dir()
    ]
    return sorted(names, key=reading_order)


def reading_order(name: str) -> tuple[bool, str]:
    """Public modules first: of two equal docstrings the one people know is kept."""
    private = any(part.startswith("_") for part in name.split("."))
    return private or name in ("ntpath", "nt", "posix"), name


def family(name: str) -> str:
    """The module group that `name` (dotted) stands or falls with when text is held out.

    C twins and pure-Python twins (``_json``, ``_pydatetime``) belong to the module that
    people import.
    """
    top = name.split(".")[0]
    if top in _FAMILIES:
        return _FAMILIES[top]
    plain = top.strip("_")
    for guess in (plain, plain.removeprefix("py_"), plain.removeprefix("py"), plain.split("_")[0]):
        if guess in sys.stdlib_module_names:
            return _FAMILIES.get(guess, guess)
    return plain or top


def _files_of(root: Path, top: str) -> list[ModuleFile]:
    single = root / f"{top}.py"
    if single.is_file():
        return [ModuleFile("os.path" if top == "posixpath" else top, single)]
    folder = root / top
    if not folder.is_dir():
        return []
    files = []
    for path in folder.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if _LEFT_OUT_FOLDERS & set(parts):
            continue
        if parts[-1] == "__init__":
            parts = parts[:-1]
        files.append(ModuleFile(".".join(parts), path))
    return files
