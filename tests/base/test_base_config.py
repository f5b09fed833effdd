"""Configs refuse what they do not know and say what would be right."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from langwright.base import Config, UserError


class Inner(Config):
    rate: float = Field(0.1, description="how fast", gt=0)


class Outer(Config):
    steps: int = Field(10, description="how long", ge=1)
    inner: Inner = Field(default_factory=Inner, description="the rest")
    other: Inner | None = Field(None, description="maybe more")


def test_unknown_keys_get_the_nearest_right_one() -> None:
    with pytest.raises(UserError) as caught:
        Outer.parse({"stpes": 3}, where="x.toml:4")
    assert "x.toml:4: unknown key 'stpes'" in str(caught.value)
    assert "did you mean 'steps'?" in str(caught.value)


@pytest.mark.parametrize("section", ["inner", "other"])
def test_a_wrong_value_names_the_field_and_what_it_means(section: str) -> None:
    with pytest.raises(UserError) as caught:
        Outer.parse({section: {"rate": -1}}, where="x.toml:4")
    text = str(caught.value)
    assert f"{section}.rate" in text and "greater than 0" in text
    assert "-1" in text and "how fast" in text
    with pytest.raises(UserError, match="did you mean 'rate'"):
        Outer.parse({section: {"rat": 1}})


def test_configs_cannot_be_changed_only_replaced() -> None:
    config = Outer()
    with pytest.raises(ValidationError):
        config.steps = 3  # type: ignore[misc]
    assert config.replace(steps=3).steps == 3 and config.steps == 10
    with pytest.raises(UserError, match="steps"):
        config.replace(steps=0)
    assert Outer.parse(config.to_json()) == config


def test_not_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="finite"):
        Outer.parse({"inner": {"rate": float("nan")}})
