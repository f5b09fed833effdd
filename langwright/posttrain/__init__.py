"""From a base model to an assistant: supervised fine-tuning on conversations."""

from langwright.posttrain.config import SFTConfig
from langwright.posttrain.sft import (
    encode_conversations,
    sft,
    training_rows,
    validation_rows,
)

__all__ = ["SFTConfig", "encode_conversations", "sft", "training_rows", "validation_rows"]
