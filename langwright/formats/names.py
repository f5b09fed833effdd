"""What each tensor of a model type is called."""

from __future__ import annotations

from langwright.formats.families import FAMILIES
from langwright.formats.rules import Rule, own_rules
from langwright.model import ModelConfig

__all__ = ["Rule", "own_rules", "rules_for"]


def rules_for(model_type: str, config: ModelConfig, parameters: list[str]) -> list[Rule]:
    """The rules of a model type for a model with these parameters."""
    family = FAMILIES.get(model_type)
    return own_rules(parameters) if family is None else family.rules(config, parameters)
