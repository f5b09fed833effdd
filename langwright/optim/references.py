"""AdamW written out step by step, and the L2 form it is not.

They are for reading and for tests; the library's `torch.optim.AdamW` is the one to train with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class AdamWReference(Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) in the form of a textbook.

    With a_t = a * sqrt(1 - b2^t) / (1 - b1^t) the update is
    ``w <- w - a_t * m / (sqrt(v) + eps) - a * decay * w_old``. Here eps is added to the root of
    the *uncorrected* second moment, while the library adds it to the corrected one: the two differ
    only where a gradient is about as small as eps. State per parameter: t, m, v.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update; `closure`, if given, computes the loss anew and its value is returned."""
        loss = _closure_loss(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        m, v, t = _moments(self.state[w], w, g, group["betas"])
        beta1, beta2 = group["betas"]
        rate = group["lr"] * math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        decay = group["lr"] * group["weight_decay"] * w  # from the weight as it was
        w.sub_(rate * m / (v.sqrt() + group["eps"])).sub_(decay)


class AdamL2(Optimizer):
    """Adam with an L2 penalty in the loss: ``g <- g + decay * w`` before the moments.

    This is what AdamW is *not*: the penalty is divided by the gradient's size like everything
    else, so weights with large gradients are hardly decayed at all. Kept for contrast.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update; `closure`, if given, computes the loss anew and its value is returned."""
        loss = _closure_loss(closure)
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for w in group["params"]:
                if w.grad is None:
                    continue
                g = w.grad + group["weight_decay"] * w
                m, v, t = _moments(self.state[w], w, g, group["betas"])
                mean = m / (1.0 - beta1**t)
                square = v / (1.0 - beta2**t)
                w.sub_(group["lr"] * mean / (square.sqrt() + group["eps"]))
        return loss


def _moments(
    state: dict[str, Any], w: Tensor, g: Tensor, betas: tuple[float, float]
) -> tuple[Tensor, Tensor, int]:
    """Bring the running mean and square of the gradient up to date."""
    if not state:
        state.update(t=0, m=torch.zeros_like(w), v=torch.zeros_like(w))
    beta1, beta2 = betas
    state["t"] += 1
    state["m"].mul_(beta1).add_(g, alpha=1.0 - beta1)
    state["v"].mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
    return state["m"], state["v"], state["t"]


def _closure_loss(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
