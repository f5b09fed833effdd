"""What one device holds of a model: its pipeline stage, its shards.

The model is built on the meta device, where parameters have names and shapes but no memory, so
the counts are those of the real model whatever its config says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from langwright.model import ModelConfig, Transformer
from langwright.optim import parameter_kinds
from langwright.parallel import Layout, stage_layers


@dataclass
class Stage:
    """One pipeline stage: numbers of parameters on one of its devices."""

    number: int
    layers: list[int]
    first: bool  # holds the embedding
    last: bool  # holds the final norm and the head
    kept: dict[str, int] = field(default_factory=dict)  # by kind, the device's own shards
    whole: dict[str, int] = field(default_factory=dict)  # by unit, before FSDP shares them out
    matrices: list[tuple[int, ...]] = field(default_factory=list)  # of its blocks, not cut at all
    experts: int = 0  # of those in experts, if processes hold different ones: fewer share them out

    @property
    def parameters(self) -> int:
        """Parameters that this device keeps, updates and has optimizer state for."""
        return sum(self.kept.values())

    @property
    def gathered(self) -> int:
        """Parameters of the stage on one tensor-parallel rank: what FSDP gathers in all."""
        return sum(self.whole.values())

    @property
    def outside(self) -> int:
        """Parameters outside of the blocks: they are gathered together, and stay."""
        return sum(size for unit, size in self.whole.items() if not unit.startswith("blocks."))

    @property
    def largest_block(self) -> int:
        """Parameters of the largest block: each is gathered when it runs."""
        blocks = (size for unit, size in self.whole.items() if unit.startswith("blocks."))
        return max(blocks, default=0)


def stages(config: ModelConfig, layout: Layout) -> list[Stage]:
    """The pipeline's stages (one without a pipeline), each as its fullest device has it."""
    count = layout.pp
    layers = layers_of_processes(config, layout)
    result = [Stage(i, layers[i], first=i == 0, last=i == count - 1) for i in range(count)]
    for unit, kind, shape, is_expert in _parameters(config):
        for stage in result:
            if _belongs(unit, stage, config.tied):
                size = _tensor_share(unit, kind, shape, is_expert, layout)
                stage.whole[unit] = stage.whole.get(unit, 0) + size
                stage.experts += size if is_expert and layout.config.ep > 1 else 0
                stage.kept[kind] = stage.kept.get(kind, 0) + _data_share(size, is_expert, layout)
                if kind == "matrix":
                    stage.matrices.append(shape)
    return result


def layers_of_processes(config: ModelConfig, layout: Layout) -> list[list[int]]:
    """The blocks on each process of a pipeline; interleaved, each has several runs of them."""
    if layout.pp == 1:
        return [list(range(config.layers))]
    runs = stage_layers(config, layout.pp * chunks(layout))
    return [sorted(itertools.chain(*runs[i :: layout.pp])) for i in range(layout.pp)]


def chunks(layout: Layout) -> int:
    """Stages on each process of a pipeline."""
    return layout.config.pipeline_chunks if layout.config.schedule == "interleaved" else 1


def _parameters(config: ModelConfig) -> Iterator[tuple[str, str, tuple[int, ...], bool]]:
    """(unit, kind, shape, whether an expert's) of every trained parameter. A unit is what FSDP
    gathers at once: ``blocks.3``, or ``tokens``, ``norm`` ... outside of the blocks."""
    with torch.device("meta"):
        model = Transformer(config)
    kinds = parameter_kinds(model)
    for name, parameter in model.named_parameters():
        if name not in kinds:
            continue
        parts = name.split(".")
        unit = ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]
        is_expert = ".feedforward." in name and parameter.dim() == 3
        yield unit, kinds[name], tuple(parameter.shape), is_expert


def _belongs(unit: str, stage: Stage, tied: bool) -> bool:
    if unit.startswith("blocks."):
        return int(unit.split(".")[1]) in stage.layers
    if unit in ("tokens", "positions", "embedding_norm"):
        return stage.first or (tied and unit == "tokens" and stage.last)
    return stage.last


def _tensor_share(
    unit: str, kind: str, shape: tuple[int, ...], is_expert: bool, layout: Layout
) -> int:
    """Values of a parameter on one device before FSDP: cut by tensor and expert parallelism."""
    size = math.prod(shape)
    if is_expert and layout.config.ep > 1:
        return -(-size // layout.config.ep)
    if layout.tp == 1 or kind == "scalar":
        return size
    if unit.startswith("blocks.") or layout.config.loss_parallel:
        return -(-size // layout.tp)
    return size


def _data_share(size: int, is_expert: bool, layout: Layout) -> int:
    """Of those, the part that one device keeps under FSDP."""
    sharers = layout.size("fsdp")
    if is_expert:
        sharers //= layout.config.ep
    return -(-size // sharers)
