"""Balance among experts without a loss: busy ones are made a little less likely to be chosen.

After each update the selection bias of an expert that got more tokens than the mean falls by the
rate, that of one with fewer rises by it (DeepSeek-V3, arXiv:2412.19437, section 2.1.2; Wang et al.
2024, arXiv:2408.15664, algorithm 1). The bias has no part in the weights of the experts, so the
loss's gradient is not disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from langwright.model import ExpertFeedForward


@torch.no_grad()
def balance_routers(
    models: Sequence[nn.Module],
    rate: float,
    *,
    all_sum: Callable[[Tensor], Tensor] = lambda loads: loads,
    skip: Tensor | None = None,
) -> None:
    """Shift the selection biases by what experts were given since the last time.

    Args:
        models: one, or the lanes' (which share their parameters).
        rate: of the shift; 0 only forgets the loads.
        all_sum: adds the loads (layers, E) of all processes with tokens of their own.
        skip: 0-d, 1.0 where nothing must change.
    """
    by_model = [_layers(model) for model in models]
    layers = by_model[0]
    if not layers:
        return
    loads = torch.stack([_take(same) for same in zip(*by_model, strict=True)])  # (layers, E)
    if not rate:
        return
    loads = all_sum(loads)
    shifts = rate * torch.sign(loads.mean(dim=1, keepdim=True) - loads)
    if skip is not None:
        shifts = shifts * (1.0 - skip)
    for layer, shift in zip(layers, shifts, strict=True):
        bias = layer.router.bias
        assert bias is not None
        bias.add_(_alike(shift.to(bias.dtype), bias))


def forget_loads(model: nn.Module) -> None:
    """Drop what experts were given since the last update."""
    for layer in _layers(model):
        layer.load = None


def _layers(model: nn.Module) -> list[ExpertFeedForward]:
    found = [module for module in model.modules() if isinstance(module, ExpertFeedForward)]
    return [layer for layer in found if layer.router.bias is not None]


def _take(lanes: Sequence[ExpertFeedForward]) -> Tensor:
    """The loads (E,) of one layer in all lanes, fp32; they are forgotten."""
    weight = lanes[0].router.weight
    total = torch.zeros(lanes[0].experts.count, device=weight.device)
    for layer in lanes:
        if layer.load is not None:
            total += layer.load
        layer.load = None
    return total


def _alike(whole: Tensor, like: Any) -> Tensor:
    """This process's part of a tensor that stands whole on every process."""
    if not hasattr(like, "placements"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
