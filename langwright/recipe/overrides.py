"""``--set pretrain.lr=3e-4``: settings given by hand, by their full or a short unique name."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from langwright.base import UserError, nearest
from langwright.recipe.toml import KeyPath, parse_value


def parse_override(text: str) -> tuple[KeyPath, Any]:
    """``"pretrain.lr=3e-4"`` → ``(("pretrain", "lr"), 0.0003)``."""
    name, equals, value = text.partition("=")
    keys = tuple(part.strip() for part in name.split("."))
    if not equals or not all(keys):
        raise UserError(
            "cannot read this setting",
            where="--set",
            found=text,
            expected="section.key=value, for example pretrain.lr=3e-4",
        )
    return keys, parse_value(value.strip())


def unset_nones(values: dict[str, Any], config: type[BaseModel]) -> dict[str, Any]:
    """`values` with "none" as None, where a setting may be without a value: TOML has no word for
    it. Where "none" is itself one of the choices (``pretrain.checkpointing``) it stays."""
    result = dict(values)
    for key, value in values.items():
        annotation = config.model_fields[key].annotation if key in config.model_fields else None
        inner = inner_config(annotation)
        kinds = _kinds(annotation)
        if isinstance(value, dict) and inner is not None:
            result[key] = unset_nones(value, inner)
        elif value == "none" and type(None) in kinds and "none" not in kinds:
            result[key] = None
    return result


def name_nones(values: dict[str, Any], config: type[BaseModel]) -> dict[str, Any]:
    """The way back: "none" for a setting that was unset though it has a default."""
    result = dict(values)
    for key, value in values.items():
        field = config.model_fields.get(key)
        if field is None:
            continue
        inner = inner_config(field.annotation)
        if isinstance(value, dict) and inner is not None:
            result[key] = name_nones(value, inner)
        elif value is None and field.get_default() is not None:
            result[key] = "none"
    return result


def _kinds(annotation: Any) -> set[Any]:
    """The types and literals that an annotation such as ``int | None`` is made of."""
    parts = get_args(annotation)
    if not parts or get_origin(annotation) in (list, tuple, dict):
        return {annotation}
    return set().union(*(_kinds(part) for part in parts))


def setting_paths(config: type[BaseModel], prefix: KeyPath = ()) -> list[KeyPath]:
    """Every setting inside a config class, as its path of keys."""
    paths: list[KeyPath] = []
    for name, field in config.model_fields.items():
        paths.append((*prefix, name))
        inner = inner_config(field.annotation)
        if inner is not None:
            paths.extend(setting_paths(inner, (*prefix, name)))
    return paths


def inner_config(annotation: Any) -> type[BaseModel] | None:
    """The config class inside an annotation such as ``Foo`` or ``Foo | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = inner_config(part)
        if found is not None:
            return found
    return None


def open_tables(config: type[BaseModel], prefix: KeyPath = ()) -> list[KeyPath]:
    """Settings that are tables with free keys (``dataset.weights``)."""
    paths: list[KeyPath] = []
    for name, field in config.model_fields.items():
        inner = inner_config(field.annotation)
        if inner is not None:
            paths.extend(open_tables(inner, (*prefix, name)))
        elif "dict[" in str(field.annotation).lower():
            paths.append((*prefix, name))
    return paths


def full_path(
    keys: KeyPath,
    known: Iterable[KeyPath],
    free: Iterable[KeyPath] = (),
    *,
    where: str = "--set",
) -> KeyPath:
    """The setting that `keys` names: in full, or short but unique (``pretrain.lr``, ``lr``).

    A short name leaves out keys in the middle or at the start, never the last one. `free` are
    tables in which any key may stand.
    """
    paths = list(known)
    if keys in paths or any(keys[: len(table)] == table for table in free):
        return keys
    fitting = [path for path in paths if path[-1] == keys[-1] and _within(keys, path)]
    shortest = min((len(path) for path in fitting), default=0)
    fitting = [path for path in fitting if len(path) == shortest]
    if len(fitting) == 1:
        return fitting[0]
    name = ".".join(keys)
    if fitting:
        raise UserError(
            f"{name!r} could mean several settings",
            where=where,
            expected=" or ".join(".".join(path) for path in fitting),
        )
    guess = nearest(name, [".".join(path) for path in paths])
    fix = f"did you mean {guess!r}?" if guess else "see `langwright run --help`"
    raise UserError(f"there is no setting {name!r}", where=where, fix=fix)


def apply_override(values: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    """A copy of nested `values` with the one at `path` set."""
    values = copy.deepcopy(values)
    target = values
    for key in path[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"{key!r} is not a section", where="--set", found=".".join(path))
        target = inner
    target[path[-1]] = value
    return values


def _within(keys: KeyPath, path: KeyPath) -> bool:
    """Whether `keys` appear in `path` in their order."""
    rest = iter(path)
    return all(key in rest for key in keys)
