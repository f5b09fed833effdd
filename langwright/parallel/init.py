"""Filling a model that is spread over processes: every parameter is drawn from (seed, its name),
whole, and each process keeps its part. So no layout changes the model, and no seed checkpoint is
needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from langwright.model import ModelConfig, initialise
from langwright.parallel.cuts import Part
from langwright.parallel.layout import Layout

Source = Callable[[str, tuple[int, ...]], Tensor]  # (name, whole shape) -> the whole value


class _OneParameter(nn.Module):
    """A model of which `initialise` sees a single parameter, under its full name."""

    def __init__(self, name: str, value: Tensor) -> None:
        super().__init__()
        self.name, self.value = name, nn.Parameter(value)

    def named_parameters(self, *args: object, **options: object) -> Iterator:  # type: ignore[override]
        yield self.name, self.value


def from_seed(config: ModelConfig, seed: int) -> Source:
    """Values as `build_model(config, seed)` has them."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        one = _OneParameter(name, torch.empty(shape))
        initialise(one, config, seed)
        return one.value.detach()

    return draw


def from_tensors(tensors: Mapping[str, Tensor]) -> Source:
    """Values of a model that was loaded whole."""
    return lambda name, shape: tensors[name].detach()


@torch.no_grad()
def fill(
    parameters: Mapping[str, nn.Parameter],
    parts: Mapping[str, Part],
    layout: Layout,
    source: Source,
) -> None:
    """Give every parameter its part of the value that `source` has under its name."""
    for name, parameter in parameters.items():
        part = parts[name]
        local_tensor(parameter).copy_(part.take(source(name, part.shape), layout))


def local_tensor(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor (of a DTensor its local one), sharing memory."""
    local = getattr(tensor, "_local_tensor", None)
    return tensor.detach() if local is None else local.detach()
