"""Loss scaling: keeps small fp16 gradients from vanishing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LARGEST = 2.0**24


class LossScale:
    """A factor S on the loss before the backward pass, divided out of the gradients afterwards.

    When a gradient overflows, the step is skipped and S halves; after `patience` good steps in a
    row it doubles. Needed for fp16 (smallest normal number 6e-5), not for bf16 or fp32. All
    values stay on the device, so nobody waits for them.
    """

    def __init__(self, device: torch.device, start: float = 2.0**16, patience: int = 1000) -> None:
        self.patience = patience
        self.scale = torch.tensor(start, dtype=torch.float32, device=device)
        self.good_steps = torch.zeros((), dtype=torch.float32, device=device)

    def update(self, bad: Tensor) -> None:
        """Take note of a step; `bad` is a 0-d tensor, nonzero if its gradient was not finite."""
        bad = bad.bool()
        good = torch.where(bad, 0.0, self.good_steps + 1.0)
        grow = good >= self.patience
        doubled = torch.where(grow, self.scale * 2.0, self.scale)
        self.scale = torch.where(bad, self.scale * 0.5, doubled).clamp(1.0, LARGEST)
        self.good_steps = torch.where(grow, 0.0, good)

    def state_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return {"scale": self.scale.item(), "good_steps": self.good_steps.item()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.scale.fill_(state["scale"])
        self.good_steps.fill_(state["good_steps"])
