"""An optimizer for the parts of the parameters that this process holds.

AdamW and its like treat every number by itself: they work on the local pieces as they are. Muon
needs whole matrices: each matrix has an owner among the processes that hold its pieces. The owner
gets the whole gradient, makes the update on the whole matrix, with the optimizer's own unchanged
code, and sends the new pieces out. So the work is shared out, and the result is the single
process's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from langwright.optim import OptimizerSet
from langwright.parallel.cuts import Part
from langwright.parallel.init import local_tensor
from langwright.parallel.layout import Layout


class ShardedOptimizer(OptimizerSet):
    """`base`, made for the model's parameters, working on this process's pieces of them.

    Args:
        base: its groups are changed in place.
        parameters: the model's, by name (plain or DTensors).
        parts: which part of each is here.
        layout: of the processes.
    """

    def __init__(
        self,
        base: OptimizerSet,
        parameters: Mapping[str, nn.Parameter],
        parts: Mapping[str, Part],
        layout: Layout,
    ) -> None:
        self.model_parameters, self.parts, self.layout = parameters, parts, layout
        self.pieces: dict[str, Tensor] = {}  # of parameters updated piece by piece
        names: dict[Tensor, str] = {}
        whole: list[str] = []
        for optimizer in base.optimizers:
            by_matrix = getattr(optimizer, "whole_matrices", False)
            for group in optimizer.param_groups:
                members = [base.names[parameter] for parameter in group["params"]]
                group["params"] = []
                for name in members:
                    if by_matrix and parts[name].cuts:
                        whole.append(name)
                        continue
                    piece = nn.Parameter(local_tensor(parameters[name]))
                    names[piece] = name
                    self.pieces[name] = piece
                    if piece.numel():
                        group["params"].append(piece)
                group["whole"] = [name for name in members if name in whole]
        self.owners = Owners(whole, parameters, parts, layout) if whole else None
        for optimizer in base.optimizers:
            for group in optimizer.param_groups:
                for name in group.pop("whole"):
                    if self.owners is not None and name in self.owners.owned:
                        names[self.owners.owned[name]] = name
                        group["params"].append(self.owners.owned[name])
        super().__init__(base.optimizers, names)

    @property
    def owned(self) -> Mapping[str, nn.Parameter]:
        """The whole matrices that this process updates for all, by name."""
        return {} if self.owners is None else self.owners.owned

    def zero_grad(self) -> None:
        """Drop all gradients, the model's and the pieces'."""
        super().zero_grad()
        for parameter in self.model_parameters.values():
            parameter.grad = None

    def step(self, skip: Tensor | None = None) -> None:
        """Update what this process holds; see `OptimizerSet.step`."""
        if skip is not None and self.layout.config.offload:  # pieces and flag on two devices
            if skip.item():
                return
            skip = None
        for name, piece in self.pieces.items():
            piece.data = local_tensor(self.model_parameters[name])  # FSDP may have moved it
            gradient = self.model_parameters[name].grad
            piece.grad = None if gradient is None else local_tensor(gradient)
        if self.owners is not None:
            self.owners.take_gradients(self.model_parameters)
        super().step(skip)
        if self.owners is not None:
            self.owners.give_weights(self.model_parameters)

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take this process's pieces of a whole state; see `OptimizerSet.load_state_dict`."""
        here = {name for group in self.groups for name in map(self.names.get, group["params"])}
        tensors: dict[str, Any] = {}
        for key, value in state["tensors"].items():
            name = key.rpartition("/")[0]
            if name in here:
                cut = name in self.pieces and value.shape == self.parts[name].shape
                tensors[key] = self.parts[name].take(value, self.layout) if cut else value
        scalars = {
            key: value
            for key, value in state["scalars"].items()
            if "/" not in key or key.rpartition("/")[0] in here
        }
        super().load_state_dict({"tensors": tensors, "scalars": scalars})

    def refresh(self) -> None:
        """The model's weights were written from outside: bring the owners' copies up to date."""
        if self.owners is not None:
            self.owners.take_weights(self.model_parameters)


