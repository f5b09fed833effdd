"""The toy network on two processes: each has a copy and its own points, gradients are averaged.

`DistributedDataParallel` sends rank 0's weights to all at the start and averages gradients during
the backward pass, so copies stay equal. Since every rank takes as many points, the average of their
gradients is the gradient of the joint batch: two processes train as one with a batch twice as
large. Five points cannot be shared evenly by two: the sampler repeats one. The book runs this on
GPUs with NCCL and a fixed port; here it is gloo on the CPU, and the processes meet at a file.

    python docs/learn/toy_ddp.py                 # a script: notebooks cannot start the processes
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from figures import Figure, close, same, show
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from toy_network import MLP, TEST, TRAIN, Points, accuracy, seeded_network

WORLD, EPOCHS, BATCH = 2, 3, 2


def sampler(rank: int) -> DistributedSampler:
    """This rank's share of the points: every second one of an order that all ranks know."""
    return DistributedSampler(Points(TRAIN), num_replicas=WORLD, rank=rank, seed=123)


def worker(rank: int, folder: str) -> None:
    """One process: meet the others, train, write down what came out, leave."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD)
    share = sampler(rank)  # in place of the loader's shuffling
    loader = DataLoader(Points(TRAIN), batch_size=BATCH, sampler=share, drop_last=True)
    torch.manual_seed(123 + rank)  # a child does not inherit the seed; rank 0's weights win
    model = DistributedDataParallel(MLP(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for epoch in range(EPOCHS):
        share.set_epoch(epoch)  # else every epoch has the same order
        for features, labels in loader:
            loss = F.cross_entropy(model(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    weights = [parameter.flatten().tolist() for parameter in model.module.parameters()]
    shares = [accuracy(model.module, DataLoader(Points(p), batch_size=2)) for p in (TRAIN, TEST)]
    report = {"losses": losses, "weights": weights, "accuracy": shares}
    Path(folder, f"{rank}.json").write_text(json.dumps(report), encoding="utf-8")
    dist.destroy_process_group()
    os._exit(0)  # DDP keeps gloo's threads past that line: an interpreter that ends may abort


def run() -> list[dict[str, list]]:
    """Start the processes and collect each one's losses, weights and accuracies."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(folder,), nprocs=WORLD)
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(WORLD)]


def joint_run() -> tuple[MLP, list[float]]:
    """One process that takes each update's batches of all ranks together."""
    model, points, losses = seeded_network(2, 2), Points(TRAIN), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(EPOCHS):
        orders = []
        for rank in range(WORLD):
            share = sampler(rank)
            share.set_epoch(epoch)
            orders.append(list(share))
        for first in range(0, len(orders[0]) - BATCH + 1, BATCH):
            rows = [row for order in orders for row in order[first : first + BATCH]]
            loss = F.cross_entropy(model(points.features[rows]), points.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return model, losses


def flat_weights(model: MLP) -> Tensor:
    """All parameters in one row."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def figures() -> Iterator[Figure]:
    """What each rank saw, that the copies are equal, and that they equal one process."""
    rows = [list(sampler(rank)) for rank in range(WORLD)]
    yield close(
        "points per rank, batches of 2", [len(rows[0]), len(rows[1]), 3 // BATCH], [3, 3, 1]
    )
    yield close("together all points, one of them twice", sorted({*rows[0], *rows[1]}), [*range(5)])
    reports = run()
    found = [torch.tensor([x for part in r["weights"] for x in part]) for r in reports]
    yield same("weights of rank 1 and rank 0", found[1], found[0], 0.0)
    joint, losses = joint_run()
    yield same("weights of rank 0 and of one process", found[0], flat_weights(joint))
    means = [sum(pair) / WORLD for pair in zip(*(r["losses"] for r in reports), strict=True)]
    yield close("mean of the ranks' losses, and one process's", means, losses, 1e-6)
    yield close("losses: one for each epoch and rank", [len(r["losses"]) for r in reports], [3, 3])
    yield close("accuracy on train, test", reports[0]["accuracy"], [1.0, 1.0])


if __name__ == "__main__":
    sys.exit(show(figures()))
