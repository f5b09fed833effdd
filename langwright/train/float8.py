"""Matrix products of the blocks in float8, with torchao.

Weights stay fp32. For each product weight, input and gradient are scaled by their largest value and
rounded to 8 bits: 4 of exponent and 3 of mantissa (e4m3) going forward, 5 and 2 (e5m2) for
gradients (Micikevicius et al. 2022, arXiv:2209.05433). Devices with float8 products do them about
twice as fast as bf16; elsewhere they can be computed, but nothing is gained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from langwright.base import UserError
from langwright.model import Linear
from langwright.train.compiling import blocks_of

MULTIPLE = 16  # float8 products take dimensions that 16 divides
SMALLEST = 128  # below, rounding costs more than the product saves


def use_float8(model: nn.Module, *, smallest: int = SMALLEST, emulate: bool = False) -> int:
    """Let the blocks' linear layers multiply in float8; returns how many do.

    The layers are exchanged for torchao's, with the same parameters under the same names.

    Args:
        model: one with blocks; head and embeddings stay as they are.
        smallest: layers with a smaller side stay as they are.
        emulate: round to float8 and multiply in fp32: for devices without float8 products.

    Raises:
        UserError: torchao is not installed, or no layer fits.
    """
    layer_class, recipe = _torchao(emulate)
    count = 0
    for block in blocks_of(model):
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                if hasattr(layer, "exchanged_for"):  # done before
                    count += 1
                elif isinstance(layer, Linear) and _fits(layer, smallest):
                    setattr(parent, name, _exchanged(layer, layer_class, recipe))
                    count += 1
    if not count:
        raise UserError(
            "no layer of this model can work in float8",
            where="precision",
            expected=f"linear layers in blocks, both sides at least {smallest} and divisible by "
            f"{MULTIPLE}",
            fix="precision = bf16",
        )
    return count


def undo_float8(model: nn.Module) -> None:
    """Give the blocks their own linear layers back, with the parameters as they are now."""
    for block in blocks_of(model):
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                plain = getattr(layer, "exchanged_for", None)
                if plain is None:
                    continue
                plain[0].weight, plain[0].bias = layer.weight, layer.bias
                setattr(parent, name, plain[0])


def fast_float8(device: torch.device) -> bool:
    """Whether the device multiplies float8 faster than bf16."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _fits(layer: Linear, smallest: int) -> bool:
    sides = (layer.in_features, layer.out_features)
    return all(side >= smallest and side % MULTIPLE == 0 for side in sides)


def _exchanged(layer: Linear, layer_class: Any, recipe: Any) -> nn.Module:
    new = layer_class.from_float(layer, config=recipe)
    # In a tuple, so that the old layer is no submodule of the new one.
    new.exchanged_for = (layer,)
    return new


def _torchao(emulate: bool) -> tuple[Any, Any]:
    """torchao's layer and how it works: one scale for each tensor, found anew each time."""
    try:
        from torchao.float8 import Float8LinearConfig
        from torchao.float8.float8_linear import Float8Linear
    except ImportError:
        raise UserError(
            "float8 needs the package torchao", where="precision", fix="pip install torchao"
        ) from None
    return Float8Linear, Float8LinearConfig(emulate=emulate)