class Owners:
    """Whole matrices, each with one of the processes that share it out (span "copy").

    Args:
        names: of the matrices, alike in order on all processes.
        parameters: the model's.
        parts: which part of each is here.
    """

    def __init__(
        self,
        names: list[str],
        parameters: Mapping[str, nn.Parameter],
        parts: Mapping[str, Part],
        layout: Layout,
    ) -> None:
        self.names = names
        self.device = torch.device(layout.world.device)
        self.group, self.peers = layout.group("copy"), layout.peers("copy")
        self.owner = assign({name: parts[name].shape for name in names}, len(self.peers))
        mine = layout.rank("copy")
        self.owned: dict[str, nn.Parameter] = {
            name: nn.Parameter(torch.zeros(parts[name].shape, device=self.device))
            for name in names
            if self.owner[name] == mine
        }
        self._bounds = {
            name: [parts[name].bounds(layout, rank) for rank in self.peers] for name in names
        }
        self._mine = mine
        self.take_weights(parameters)

    def take_weights(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Fill the owned matrices from everybody's pieces."""
        local = {name: local_tensor(parameters[name]) for name in self.names}
        self._collect(local, {name: p.detach() for name, p in self.owned.items()})

    def take_gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give every owned matrix its whole gradient."""
        local = {}
        for name in self.names:
            weight, gradient = parameters[name], parameters[name].grad
            local[name] = (
                torch.zeros_like(local_tensor(weight))
                if gradient is None
                else local_tensor(gradient)
            )
        for parameter in self.owned.values():
            parameter.grad = torch.empty_like(parameter)
        self._collect(local, {n: p.grad for n, p in self.owned.items() if p.grad is not None})

    @torch.no_grad()
    def give_weights(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Send out the pieces of the owned matrices."""
        places = range(len(self.peers))
        outgoing = [
            [self.owned[name][self._bounds[name][place]] for name in self.owned] for place in places
        ]
        names = [[name for name in self.names if self.owner[name] == place] for place in places]
        shapes = [[_shape(self._bounds[name][self._mine]) for name in some] for some in names]
        for some, tensors in zip(names, self._exchange(outgoing, shapes), strict=True):
            for name, tensor in zip(some, tensors, strict=True):
                local_tensor(parameters[name]).copy_(tensor)

    @torch.no_grad()
    def _collect(self, local: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
        outgoing = [
            [local[name] for name in self.names if self.owner[name] == place]
            for place in range(len(self.peers))
        ]
        shapes = [
            [_shape(self._bounds[name][place]) for name in self.owned]
            for place in range(len(self.peers))
        ]
        for place, tensors in enumerate(self._exchange(outgoing, shapes)):
            for name, tensor in zip(self.owned, tensors, strict=True):
                into[name][self._bounds[name][place]] = tensor

    def _exchange(
        self, outgoing: list[list[Tensor]], shapes: list[list[Any]]
    ) -> list[list[Tensor]]:
        """Send a list of tensors to each peer, get one of tensors of these shapes from each."""
        flat = [t.reshape(-1).float().to(self.device) for some in outgoing for t in some]
        sent = torch.cat([torch.zeros(0, device=self.device), *flat])
        sizes = [[torch.Size(shape).numel() for shape in some] for some in shapes]
        got = torch.empty(sum(map(sum, sizes)), device=self.device)
        dist.all_to_all_single(
            got,
            sent,
            [sum(some) for some in sizes],
            [sum(t.numel() for t in some) for some in outgoing],
            group=self.group,
        )
        pieces = iter(got.split([size for some in sizes for size in some]))
        return [[next(pieces).view(shape) for shape in some] for some in shapes]


def assign(shapes: Mapping[str, tuple[int, ...]], count: int) -> dict[str, int]:
    """An owner for each matrix, so that all own about as many numbers: the largest first, each to
    whom has the least. The work of Muon's products grows with them."""
    load = [0] * count
    owner = {}
    for name in sorted(shapes, key=lambda name: (-torch.Size(shapes[name]).numel(), name)):
        place = load.index(min(load))
        owner[name] = place
        load[place] += torch.Size(shapes[name]).numel()
    return owner


def _shape(bounds: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(bound.stop - bound.start for bound in bounds)
