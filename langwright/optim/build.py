"""The optimizers of a model behind one object, with a state that is keyed by parameter name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from langwright.base import UserError, machine
from langwright.optim.config import OptimConfig
from langwright.optim.galore import GaLore
from langwright.optim.groups import KINDS, Kind, parameter_kinds
from langwright.optim.muon import Muon
from langwright.optim.pace import decay_share, momentum_plan
from langwright.optim.references import AdamL2, AdamWReference

# Entry of an optimizer's per-parameter state: "<parameter>/<entry>". Names hold no "/".
SEPARATOR = "/"


class OptimizerSet:
    """One or more torch optimizers that share a model's parameters between them.

    The learning rate of every group is its peak rate times the multiplier of `set_lr`.
    """

    def __init__(self, optimizers: list[Optimizer], names: Mapping[Tensor, str]) -> None:
        self.optimizers = optimizers
        self.names = names
        self.multiplier = 1.0

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All parameter groups, with ``params``, ``lr``, ``peak_lr``, ``kind``..."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters that are trained."""
        return [parameter for group in self.groups for parameter in group["params"]]

    def set_lr(self, multiplier: float) -> None:
        """Set every group's rate to `multiplier` times its peak."""
        self.multiplier = multiplier
        for group in self.groups:
            group["lr"] = group["peak_lr"] * multiplier

    def set_pace(self, step: int, share: float, multiplier: float, fallen: float) -> None:
        """Set rate, weight decay and momentum of the next update.

        Args:
            step: updates made before it.
            share: of the run that is done, 0 to 1.
            multiplier: of the rates.
            fallen: share of the rates' final fall that is done, 0 to 1.
        """
        self.set_lr(multiplier)
        for group in self.groups:
            kind = group.get("decay_schedule", "constant")
            if kind != "constant":
                group["weight_decay"] = group["peak_decay"] * decay_share(kind, share, multiplier)
            if (plan := group.get("momentum_plan")) is not None:
                group["momentum"] = plan.at(step, fallen)

    def zero_grad(self) -> None:
        """Drop all gradients (else the next backward pass adds to them)."""
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def can_skip(self) -> bool:
        """Whether `step` can be told by a device tensor to change nothing, without waiting."""
        return all(_skips(optimizer) for optimizer in self.optimizers)

    def step(self, skip: Tensor | None = None) -> None:
        """Update the weights.

        Args:
            skip: 0-d fp32 tensor, 1.0 if weights and state must stay as they are (a gradient was
                not finite), else 0.0. Where the optimizers can, it is read on the device.
        """
        if skip is not None and not self.can_skip:
            if skip.item():
                return
            skip = None
        for optimizer in self.optimizers:
            if _skips(optimizer):
                optimizer.grad_scale = None  # type: ignore[attr-defined]
                optimizer.found_inf = skip  # type: ignore[attr-defined]
            optimizer.step()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The whole state: ``{"tensors": {"<parameter>/<entry>": tensor}, "scalars": {...}}``.

        Tensors are the live ones, not copies (safetensors can write them); scalars are plain JSON.
        """
        tensors: dict[str, Tensor] = {}
        scalars: dict[str, Any] = {"multiplier": self.multiplier}
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                for entry, value in state.items():
                    key = self.names[parameter] + SEPARATOR + entry
                    if isinstance(value, Tensor):
                        tensors[key] = value
                    else:
                        scalars[key] = value
        return {"tensors": tensors, "scalars": scalars}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state_dict` gave, bit by bit; earlier state is dropped.

        Raises:
            UserError: the state belongs to other parameters or shapes.
        """
        homes = {
            self.names[parameter]: (optimizer, parameter, group)
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self.clear_state()
        for key, value in {**state["tensors"], **state["scalars"]}.items():
            if key == "multiplier":
                continue
            name, _, entry = key.rpartition(SEPARATOR)
            if name not in homes:
                raise UserError(
                    "the optimizer's state names a parameter the model lacks", found=key
                )
            optimizer, parameter, group = homes[name]
            shape = _state_shape(optimizer, parameter, entry, group)
            optimizer.state[parameter][entry] = _placed(optimizer, parameter, shape, key, value)
        self.set_lr(state["scalars"]["multiplier"])

    def clear_state(self) -> None:
        """Forget moments and step counts, as if no step had been made."""
        for optimizer in self.optimizers:
            optimizer.state.clear()


def build_optimizer(model: nn.Module, config: OptimConfig) -> OptimizerSet:
    """The optimizer of a model's trainable parameters.

    Raises:
        UserError: nothing is trainable.
    """
    kinds = parameter_kinds(model)
    parameters = dict(model.named_parameters())
    if not kinds:
        raise UserError("the model has no trainable parameter")
    groups: dict[Kind, list[Tensor]] = {kind: [] for kind in KINDS}
    for name, kind in kinds.items():
        groups[kind].append(parameters[name])
    tables = [
        {
            "params": members,
            "lr": config.rate(kind),
            "peak_lr": config.rate(kind),
            "weight_decay": config.decay(kind),
            "peak_decay": config.decay(kind),
            "decay_schedule": config.weight_decay_schedule,
            "kind": kind,
        }
        for kind, members in groups.items()
        if members
    ]
    names: dict[Tensor, str] = {parameters[name]: name for name in kinds}
    return OptimizerSet(_make(config, tables), names)


def _make(config: OptimConfig, tables: list[dict[str, Any]]) -> list[Optimizer]:
    adam: dict[str, Any] = {"betas": config.betas, "eps": config.eps}
    if config.name != "sgd":
        for table in tables:
            table["betas"] = config.betas_of(table["kind"])
    if config.name == "adamw_reference":
        return [AdamWReference(tables, **adam)]
    if config.name == "adam_l2":
        return [AdamL2(tables, **adam)]
    if config.name == "sgd":
        momentum = config.momentum or 0.0
        _plan_momentum(config, tables, momentum)
        nesterov = config.nesterov and momentum > 0
        return [SGD(tables, momentum=momentum, nesterov=nesterov, fused=_can_fuse(tables))]
    if config.name == "adamw":
        return [_adamw(tables, adam)]
    matrices = [table for table in tables if table["kind"] == "matrix"]
    others = [table for table in tables if table["kind"] != "matrix"]
    if not matrices:
        raise UserError(
            f"{config.name} needs matrices inside blocks, and the model has none",
            fix='use name = "adamw"',
        )
    main = _galore(config, matrices) if config.name == "galore" else _muon(config, matrices)
    return [main, _adamw(others, adam)] if others else [main]


def _galore(config: OptimConfig, tables: list[dict[str, Any]]) -> Optimizer:
    return GaLore(
        tables,
        eps=config.eps,
        rank=config.galore_rank,
        update_every=config.galore_every,
        scale=config.galore_scale,
    )


def _muon(config: OptimConfig, tables: list[dict[str, Any]]) -> Optimizer:
    momentum = 0.95 if config.momentum is None else config.momentum
    _plan_momentum(config, tables, momentum)
    return Muon(
        tables,
        momentum=momentum,
        nesterov=config.nesterov,
        steps=config.orthogonal_steps,
        method=config.orthogonal_method,
        scale=config.muon_scale,
        cautious_decay=config.cautious_decay,
        equal_rows=config.equal_rows,
        neuron_beta=config.neuron_beta if config.neuron_scaling else None,
        dtype=_product_dtype(tables[0]["params"][0].device),
    )


def _plan_momentum(config: OptimConfig, tables: list[dict[str, Any]], peak: float) -> None:
    plan = momentum_plan(config, peak)
    for table in tables:
        table["momentum_plan"] = plan


def _product_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it fast: an update's direction need not be exact."""
    fast = machine().bf16 if device.type == machine().device else device.type == "cuda"
    return torch.bfloat16 if fast else torch.float32


def _adamw(tables: list[dict[str, Any]], adam: dict[str, Any]) -> Optimizer:
    """The library's AdamW: one fused kernel where the device has it, else one call per list."""
    fused = _can_fuse(tables)
    return AdamW(tables, fused=fused, foreach=not fused, **adam)


def _can_fuse(tables: list[dict[str, Any]]) -> bool:
    devices = {parameter.device.type for table in tables for parameter in table["params"]}
    return devices <= {"cpu", "cuda"}


def _skips(optimizer: Optimizer) -> bool:
    fused = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
    return isinstance(optimizer, Muon) or fused


def _state_shape(
    optimizer: Optimizer, parameter: Tensor, entry: str, group: dict[str, Any]
) -> tuple[int, ...]:
    """The shape that an entry of the state must have: the parameter's, unless it says otherwise."""
    own = getattr(optimizer, "state_shape", None)
    return tuple(parameter.shape) if own is None else own(parameter, entry, group)


def _placed(
    optimizer: Optimizer, parameter: Tensor, shape: tuple[int, ...], key: str, value: Any
) -> Any:
    """A restored entry on the device where the optimizer expects it, as its own memory."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim and tuple(value.shape) != shape:
        raise UserError(
            "the optimizer's state has another shape than expected",
            where=key,
            found=tuple(value.shape),
            expected=shape,
        )
    on_host = value.ndim == 0 and not optimizer.defaults.get("fused")
    device = torch.device("cpu") if on_host else parameter.device
    return value.detach().to(device=device, copy=True)
