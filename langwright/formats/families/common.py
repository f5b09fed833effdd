"""What every family has: a translation of its config both ways, and names for its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from langwright.base import UserError
from langwright.formats.rules import Rule
from langwright.model import ModelConfig

Table = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One architecture of the `transformers` library.

    Args:
        architecture: the name of its class.
        model_type: its name in ``config.json``.
        read: a ``config.json`` and its place -> fields of `ModelConfig`; a `UserError` names what
            we do not compute.
        write: a config -> the fields of ``config.json``. It may be asked for a config that is not
            of its family; then what it writes reads back as another config.
        rules: where each tensor of the file lies in our model.
        unread: endings of tensors that published files hold though no computation reads them.
    """

    architecture: str
    model_type: str
    read: Callable[[Table, object], Table]
    write: Callable[[ModelConfig], Table]
    rules: Callable[[ModelConfig, list[str]], list[Rule]]
    unread: tuple[str, ...] = (".rotary_emb.inv_freq",)


class Fields(BaseModel):
    """Typed fields of a foreign config; what transformers' model does not read is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


T = TypeVar("T", bound=Fields)

# transformers' names of activations -> ours, for a plain feed-forward.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}


def activation_name(ours: str, fallback: str) -> str:
    """transformers' name of a plain activation of ours."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    return names.get(ours, fallback)


def parse(cls: type[T], table: Table, where: object) -> T:
    """The fields of `table`, typed; a `UserError` names the first that is wrong."""
    try:
        return cls.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"bad model config: {first['msg']}",
            where=" ".join(str(part) for part in (where, name) if part),
            found=None if first["type"] == "missing" else repr(first.get("input"))[:200],
        ) from None


def unsupported(name: str, value: Any, where: object, why: str | None = None) -> UserError:
    """The error for a setting that changes the computation in a way that we do not have."""
    return UserError(
        f"the model uses {name}, which Langwright does not compute" + (f": {why}" if why else ""),
        where=where,
        found=repr(value)[:200],
        fix="nothing was loaded: without it the model's answers would be wrong",
    )
