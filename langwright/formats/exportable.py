"""Whether other software can hold a model at all."""

from __future__ import annotations

from langwright.base import UserError
from langwright.model import ModelConfig


def check_exportable(config: ModelConfig, target: str) -> None:
    """Refuse a model of the "fastest" kind: its parameters have no place in any other format, and
    without them it would be another model.

    Args:
        target: the format, for the message.

    Raises:
        UserError: naming the options in the way, and the way out.
    """
    if not config.unexported:
        return
    raise UserError(
        f"this model was made for speed in training, and {target} cannot hold it",
        where="[model]",
        found=", ".join(f"{name} = true" for name in config.unexported),
        expected="none of these",
        fix="Langwright itself runs, serves and fine-tunes the folder as it is; for other software "
        "train a model that it knows, such as preset = 'qwen3-30m'",
    )
