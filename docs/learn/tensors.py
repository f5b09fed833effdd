"""Tensors: rank, dtype, shape, and the product of matrices.

Everything below is made of these: arrays of one kind of number, some views of the same memory.

    python docs/learn/tensors.py                 # next: logistic_gradient.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from torch import nn

from langwright.model import Linear

MATRIX = torch.tensor([[1, 2, 3], [4, 5, 6]])


def rank_and_type_figures() -> Iterator[Figure]:
    """A scalar, a vector, a matrix, a stack of matrices; whole numbers and others."""
    nested = [1, [1, 2, 3], [[1, 2], [3, 4]], [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]]
    tensors = [torch.tensor(numbers) for numbers in nested]
    yield close("ranks", [tensor.dim() for tensor in tensors], [0, 1, 2, 3])
    types = [torch.tensor([1, 2, 3]).dtype, torch.tensor([1.0, 2.0, 3.0]).dtype]
    yield close("whole numbers, others", [str(t) for t in types], ["torch.int64", "torch.float32"])
    converted = torch.tensor([1, 2, 3]).to(torch.float32)
    yield close(
        "converted", [str(converted.dtype), *converted.tolist()], ["torch.float32", 1.0, 2.0, 3.0]
    )


def shape_figures() -> Iterator[Figure]:
    """Reshaping keeps the order of the numbers; transposing does not."""
    yield close("shape", MATRIX.shape, [2, 3])
    yield close("reshaped to (3, 2)", MATRIX.reshape(3, 2), [[1, 2], [3, 4], [5, 6]])
    yield close("transposed", MATRIX.T, [[1, 4], [2, 5], [3, 6]])
    viewed = MATRIX.view(3, 2)
    yield Figure("a view shares the memory", [viewed.data_ptr() == MATRIX.data_ptr()], [True])
    try:
        MATRIX.T.view(2, 3)
        refused = False
    except RuntimeError:  # its numbers do not lie in that order
        refused = True
    copied = MATRIX.T.reshape(2, 3)
    yield close(
        "view of a transpose is refused, reshape copies",
        [refused, copied.tolist()],
        [True, [[1, 4, 2], [5, 3, 6]]],
    )


def product_figures() -> Iterator[Figure]:
    """Rows times columns, by two names; a linear layer is that with a transpose inside."""
    yield close("times its transpose, matmul", MATRIX.matmul(MATRIX.T), [[14, 32], [32, 77]])
    yield close("times its transpose, @", MATRIX @ MATRIX.T, [[14, 32], [32, 77]])
    # In Langwright: `Linear`, whose weight is stored (out, in), computing in the input's dtype. Its
    # model fills it in (each parameter from the seed and its name): until then it is empty memory.
    layer, x = Linear(3, 2, bias=True), torch.randn(5, 3)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    yield same("langwright.model.Linear", layer(x), x @ layer.weight.T + layer.bias)


def figures() -> Iterator[Figure]:
    """Ranks and types, shapes, products."""
    yield from rank_and_type_figures()
    yield from shape_figures()
    yield from product_figures()


if __name__ == "__main__":
    sys.exit(show(figures()))
