"""Main memory in place of device memory: for activations, and for the optimizer.

Both change where numbers lie and nothing else. On a CPU run there is nothing to gain: they work
there too, which is how they are tested.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from langwright.dataset import Batch
from langwright.optim import OptimizerSet
from langwright.train.objective import Objective

LEAST_BYTES = 1 << 20  # smaller tensors stay: the copy would cost more than it frees


class ActivationOffload(contextlib.AbstractContextManager["ActivationOffload"]):
    """Inside, what the forward pass keeps for the backward pass goes to main memory.

    On CUDA the copies run on a stream of their own, beside the work, and into page-locked memory;
    the device's memory is free again as soon as a copy is done. With full activation checkpointing
    only the blocks' inputs are left to be moved.
    """

    def __init__(self, device: torch.device, least_bytes: int = LEAST_BYTES) -> None:
        self.device, self.least_bytes = device, least_bytes
        self.moved_bytes = 0  # in all
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._hooks: Any = None

    def __enter__(self) -> ActivationOffload:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Any:
        small = tensor.numel() * tensor.element_size() < self.least_bytes
        # Transposed parameters are views of them: their memory would not become free.
        if small or (tensor._base is not None and isinstance(tensor._base, nn.Parameter)):
            return tensor
        if isinstance(tensor, nn.Parameter) or tensor.device.type != self.device.type:
            return tensor
        self.moved_bytes += tensor.numel() * tensor.element_size()
        if self._stream is None:
            return _Away(tensor.detach().clone(), None)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            host.copy_(tensor.detach(), non_blocking=True)
        tensor.record_stream(self._stream)  # not to be given to others before the copy is done
        return _Away(host, self._stream.record_event())

    def _unpack(self, packed: Any) -> Tensor:
        if not isinstance(packed, _Away):
            return packed
        if packed.copied is None:
            return packed.host
        torch.cuda.current_stream(self.device).wait_event(packed.copied)
        return packed.host.to(self.device, non_blocking=True)


def offloading(objective: Objective, device: torch.device) -> Objective:
    """`objective`, whose activations wait for the backward pass in main memory."""

    def work(model: Any, batch: Batch) -> tuple[Tensor, Tensor | float]:
        with ActivationOffload(device):  # one for each pass: lanes run several at a time
            return objective(model, batch)

    return work


class _Away:
    """A tensor in main memory, and the event after which it is all there."""

    def __init__(self, host: Tensor, copied: Any) -> None:
        self.host, self.copied = host, copied


class HostOptimizer(OptimizerSet):
    """`base` with its weights and moments in main memory.

    After the backward pass gradients go over, the update is made there, and new weights come back:
    the device holds weights and gradients only. Takes `base` over; its state must be empty.
    """

    def __init__(self, base: OptimizerSet) -> None:
        self._on_device: list[Tensor] = base.parameters
        self._pairs: list[tuple[Tensor, Tensor]] = []
        names: dict[Tensor, str] = {}
        for optimizer in base.optimizers:
            if optimizer.state:
                raise ValueError("this optimizer has made steps already")
            for group in optimizer.param_groups:
                hosts: list[Tensor] = []
                for parameter in group["params"]:
                    copy = parameter.detach().to("cpu", copy=True)
                    if parameter.device.type == "cuda":
                        copy = copy.pin_memory()
                    host = nn.Parameter(copy)
                    names[host] = base.names[parameter]
                    self._pairs.append((parameter, host))
                    hosts.append(host)
                group["params"] = hosts
        super().__init__(base.optimizers, names)

    @property
    def parameters(self) -> list[Tensor]:
        """Those of the model, on the device: they have the gradients."""
        return self._on_device

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter, host in self._pairs:
            parameter.grad = host.grad = None

    @torch.no_grad()
    def step(self, skip: Tensor | None = None) -> None:
        """Update the weights; see `OptimizerSet.step`. Waits for the gradients."""
        if skip is not None and skip.item():
            return
        for parameter, host in self._pairs:
            gradient = parameter.grad
            host.grad = None if gradient is None else gradient.to("cpu", non_blocking=True)
        if any(parameter.device.type == "cuda" for parameter, _ in self._pairs):
            torch.cuda.synchronize()
        super().step()
        for parameter, host in self._pairs:
            parameter.copy_(host, non_blocking=True)
            host.grad = None

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore the state, and take over the model's weights, which were restored before."""
        super().load_state_dict(state)
        for parameter, host in self._pairs:
            host.copy_(parameter)
