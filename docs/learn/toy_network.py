"""A small network from data to accuracy: module, data set, loader, training, device.

Two hidden layers tell five points of two classes apart. The network returns logits: the loss wants
them, and softmax makes probabilities of them where a person looks. To train on another device three
lines change: choose the device, move the model there, move each batch there.

    python docs/learn/toy_network.py             # next: toy_ddp.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import FOUR, Figure, close, same, show
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from langwright.model import cross_entropy_reference
from langwright.optim import OptimConfig, build_optimizer

TRAIN = [[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]], [0, 0, 0, 1, 1]
TEST = [[-0.8, 2.8], [2.6, -1.6]], [0, 1]


class MLP(nn.Module):
    """(B, inputs) -> logits (B, outputs), through 30 and 20 hidden units."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Points(Dataset[tuple[Tensor, Tensor]]):
    """What a loader asks of a data set: a length, and an item by its number."""

    def __init__(self, points: tuple[list[list[float]], list[int]]) -> None:
        self.features, self.labels = torch.tensor(points[0]), torch.tensor(points[1])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.labels[index]


def seeded_network(inputs: int, outputs: int) -> MLP:
    """The network from seed 123."""
    torch.manual_seed(123)
    return MLP(inputs, outputs)


def train(device: str = "cpu", epochs: int = 3, library: bool = False) -> tuple[MLP, list[float]]:
    """SGD with rate 0.5 on batches of 2; the fifth point of each epoch is dropped.

    Returns the network and the loss of every batch. `library`: with Langwright's loss and
    optimizer.
    """
    torch.manual_seed(123)
    loader = DataLoader(Points(TRAIN), batch_size=2, shuffle=True, drop_last=True)
    model = seeded_network(2, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    own = build_optimizer(model, OptimConfig(name="sgd", lr=0.5, weight_decay=0.0))
    loss_of = cross_entropy_reference if library else F.cross_entropy
    losses = []
    for _ in range(epochs):
        model.train()
        for features, labels in loader:
            features, labels = features.to(device), labels.to(device)
            loss = loss_of(model(features), labels)
            optimizer.zero_grad()  # or gradients pile up
            loss.backward()
            (own if library else optimizer).step()
            losses.append(loss.item())
    return model.eval(), losses


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    """Share of the loader's examples whose largest logit is that of their class."""
    right, seen = 0, 0
    for features, labels in loader:
        right += int((model(features).argmax(dim=1) == labels).sum())
        seen += len(labels)
    return right / seen


def module_figures() -> Iterator[Figure]:
    """The network with 50 inputs and 3 classes: its size, its start, its output."""
    model = seeded_network(50, 3)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    yield close(
        "parameters, shape of the first weight",
        [count, *model.layers[0].weight.shape],
        [2213, 30, 50],
    )
    first = model.layers[0].weight[0, :3]
    yield close("first weights", first, [-0.0577, 0.0047, -0.0702], FOUR)
    torch.manual_seed(123)
    with torch.no_grad():
        logits = model(torch.rand(1, 50))
    yield close("logits", logits, [-0.1262, 0.1080, -0.1792], FOUR)
    yield close("probabilities", logits.softmax(dim=1), [0.3113, 0.3934, 0.2952], FOUR)
    count = sum(p.numel() for p in MLP(2, 2).parameters())
    yield close("parameters with 2 inputs and 2 classes", count, 752)


def loader_figures() -> Iterator[Figure]:
    """Every example once an epoch, in another order each time; the order depends on the seed."""
    torch.manual_seed(123)
    loader = DataLoader(Points(TRAIN), batch_size=2, shuffle=True)
    epochs = [[round(x, 1) for f, _ in loader for x in f[:, 0].tolist()] for _ in range(2)]
    all_points = sorted(x for x, _ in TRAIN[0])
    yield close("both epochs hold all points", [sorted(e) for e in epochs], [all_points] * 2)
    yield Figure("in another order", [epochs[0] != epochs[1]], [True])
    dropped = DataLoader(Points(TRAIN), batch_size=2, drop_last=True)
    yield close("batches, and with drop_last", [len(loader), len(dropped)], [3, 2])


def training_figures() -> Iterator[Figure]:
    """Three epochs: losses, logits, probabilities, accuracy."""
    model, losses = train()
    yield close("losses", losses, [0.75, 0.65, 0.44, 0.13, 0.03, 0.00], 0.0051)
    with torch.no_grad():
        logits = model(torch.tensor(TRAIN[0]))
    printed = [[2.8569, -4.1618], [2.5382, -3.7548], [2.0944, -3.1820]]
    printed += [[-1.4814, 1.4816], [-1.7176, 1.7342]]
    yield close("logits", logits, printed, FOUR)
    found = logits.softmax(dim=1)[:, 0]
    yield close("probability of class 0", found, [0.9991, 0.9982, 0.9949, 0.0491, 0.0307], FOUR)
    found = [accuracy(model, DataLoader(Points(points), batch_size=2)) for points in (TRAIN, TEST)]
    yield close("accuracy on train, test", found, [1.0, 1.0])
    try:
        model.to("cpu")(torch.ones(1, 2, device="meta"))
        refused = False
    except RuntimeError:
        refused = True
    yield Figure("model and batch on two devices: an error", [refused], [True])

    # In Langwright: its loss and its optimizer; `Trainer` is this loop with what long runs need.
    ours, our_losses = train(library=True)
    yield close("langwright.optim and langwright.model: losses", our_losses, losses, 1e-6)
    yield same("the weights", ours.layers[0].weight, model.layers[0].weight)


def figures() -> Iterator[Figure]:
    """The module, the loader, the training."""
    yield from module_figures()
    yield from loader_figures()
    yield from training_figures()


if __name__ == "__main__":
    sys.exit(show(figures()))
