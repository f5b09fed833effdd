"""Stored blocks as whole numbers and their factors, for kernels that multiply with them as they
are: nothing is expanded and quantised a second time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from langwright.formats.gguf.architectures import architecture_of
from langwright.formats.gguf.dequantise import LAYOUTS
from langwright.formats.gguf.fields import Fields
from langwright.formats.gguf.kinds import Kind
from langwright.formats.gguf.names import slots
from langwright.formats.gguf.reader import GgufFile
from langwright.model import ModelConfig

WHOLE = ("Q4_0", "Q4_1", "Q8_0")  # kinds of which one scale and one minimum make 32 values


class Blocks(NamedTuple):
    """value = (codes - middle) * scale + zero, a scale and a zero for each 32 columns."""

    codes: Tensor  # (N, K) uint8, or of E experts (E, N, K)
    scale: Tensor  # (..., K / 32) fp32
    zero: Tensor  # (..., K / 32) fp32
    bits: int  # 4 or 8; the middle is 8 or 128


def whole_numbers(data: bytes, kind: Kind, shape: tuple[int, ...]) -> Blocks:
    """The blocks of a matrix (N, K) or of several (E, N, K), of one of the kinds `WHOLE`."""
    blocks = np.frombuffer(data, LAYOUTS[kind.name])
    scale = blocks["d"].astype(np.float32)
    zero = np.zeros_like(scale)
    if kind.name == "Q8_0":
        codes, bits = (blocks["q"].astype(np.int16) + 128).astype(np.uint8), 8
    else:
        codes, bits = np.concatenate((blocks["q"] & 15, blocks["q"] >> 4), axis=1), 4
        if kind.name == "Q4_1":
            zero = blocks["m"].astype(np.float32) + 8 * scale
    parts = [torch.from_numpy(part).view(*shape[:-1], -1) for part in (codes, scale, zero)]
    return Blocks(parts[0], parts[1], parts[2], bits)


def read_blocks(
    file: GgufFile, config: ModelConfig, parameters: Mapping[str, Tensor]
) -> dict[str, Blocks]:
    """The matrices of an open file that are stored in the kinds `WHOLE`, by our names.

    parameters: of the model that the file was loaded as, by name.
    """
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    architecture = architecture_of(Fields(file.metadata, {}, lambda name: [], file.path))
    found = {}
    for slot in slots(architecture, config, list(shapes)):
        info = file.tensors[slot.theirs]
        if info.kind.name not in WHOLE or len(info.shape) < 2:
            continue
        blocks = whole_numbers(file.raw(slot.theirs), info.kind, info.shape)
        # Rows move, columns stay: factors move as the codes do.
        codes, scale, zero = (
            slot.split(one, shapes) for one in (blocks.codes, blocks.scale, blocks.zero)
        )
        for name in slot.ours:
            found[name] = Blocks(
                codes[name].contiguous(),
                scale[name].contiguous(),
                zero[name].contiguous(),
                blocks.bits,
            )
    return found
