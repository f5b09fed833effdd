"""The smallest trained thing: one weight, one bias, one example; and its gradients three ways.

z = w x + b, a = sigmoid(z), loss = -(y log a + (1 - y) log(1 - a)). By hand dL/dw = (a - y) x and
dL/db = a - y. torch records the graph of the computation and walks it backwards: `grad` returns
gradients, `backward` leaves them in `.grad`, where they pile up until they are cleared.

    python docs/learn/logistic_gradient.py       # next: toy_network.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import FOUR, Figure, close, same, show
from torch import Tensor
from torch.nn import functional as F

from langwright.model import cross_entropy_reference

X, Y = torch.tensor([1.1]), torch.tensor([1.0])


def parameters() -> tuple[Tensor, Tensor]:
    """w = 2.2 and b = 0, recorded by torch."""
    return torch.tensor([2.2], requires_grad=True), torch.tensor([0.0], requires_grad=True)


def loss_of(z: Tensor) -> Tensor:
    """Binary cross entropy of sigmoid(z), in nats."""
    a = torch.sigmoid(z)
    return -(Y * a.log() + (1 - Y) * (1 - a).log()).mean()


def figures() -> Iterator[Figure]:
    """The numbers forward, the gradients three ways, and Langwright's cross entropy."""
    w, b = parameters()
    z = w * X + b
    a = torch.sigmoid(z)
    loss = F.binary_cross_entropy(a, Y)
    yield close("z, a, loss", [z.item(), a.item(), loss.item()], [2.42, 0.9183, 0.0852], FOUR)
    yield same("the loss written out", loss_of(z), loss)

    printed = [-0.0898, -0.0817]
    yield close(
        "dw, db by grad()", torch.autograd.grad(loss, (w, b), retain_graph=True), printed, FOUR
    )
    yield close("by hand", [((a - Y) * X).item(), (a - Y).item()], printed, FOUR)
    loss.backward(retain_graph=True)
    yield close("by backward()", [w.grad, b.grad], printed, FOUR)
    loss.backward()
    yield close("backward() again: they pile up", [w.grad / 2, b.grad / 2], printed, FOUR)

    # In Langwright: the loss over V tokens. Two classes with logits 0 and z are this example.
    logits = torch.stack((torch.zeros(1), w * X + b), dim=-1)  # (1, 2)
    found = cross_entropy_reference(logits, torch.tensor([1]))
    yield same("langwright.model.cross_entropy_reference", found, loss)
    yield close("and its gradients", torch.autograd.grad(found, (w, b)), printed, FOUR)


if __name__ == "__main__":
    sys.exit(show(figures()))
