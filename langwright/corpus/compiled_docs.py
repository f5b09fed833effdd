"""Docstrings of the modules that are written in C, read from the imported modules."""

from __future__ import annotations

import importlib
import inspect
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from langwright.corpus.docstrings import Docstring, clean
from langwright.corpus.python_modules import compiled_modules

# Importing these does something (a terminal, a window), needs a device, or is for tests only.
_NOT_IMPORTED = frozenset({"readline", "_tkinter", "ossaudiodev", "nis", "_scproxy", "xxsubtype"})
_MEMBERS = (
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.BuiltinFunctionType,
    staticmethod,
    classmethod,
)
_PROPERTIES = (types.GetSetDescriptorType, types.MemberDescriptorType, property)

PublicNames = Mapping[tuple[str, str], tuple[str, str]]  # (_io, open) -> (io, open)


def compiled_docstrings(public: PublicNames) -> Iterator[Docstring]:
    """The docstrings of all compiled modules, in a fixed order.

    Args:
        public: where a private module's names are imported to, so that ``_functools.reduce``
            is called ``functools.reduce``.
    """
    for name in compiled_modules():
        if name in _NOT_IMPORTED or name.startswith(("_test", "_xx", "xx")):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some are deprecated
                module = importlib.import_module(name)
        except Exception:  # not part of this build of Python, or not of this system
            continue
        yield from _module(module, name, public)


def _module(module: types.ModuleType, name: str, public: PublicNames) -> Iterator[Docstring]:
    text = clean(module.__doc__)
    if text:
        yield Docstring(name, "", "module", f"module {name}", text)
    for key, value in sorted(vars(module).items()):
        if not isinstance(key, str) or (key.startswith("__") and key != "__import__"):
            continue
        if isinstance(value, type):
            yield from _class(value, *_public_class(value, name, key, public))
        elif isinstance(value, types.BuiltinFunctionType):
            place = public.get((name, key)) or public.get((name, "*")) or (name, key)
            own = key if place[1] == "*" else place[1]
            yield from _routine(value, place[0], own, "function")


def _public_class(cls: type, module: str, key: str, public: PublicNames) -> tuple[str, str]:
    """Module and name a class is known under."""
    place = public.get((module, key))
    if place is not None:
        return place
    declared = str(getattr(cls, "__module__", module) or module)
    return (declared, cls.__qualname__) if "." not in cls.__qualname__ else (module, key)


def _class(cls: type, module: str, name: str) -> Iterator[Docstring]:
    if not name or name.startswith("__"):
        return
    text = clean(_own_doc(cls))
    prefix = "" if module == "builtins" else f"{module}."
    if text:
        signature = _signature(cls)
        heading = f"class {prefix}{name}{signature}"
        yield Docstring(module, name, "class", heading, text, signature)
    for key, member in sorted(vars(cls).items()):
        # __new__ and slot wrappers such as __add__ all carry the same few sentences: left out.
        if key != "__new__" and isinstance(member, _MEMBERS):
            yield from _routine(member, module, f"{name}.{key}", "method")
        elif isinstance(member, _PROPERTIES) and (text := clean(_own_doc(member))):
            full = f"{prefix}{name}.{key}"
            yield Docstring(module, f"{name}.{key}", "property", full, text)


def _routine(value: Any, module: str, name: str, kind: str) -> Iterator[Docstring]:
    text = clean(_own_doc(value))
    if text:
        prefix = "" if module == "builtins" else f"{module}."
        signature = _signature(value)
        yield Docstring(module, name, kind, f"{prefix}{name}{signature}", text, signature)


def _own_doc(value: Any) -> str | None:
    doc = inspect.getattr_static(value, "__doc__", None) if isinstance(value, type) else None
    doc = doc if isinstance(doc, str) else getattr(value, "__doc__", None)
    return doc if isinstance(doc, str) else None


def _signature(value: Any) -> str:
    """The signature that C code declares, without its own first parameter; "" for none."""
    text = getattr(value, "__text_signature__", None)
    if not isinstance(text, str) or " at 0x" in text:
        return ""
    for own in ("$module", "$self", "$type", "$cls"):
        text = text.replace(f"({own}, /, ", "(").replace(f"({own}, /)", "()")
        text = text.replace(f"({own}, ", "(").replace(f"({own})", "()")
    return text
