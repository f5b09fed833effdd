"""How ggml stores numbers: the kinds of tensors, and how many bytes each takes.

A quantised kind stores a row in blocks of 32 or 256 values that share a scale. The layouts are
those of ggml's ``ggml-common.h``; the numbers of the kinds are ggml's ``enum ggml_type``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One way to store numbers: `block` values take `size` bytes."""

    name: str
    code: int
    block: int
    size: int

    def nbytes(self, values: int) -> int:
        """Bytes of `values` numbers, which must be whole blocks."""
        return values // self.block * self.size


# The kinds we read; those of `WRITTEN` we also write.
KINDS = (
    Kind("F32", 0, 1, 4),
    Kind("F16", 1, 1, 2),
    Kind("Q4_0", 2, 32, 18),
    Kind("Q4_1", 3, 32, 20),
    Kind("Q5_0", 6, 32, 22),
    Kind("Q5_1", 7, 32, 24),
    Kind("Q8_0", 8, 32, 34),
    Kind("Q4_K", 12, 256, 144),
    Kind("Q5_K", 13, 256, 176),
    Kind("Q6_K", 14, 256, 210),
    Kind("BF16", 30, 1, 2),
)
BY_NAME = {kind.name: kind for kind in KINDS}
BY_CODE = {kind.code: kind for kind in KINDS}
WRITTEN = ("F32", "F16", "BF16", "Q8_0", "Q4_0")

# Kinds that exist and that we do not read, for the message that says so.
OTHER_NAMES = {
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}

# ``general.file_type`` of a file whose large tensors are of a kind (llama.cpp's enum llama_ftype).
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}
