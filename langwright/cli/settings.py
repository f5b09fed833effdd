"""The settings of a recipe as help text, from the descriptions in the configs."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from langwright.generate import EngineConfig
from langwright.model import ModelConfig, preset_names
from langwright.recipe import Recipe, inner_config
from langwright.serve import ServeConfig

OTHERS: dict[str, type[BaseModel]] = {"serve": ServeConfig, "engine": EngineConfig}


def settings_text(sections: tuple[str, ...]) -> str:
    """The settings of these sections ("" for all), one or two lines each."""
    if sections == ("",):
        sections = tuple(name for name in Recipe.model_fields if name not in ("name", "seed"))
    lines = ["settings (in a recipe, or with --set):"]
    for section in sections:
        lines.append(f"\n  [{section}]")
        if section in OTHERS:
            config: type[BaseModel] | None = OTHERS[section]
        elif section == "model":
            lines.append(_line("preset", f"start from: {', '.join(preset_names())}", None))
            config = ModelConfig
        else:
            config = inner_config(Recipe.model_fields[section].annotation)
        assert config is not None
        lines.extend(_fields(config, ""))
    return "\n".join(lines) + "\n"


def _fields(config: type[BaseModel], prefix: str) -> list[str]:
    lines = []
    for name, field in config.model_fields.items():
        inner = inner_config(field.annotation)
        if inner is not None:
            lines.extend(_fields(inner, f"{prefix}{name}."))
            continue
        default = field.get_default(call_default_factory=True)  # type: ignore[call-arg]
        lines.append(_line(prefix + name, field.description or "", default))
    return lines


def _line(name: str, description: str, default: Any) -> str:
    shown = "" if default is None or default is PydanticUndefined else f" [{default}]"
    return textwrap.fill(
        f"{name:<26} {description}{shown}",
        width=100,
        initial_indent="    ",
        subsequent_indent=" " * 31,
        break_long_words=False,
    )
