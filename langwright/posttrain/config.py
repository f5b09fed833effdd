"""Settings of supervised fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from langwright.train import TrainConfig

DEFAULT_EPOCHS = 2.0
DEFAULT_LR = 3e-4  # AdamW: below the rate of pretraining, so that what was learnt is kept


class SFTConfig(TrainConfig):
    """Training on conversations: two passes at a lower learning rate unless told otherwise."""

    sequence_length: int | None = Field(
        None, description="tokens in a row; none: the model's context length", ge=8
    )
    pack: bool = Field(True, description="several conversations in a row, each blind to the others")
    long: Literal["skip", "cut"] = Field(
        "skip", description="a conversation that does not fit a row: left out, or its beginning cut"
    )
    max_conversations: int | None = Field(
        None, description="use at most so many conversations; none: all", ge=1
    )
    replay: float = Field(
        0.0,
        description="share of tokens that are documents of the corpus, against forgetting",
        ge=0,
        le=0.9,
    )

    def settled(self) -> SFTConfig:
        """The config with length and learning rate filled in where nothing was said."""
        changes: dict[str, float] = {}
        if all(getattr(self, name) is None for name in ("steps", "tokens", "epochs", "minutes")):
            changes["epochs"] = DEFAULT_EPOCHS
        if self.optim.name == "adamw" and self.optim.lr is None:
            changes["lr"] = DEFAULT_LR
        return self.replace(**changes) if changes else self
