"""Mixtures of experts in transformers' words and in ours."""

from __future__ import annotations

from langwright.base import UserError
from langwright.formats.families.common import Fields, Table
from langwright.formats.families.reach import shortest_period
from langwright.model import ModelConfig

# Our stacked parameters -> the tensor of one expert, as most families call it.
STACKED = {
    f"feedforward.{part}": f"mlp.experts.{{expert}}.{part}_proj.weight"
    for part in ("gate", "up", "down")
}


class RouterLossFields(Fields):
    """The loss that balances experts; the reference adds it only where router logits are asked
    for."""

    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001

    @property
    def balance_loss(self) -> float:
        """The weight of the loss, 0 where it is not used."""
        return self.router_aux_loss_coef if self.output_router_logits else 0.0


def write_router_loss(config: ModelConfig) -> Table:
    """The balance loss in their words."""
    weight = config.experts.balance_loss if config.experts else 0.0
    if not weight:
        return {"output_router_logits": False}
    return {"output_router_logits": True, "router_aux_loss_coef": weight}


def read_sparse_layers(
    layers: int, step: int, dense: list[int] | None, where: object
) -> tuple[bool, ...] | None:
    """Qwen's rule: every `step`-th layer has experts, but for the layers in `dense`."""
    if step < 1:
        raise UserError("not an interval of layers", where=where, found=step, expected="1 or more")
    dense = dense or []
    sparse = [layer not in dense and (layer + 1) % step == 0 for layer in range(min(layers, 1024))]
    return None if all(sparse) else shortest_period(sparse)


def write_sparse_layers(config: ModelConfig) -> Table:
    """The layers with experts in Qwen's words."""
    dense = [layer for layer in range(config.layers) if not config.has_experts(layer)]
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


def expert_width(config: ModelConfig) -> int:
    """Width inside one expert."""
    return (config.experts and config.experts.hidden_width) or config.hidden_size
