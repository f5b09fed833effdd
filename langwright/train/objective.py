"""What is minimised. Every kind of training is an objective given to the one trainer."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from langwright.dataset import Batch


class Objective(Protocol):
    """The loss of a micro-batch as a sum and the weight that the sum is over.

    The trainer adds both up over all micro-batches of a step and uses sum / weight: the result does
    not depend on how a batch was cut up. Sums have a gradient, weights have none.
    """

    def __call__(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor | float]:
        """(loss summed over the batch, fp32 scalar; weight, e.g. the number of counted tokens)."""
        ...


def language_model_loss(
    model: nn.Module, batch: Batch, *, chunk_tokens: int | None = None
) -> tuple[Tensor, float]:
    """Next-token cross entropy in nats, summed over the counted targets, and their number.

    Args:
        model: has ``loss(inputs, targets, *, segments, positions, chunk_tokens)``.
        batch: B rows of T tokens on the model's device.
        chunk_tokens: tokens whose (tokens, V) logits stand at once; None: the model's choice.
    """
    loss_sum, _ = model.loss(  # type: ignore[operator]
        batch.inputs,
        batch.targets,
        segments=batch.segments,
        positions=batch.positions,
        chunk_tokens=chunk_tokens,
    )
    return loss_sum, float(batch.tokens)
