"""What may be changed while a run goes on, and when."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from langwright.base import Config

WHEN = ("at", "at_step", "plateau", "below")
WHAT = ("lr", "lr_factor", "batch_tokens", "batch_factor", "mix", "run_tokens")


class ChangeConfig(Config):
    """A change of learning rate, batch size, mix of sources or length of the run: one "when", at
    least one "what"."""

    at: float | None = Field(
        None, description="when this share of the run (of its schedule) is done", ge=0, lt=1
    )
    at_step: int | None = Field(None, description="after this many updates", ge=0)
    plateau: int | None = Field(
        None, description="after this many evaluations without a lower validation loss", ge=1
    )
    below: float | None = Field(None, description="once the validation loss is below this (nats)")
    times: int = Field(1, description="how often plateau may come into effect", ge=1)
    lr: float | None = Field(None, description="new peak learning rate", gt=0)
    lr_factor: float | None = Field(None, description="factor on the learning rate", gt=0)
    batch_tokens: int | None = Field(None, description="new tokens per update", ge=1)
    batch_factor: float | None = Field(None, description="factor on the tokens per update", gt=0)
    mix: dict[str, float] | None = Field(
        None, description="new weights of the data's sources; those not named get 0", min_length=1
    )
    run_tokens: int | None = Field(
        None,
        description="new length of the whole run in tokens; what is left of the schedule is gone "
        "through by then",
        ge=1,
    )

    @model_validator(mode="after")
    def _one_change(self) -> ChangeConfig:
        when = [name for name in WHEN if getattr(self, name) is not None]
        what = self.what
        if len(when) > 1:
            raise ValueError(f"one time for a change, not {' and '.join(when)}")
        if not what:
            raise ValueError(f"nothing to change: give one of {', '.join(WHAT)}")
        for value in ("lr", "batch"):
            pair = [name for name in what if name.startswith(value)]
            if len(pair) > 1:
                raise ValueError(f"{' and '.join(pair)} contradict one another")
        if self.times > 1 and self.plateau is None:
            raise ValueError("times belongs to plateau")
        return self

    @property
    def what(self) -> dict[str, Any]:
        """The values that are changed, by name."""
        found = {name: getattr(self, name) for name in WHAT}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def when(self) -> str:
        """In words."""
        if self.at is not None:
            return f"planned: at {100 * self.at:g} % of the run"
        if self.at_step is not None:
            return f"planned: at step {self.at_step:,}"
        if self.plateau is not None:
            return f"rule: {self.plateau} evaluations without a lower validation loss"
        if self.below is not None:
            return f"rule: validation loss below {self.below:g}"
        return "by hand"
