"""Docstrings of Python source files, found without running the code."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

_LONG_SIGNATURE = 300  # characters; longer ones are shortened to "(...)"


@dataclass(frozen=True)
class Docstring:
    """What is written about one object.

    Attributes:
        module: the module people import it from.
        name: its dotted name without the module; empty for the module itself.
        kind: module, class, function, method or property.
        heading: how it is written when used: ``os.path.join(a, *p)``.
        text: the cleaned docstring.
        signature: ``(a, *p)``; "" where it is not known.
    """

    module: str
    name: str
    kind: str
    heading: str
    text: str
    signature: str = ""

    @property
    def full_name(self) -> str:
        if not self.name:
            return self.module
        return self.name if self.module == "builtins" else f"{self.module}.{self.name}"


def docstrings_of(tree: ast.Module, module: str) -> Iterator[Docstring]:
    """The docstrings of a module, its classes, functions and methods, in the order of the file."""
    text = clean(ast.get_docstring(tree, clean=False))
    if text:
        yield Docstring(module, "", "module", f"module {module}", text)
    yield from _inside(tree.body, module, "", in_class=False)


def private_imports(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """What a module takes over from a private one: (private module, name, own name), or ``*``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module or node.level:
            continue
        if node.module.startswith("_") or node.module in ("posix", "nt"):
            for alias in node.names:
                own = alias.asname or alias.name
                if not own.startswith("_"):
                    yield node.module, alias.name, own


def clean(text: str | None) -> str:
    """A docstring without its indentation and without blanks at line ends; "" for none."""
    if not text:
        return ""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # an escape in the source can make half a surrogate pair
        return ""
    lines = inspect.cleandoc(text).replace("\0", "").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


def _inside(
    body: list[ast.stmt], module: str, prefix: str, *, in_class: bool
) -> Iterator[Docstring]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _class(node, module, prefix)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _function(node, module, prefix, in_class)
        else:  # definitions under `if`, `try`, `with`
            for field in ("body", "handlers", "orelse", "finalbody"):
                for inner in getattr(node, field, ()):
                    nodes = inner.body if isinstance(inner, ast.ExceptHandler) else [inner]
                    yield from _inside(nodes, module, prefix, in_class=in_class)


def _class(node: ast.ClassDef, module: str, prefix: str) -> Iterator[Docstring]:
    name = prefix + node.name
    text = clean(ast.get_docstring(node, clean=False))
    if text:
        signature = _constructor(node)
        shown = signature or _bases(node)
        yield Docstring(module, name, "class", f"class {module}.{name}{shown}", text, signature)
    yield from _inside(node.body, module, name + ".", in_class=True)


def _function(
    node: ast.FunctionDef | ast.AsyncFunctionDef, module: str, prefix: str, in_class: bool
) -> Iterator[Docstring]:
    text = clean(ast.get_docstring(node, clean=False))
    if not text:
        return
    name = prefix + node.name
    words = {_decorator_name(decorator) for decorator in node.decorator_list}
    if in_class and words & {"property", "cached_property", "getter", "setter"}:
        yield Docstring(module, name, "property", f"{module}.{name}", text)
        return
    bound = in_class and "staticmethod" not in words
    start = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    signature = _signature(node, bound)
    heading = f"{start}{module}.{name}{signature}"
    yield Docstring(module, name, "method" if in_class else "function", heading, text, signature)


def _constructor(node: ast.ClassDef) -> str:
    """The signature of ``__init__``; "" if the class has none of its own."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _signature(item, bound=True)
    return ""


def _bases(node: ast.ClassDef) -> str:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    return f"({bases})" if bases and len(bases) < _LONG_SIGNATURE else ""


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, bound: bool) -> str:
    """``(a, *p)``; a bound method is written without its first parameter."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    if bound and positional and len(given.defaults) < len(positional):
        first = positional[0]
        given = ast.arguments(
            posonlyargs=[arg for arg in given.posonlyargs if arg is not first],
            args=[arg for arg in given.args if arg is not first],
            vararg=given.vararg,
            kwonlyargs=given.kwonlyargs,
            kw_defaults=given.kw_defaults,
            kwarg=given.kwarg,
            defaults=given.defaults,
        )
    text = f"({ast.unparse(given)})"
    if node.returns is not None and node.name != "__init__":
        text += f" -> {ast.unparse(node.returns)}"
    return text if len(text) <= _LONG_SIGNATURE else "(...)"


def _decorator_name(node: ast.expr) -> str:
    """The last word of a decorator: ``cached_property`` of ``@functools.cached_property``."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
