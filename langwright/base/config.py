"""The base class of every typed config.

Configs are immutable pydantic models that refuse unknown keys. Each field carries a one-line
description; ``--help``, the documentation and the validation errors are made from it.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from langwright.base.errors import UserError, nearest


class Config(BaseModel):
    """Immutable, typed settings; unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def parse(cls, values: dict[str, Any], *, where: object = None) -> Self:
        """Validate `values`; a mistake becomes one `UserError` naming the field.

        `where` names the file or section, for the error message.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise config_error(cls, error, where=where) from None

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).parse({**self.model_dump(), **changes})

    def to_json(self) -> dict[str, Any]:
        """The config as plain JSON values."""
        return self.model_dump(mode="json")


def config_error(
    cls: type[BaseModel], error: ValidationError, *, where: object = None
) -> UserError:
    """The first problem of a pydantic error, told to a person."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    place = " ".join(str(part) for part in (where, field) if part)
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        known = known_fields(cls, first["loc"][:-1])
        guess = nearest(name, known)
        return UserError(
            f"unknown key {name!r}",
            where=where,
            found=field,
            expected="one of " + ", ".join(sorted(known)) if known else None,
            fix=f"did you mean {guess!r}?" if guess else "remove it",
        )
    whole = isinstance(first.get("input"), dict | BaseModel)  # several fields that do not fit
    found = None if first["type"] == "missing" or whole else repr(first.get("input"))
    message = first["msg"].removeprefix("Value error, ")
    return UserError(message, where=place, found=found, expected=describe(cls, first["loc"]))


def known_fields(cls: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the config that stands at `path` inside `cls`."""
    target: Any = cls
    for part in path:
        field = getattr(target, "model_fields", {}).get(part)
        target = _inner_config(field.annotation) if field is not None else None
        if target is None:
            return []
    return list(target.model_fields)


def describe(cls: type[BaseModel], path: tuple[int | str, ...]) -> str | None:
    """The description of the field at `path`, or None."""
    target: Any = cls
    text = None
    for part in path:
        field = getattr(target, "model_fields", {}).get(part)
        if field is None:
            return text
        text = field.description
        target = _inner_config(field.annotation)
    return text


def _inner_config(annotation: Any) -> type[BaseModel] | None:
    """The config class inside an annotation such as ``Foo``, ``Foo | None`` or ``list[Foo]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _inner_config(inner)) is not None:
            return found
    return None
